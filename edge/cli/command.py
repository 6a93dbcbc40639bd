"""Ask a device to do something: command."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edge.cli.groups import Section, in_section
from edge.cli.options import ChoiceOf, with_broker
from edge.errors import ConfigurationInvalid

if TYPE_CHECKING:
    from edge.schema.requests import CommandName
    from edge.settings.delivery import BrokerSettings


@in_section(Section.DEVICE)
@click.command("command")
@click.argument("name", type=ChoiceOf("edge.schema.requests:COMMANDS"))
@click.option("--device", required=True, help="Name of the device, as in its settings.")
@click.option("--text", help="With `note`: the text of the note.")
@click.option(
    "--slide", help="With `start`: the number of the slide. Never a patient's name."
)
@click.option(
    "--operator",
    help="With `start`: a short code of the operator such as op7. No full name.",
)
@click.option("--note", help="With `start`: a line of text that is kept with the run.")
@click.option("--by", help="Who asks. Without it, the name of your user account.")
@with_broker
@click.option(
    "--lives",
    default=30.0,
    type=click.FloatRange(1, 3600),
    help="For so many seconds the device may begin to do it; later it refuses.",
)
@click.option(
    "--timeout",
    default=60.0,
    type=click.FloatRange(0.1, 3600),
    help="Wait so many seconds for the answer.",
)
def command_command(
    name: CommandName,
    device: str,
    text: str | None,
    by: str | None,
    lives: float,
    timeout: float,
    broker: BrokerSettings,
    **of_start: str | None,
) -> None:
    r"""Ask a device to do something.

    \b
    start      begin a run of a slide, and examine frames
    pause      examine no frames until `resume`; the run stays open
    resume     examine frames again, in the same run
    stop       end the run, and examine no frames until `start`
    note       write a note to the run
    snapshot   keep the next frame as a picture
    self-test  check again that the models compute what they should

    The device does only what [commands] in its settings allows. The exit code is 0 if
    it was done, 1 if it was refused or failed, 75 if no answer came.
    """
    import msgspec

    from edge.remote.client import CommandRefused, new_request, send_request
    from edge.schema.results import Name

    if (name == "note") != (text is not None):
        raise click.UsageError(
            "--text is the text of `note`, expected both or neither of them"
        )
    fields = {key: value for key, value in of_start.items() if value is not None}
    if fields and name != "start":
        raise click.UsageError(
            f"--{next(iter(fields))} is for `start` alone; leave it out with `{name}`"
        )
    try:
        msgspec.convert(device, Name)
    except msgspec.ValidationError as error:
        raise ConfigurationInvalid(
            f"--device is {device!r}, expected at most 32 of a-z, 0-9 and -; "
            "see `device` in the settings of the device"
        ) from error
    request = new_request(name, by or _user(), text, lives, **fields)
    for answer in send_request(broker, device, name, request, timeout_s=timeout):
        line = f"{answer.outcome}: {answer.text} (row {answer.row} of {device})"
        if answer.outcome in ("refused", "failed"):
            raise CommandRefused(line)
        click.echo(line)


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError) as error:  # a container without such a user
        raise ConfigurationInvalid(
            "your user account has no name; say with --by who asks"
        ) from error
