"""The run process of a device: run."""

from __future__ import annotations

from pathlib import Path

import click

from edge.cli.groups import Section, in_section
from edge.cli.options import CHECK, CONFIG


@in_section(Section.DEVICE)
@click.command("run")
@CONFIG
@CHECK
@click.option(
    "--frames",
    type=click.IntRange(1),
    help="End after so many frames. Without it, run until told to end.",
)
@click.option(
    "--slide",
    help="Number of the slide, such as S26-00123. Never a patient's name.",
)
@click.option(
    "--operator", help="Short code of the operator, such as op7. No full name."
)
@click.option("--note", default="", help="A line of text that is kept with the run.")
def run_command(
    config: Path,
    check: bool,
    frames: int | None,
    slide: str | None,
    operator: str | None,
    note: str,
) -> None:
    """Examine frames, count cells, and write every result to the ledger."""
    # imported here: who only publishes or archives loads no engine
    from edge.cli.signals import StopEvent, service_notifier, until_signalled
    from edge.run.composition import open_service, prepare_run
    from edge.run.run_controller import RunRequest
    from edge.schema.codec import read_toml
    from edge.settings.files import DeviceFile

    settings = read_toml(config, DeviceFile)
    prepared = prepare_run(settings, RunRequest(slide, operator, note))
    if check:
        click.echo(f"{config}: good; model {prepared.parts.classifier.id}")
        return
    notifier, stop = service_notifier(), StopEvent()
    with (
        open_service(
            prepared, notifier, is_left_open=lambda: not stop.is_by_hand
        ) as service,
        until_signalled(stop),
    ):
        service.run(stop, frames=frames)
        notifier.stopping()
