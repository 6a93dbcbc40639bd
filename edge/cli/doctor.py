"""Find out what is wrong with a device: doctor."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from edge.cli.groups import Section, in_section
from edge.cli.options import ChoiceOf

_WIDTH = 100  # of the table, where the output is no terminal but a pipe or a file


@in_section(Section.MAINTENANCE)
@click.command("doctor")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Settings file of the device. Without it, the one that the systemd units use.",
)
@click.option(
    "--only",
    multiple=True,
    type=ChoiceOf("edge.doctor.registry:CHECKS"),
    help="Make only this check. May be given several times.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def doctor_command(config: Path | None, only: tuple[str, ...], as_json: bool) -> None:
    """Check a device, and say for each fault what to do about it.

    Safe while the device is running. The exit code is 1 if there is a fault, else 0.
    """
    import msgspec
    from rich.console import Console

    from edge.doctor.report import table_of
    from edge.doctor.runner import examine_device

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
