"""The demonstration: everything on one machine."""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Literal

import click

from edge.cli.groups import Section, in_section
from edge.settings.sources import SimulatedSettings


def _source(follows: bool) -> SimulatedSettings:
    """Return a microscope that moves over a slide, or one where cells change."""
    from edge.settings.sources import SimulatedSettings

    if not follows:
        return SimulatedSettings(slide_frames=3.0, is_endless=False)
    return SimulatedSettings(  # what takes hours happens in minutes here
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


@in_section(Section.LOOK)
@click.command("demo")
@click.option(
    "--frames",
    type=click.IntRange(1),
    help="End after so many frames. Without it, the demo runs until Ctrl-C.",
)
@click.option(
    "--page",
    default=8765,
    type=click.IntRange(0, 65535),
    help="Port of the web page on this machine; 0 takes a free port.",
)
@click.option(
    "--open/--no-open", "opens", default=True, help="Open the page in a web browser."
)
@click.option(
    "--stain",
    default="may-grunwald-giemsa",
    type=click.Choice(["may-grunwald-giemsa", "wright", "giemsa"]),
    help="Stain of the simulated blood smear.",
)
@click.option("--seed", default=0, help="Number that decides which slide is simulated.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    help="Keep the settings, the ledger and the archive in this folder. Without it, "
    "they are deleted at the end.",
)
@click.option(
    "--timelapse",
    is_flag=True,
    help="Follow cells that change over time, and write a page on the run.",
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
    """Show all parts at work on a simulated microscope."""
    import msgspec
    from rich.console import Console

    from edge.archive.run_history import list_runs, read_run_history
    from edge.archive.run_report import write_run_page
    from edge.archive.store import Store
    from edge.cli.signals import until_signalled
    from edge.dashboard.display import show_live
    from edge.demo.launcher import ARCHIVE, run_demo

    console, pages = Console(), folder or Path()
    source = msgspec.structs.replace(_source(timelapse), stain=stain, seed=seed)
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
