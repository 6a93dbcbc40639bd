"""The run process of a device: run."""

from __future__ import annotations

from pathlib import Path

import click

from edge.cli.options import CHECK, CONFIG
from edge.cli.signals import StopEvent, service_notifier, until_signalled
from edge.schema.codec import read_toml
from edge.settings.files import DeviceFile


@click.command("run")
@CONFIG
@CHECK
@click.option("--frames", type=click.IntRange(1), help="End after so many frames.")
@click.option("--slide", help="The slide's number, such as S26-00123; no patient data.")
@click.option("--operator", help="Your short code, such as op7; no full name.")
@click.option("--note", default="", help="A line that is kept with the run.")
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
    from edge.run.composition import open_service, prepare_run
    from edge.run.run_controller import RunRequest

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
