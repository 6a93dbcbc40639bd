"""The demonstration: everything on one machine."""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Literal

import click
import msgspec
from rich.console import Console

from edge.archive.run_history import list_runs, read_run_history
from edge.archive.run_report import write_run_page
from edge.archive.store import Store
from edge.cli.signals import until_signalled
from edge.dashboard.display import show_live
from edge.demo.launcher import ARCHIVE, run_demo
from edge.settings.sources import SimulatedSettings

_MOVING = SimulatedSettings(slide_frames=3.0, is_endless=False)


_CHANGING = SimulatedSettings(  # what takes hours happens in minutes here
    width_px=1280,
    height_px=960,
    pixel_size_um=0.1,
    rate_hz=5.0,
    drift_um_per_s=0.02,
    hand_move_every_s=0,
    changing=0.6,
    changing_within_h=0.1,
    change_takes_s=15.0,
)


@click.command("demo")
@click.option("--frames", type=click.IntRange(1), help="End after so many frames.")
@click.option("--page", default=8765, show_default=True, type=click.IntRange(0, 65535))
@click.option("--open/--no-open", "opens", default=True, help="Open the page.")
@click.option(
    "--stain",
    default="may-grunwald-giemsa",
    show_default=True,
    type=click.Choice(["may-grunwald-giemsa", "wright", "giemsa"]),
)
@click.option(
    "--seed", default=0, show_default=True, help="Another seed, another slide."
)
@click.option("--folder", type=click.Path(path_type=Path), help="Keep the files here.")
@click.option(
    "--timelapse", is_flag=True, help="Follow cells that change; write the run's page."
)
def demo_command(
    frames: int | None,
    page: int,
    opens: bool,
    stain: Literal["may-grunwald-giemsa", "wright", "giemsa"],
    seed: int,
    folder: Path | None,
    timelapse: bool,
) -> None:
    """Show everything at work on a simulated microscope."""
    console, pages = Console(), folder or Path()
    look = _CHANGING if timelapse else _MOVING
    source = msgspec.structs.replace(look, stain=stain, seed=seed)
    with ExitStack() as opened:
        if folder is None:
            made = tempfile.TemporaryDirectory(prefix="hemascope-")
            folder = Path(opened.enter_context(made))
        folder = folder.resolve()  # settings files read paths from their own folder
        folder.mkdir(parents=True, exist_ok=True)
        stop = opened.enter_context(until_signalled())
        show = opened.enter_context(show_live(page, console, opens=opens))
        summary = run_demo(
            folder, source, frames, stop, show, console.print, follows=timelapse
        )
        if timelapse:
            with closing(Store(folder / ARCHIVE)) as store:
                (span,) = list_runs(store)
                written = write_run_page(
                    pages / span.start.run, read_run_history(store, span)
                )
            click.echo(f"page of the run: {written}")
    click.echo(str(summary))
    if summary.lost:
        sys.exit(1)
