"""What people look at: watch, and the demonstration."""

from __future__ import annotations

import secrets
import sys
import tempfile
import threading
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Literal

import click
import msgspec
from rich.console import Console
from rich.live import Live

from edge.commands.brokers import with_broker
from edge.commands.signals import until_signalled
from edge.dashboard import Dashboard
from edge.demo import ARCHIVE, demonstrate
from edge.observing import Observer
from edge.run_page import runs_table, write_run_page
from edge.runs import find_run, list_runs, tell
from edge.settings import BrokerSettings, SimulatedSettings
from edge.store import Store
from edge.watch import table, watch

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


@click.command("watch")
@with_broker
@click.option("--page", type=click.IntRange(0, 65535), help="Serve the page on a port.")
@click.option(
    "--page-name", "names", multiple=True, help="Name that a reverse proxy asks by."
)
def watch_command(
    page: int | None, names: tuple[str, ...], broker: BrokerSettings
) -> None:
    """Show all devices live, from MQTT alone."""
    client_id = f"{broker.username or 'watch'}-{secrets.token_hex(4)}"
    with until_signalled() as stop, _shown(page, Console(), names=names) as show:
        watch(broker, stop, show, client_id)


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
        show = opened.enter_context(_shown(page, console, opens=opens))
        summary = demonstrate(
            folder, source, frames, stop, show, console.print, follows=timelapse
        )
        if timelapse:
            with closing(Store(folder / ARCHIVE)) as store:
                (span,) = list_runs(store)
                written = write_run_page(pages / span.start.run, tell(store, span))
            click.echo(f"page of the run: {written}")
    click.echo(str(summary))
    if summary.lost:
        sys.exit(1)


@contextmanager
def _shown(
    page: int | None,
    console: Console,
    *,
    opens: bool = False,
    names: tuple[str, ...] = (),
) -> Iterator[Callable[[Observer], None]]:
    """Show an observer as a live table, and as a page if a port is given."""
    with ExitStack() as opened:
        live = opened.enter_context(Live(console=console, refresh_per_second=4))
        dashboard = None
        if page is not None:
            dashboard = Dashboard(page, names=names)
            opened.callback(dashboard.close)
            console.print(f"page: {dashboard.url}")
            if opens and console.is_terminal:
                threading.Thread(target=partial(webbrowser.open, dashboard.url)).start()

        def show(observer: Observer) -> None:
            live.update(table(observer))
            if dashboard is not None:
                dashboard.show(observer)

        yield show


@click.command("runs")
@click.argument("run", required=False)
@click.option(
    "--archive",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The archive's file.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of RUN's page.")
def runs_command(run: str | None, archive: Path, out: Path | None) -> None:
    """List the runs of an archive, or write the page of one.

    RUN is the id of a run, or how it begins.
    """
    with closing(Store(archive, must_exist=True)) as store:
        if run is None:
            Console().print(runs_table(list_runs(store)))
            return
        story = tell(store, find_run(store, run))
    page = write_run_page(out or Path(story.span.start.run), story)
    click.echo(f"page: {page}")
