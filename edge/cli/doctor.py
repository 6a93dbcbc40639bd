"""Say what is wrong with a device: doctor."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec
from rich.console import Console

from edge.doctor.registry import CHECKS
from edge.doctor.report import table_of
from edge.doctor.runner import examine_device

_WIDTH = 100  # where nobody tells: a pipe, a file


@click.command("doctor")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Settings file of the device; that of the units if left out.",
)
@click.option(
    "--only", multiple=True, type=click.Choice(list(CHECKS)), help="Only this check."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def doctor_command(config: Path | None, only: tuple[str, ...], as_json: bool) -> None:
    """Say what is wrong with a device, and the one thing to do about it.

    Safe while the device works. Ends with 1 if something is broken, else with 0.
    """
    with Console(stderr=True).status("examining the device"):
        report = examine_device(config, only)
    if as_json:
        sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
    else:
        console = Console()
        console = Console(width=console.width if console.is_terminal else _WIDTH)
        console.print(table_of(report.findings))
    if report.status == "fault":
        sys.exit(1)
