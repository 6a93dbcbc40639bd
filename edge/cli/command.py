"""Ask a device to do something: command."""

from __future__ import annotations

import getpass

import click
import msgspec

from edge.cli.options import with_broker
from edge.errors import ConfigurationInvalid
from edge.remote.client import (
    REQUEST_LIFETIME_S,
    CommandRefused,
    new_request,
    send_request,
)
from edge.schema.requests import COMMANDS, CommandName
from edge.schema.results import Name
from edge.settings.delivery import BrokerSettings


@click.command("command")
@click.argument("name", type=click.Choice(COMMANDS))
@click.option("--device", required=True, help="Name of the device.")
@click.option("--text", help="What to note.")
@click.option("--slide", help="Of a start: the slide's number; no patient data.")
@click.option("--operator", help="Of a start: a short code such as op7; no full name.")
@click.option("--note", help="Of a start: a line that is kept with the run.")
@click.option("--by", help="Who asks; the user's name if left out.")
@with_broker
@click.option(
    "--lives",
    default=REQUEST_LIFETIME_S,
    show_default=True,
    type=click.FloatRange(1, 3600),
    help="May be begun for so many seconds.",
)
@click.option(
    "--timeout",
    default=60.0,
    show_default=True,
    type=click.FloatRange(0.1, 3600),
    help="Wait for so many seconds.",
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
    start      begin a run of a slide, and examine
    pause      examine nothing until told to resume; the run stays open
    resume     examine again, in the same run
    stop       end the run, and examine nothing until told to start
    note       write a note to the run
    snapshot   keep the next frame as a picture
    self-test  prove the models again

    Ends with 0 if it was done, 1 if it was refused or failed, 75 if nobody knows.
    """
    if (name == "note") != (text is not None):
        raise click.UsageError("--text goes with note: give both or neither")
    fields = {key: value for key, value in of_start.items() if value is not None}
    if fields and name != "start":
        raise click.UsageError(f"--{next(iter(fields))} goes with start")
    try:
        msgspec.convert(device, Name)
    except msgspec.ValidationError as error:
        raise ConfigurationInvalid(
            f"--device {device!r}: {error}; expected a-z, 0-9 and -, at most 32"
        ) from error
    request = new_request(name, by or _user(), text, lives, **fields)
    for answer in send_request(broker, device, name, request, timeout_s=timeout):
        line = f"{answer.outcome}: {answer.text} (row {answer.row} of {device})"
        if answer.outcome in ("refused", "failed"):
            raise CommandRefused(line)
        click.echo(line)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError) as error:  # a container without such a user
        raise ConfigurationInvalid("nobody knows the user's name; say --by") from error
