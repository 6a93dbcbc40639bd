"""Recordings: list, pin and repair them, and replay one."""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge.cli.groups import CommandGroup, Section, in_section
from edge.errors import ConfigurationInvalid, HemascopeError

if TYPE_CHECKING:
    from edge.replay.comparison import Comparison

_MAX_SHOWN = 20
_FOLDER = click.argument("folder", type=click.Path(path_type=Path, file_okay=False))


@in_section(Section.DEVICE)
@click.group("record", cls=CommandGroup)
def record_command() -> None:
    """List, pin and repair recordings; [recording] in the settings makes them."""


@record_command.command("list")
@_FOLDER
def list_command(folder: Path) -> None:
    """List the recordings in FOLDER, oldest first."""
    from edge.recording.format import recordings_in

    for recording in recordings_in(folder):
        try:
            items = recording.items()
        except HemascopeError as error:
            click.echo(f"{recording.head.id}  {error}; see `hemascope record repair`")
            continue
        frames = sum(recorded.stored_frame is not None for recorded in items)
        pinned = "pinned" if recording.is_pinned else ""
        size_gb = recording.size / 1e9
        runs = " ".join(sorted(recording.runs()))
        click.echo(
            f"{recording.head.id}  {frames} frames  {size_gb:.2f} GB  "
            f"runs {runs or '-'}  {pinned}".rstrip()
        )


@record_command.command("pin")
@_FOLDER
@click.argument("name")
def pin_command(folder: Path, name: str) -> None:
    """Protect a recording from being deleted when the disk is full.

    NAME is the name of a recording in FOLDER, or the id of a run: then all recordings
    of the run are protected.
    """
    from edge.recording.retention import find, pin

    for recording in find(folder, name):
        pin(recording)
        click.echo(f"{recording.head.id}: pinned")


@record_command.command("unpin")
@_FOLDER
@click.argument("name")
def unpin_command(folder: Path, name: str) -> None:
    """Allow again that a recording is deleted when the disk is full.

    NAME is the name of a recording in FOLDER, or the id of a run.
    """
    from edge.recording.retention import find, unpin

    for recording in find(folder, name):
        unpin(recording)
        click.echo(f"{recording.head.id}: may be deleted to make room")


@record_command.command("repair")
@click.argument("recording", type=click.Path(path_type=Path, file_okay=False))
def repair_command(recording: Path) -> None:
    """Repair the index of RECORDING after damage, so that its frames can be read."""
    from edge.ledger.cursor import acquire_lock
    from edge.recording.format import LOCK, open_recording

    opened = open_recording(recording)
    lock = recording.resolve().parent / LOCK
    with acquire_lock(lock, "records beside") if lock.exists() else nullcontext():
        for message in opened.repair():
            click.echo(message)
    frames = sum(recorded.stored_frame is not None for recorded in opened.items())
    click.echo(f"{opened.head.id}: {frames} frames can be read")


@in_section(Section.DEVICE)
@click.command("replay")
@click.argument("recording", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Settings file of a device. Without it, the settings in the recording.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep the new ledger in this folder, which must be empty or new. Without it, "
    "the new ledger is deleted at the end.",
)
@click.option(
    "--compare",
    "ledger",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the ledger that was written while recording. Its rows are compared "
    "with the new ones.",
)
def replay_command(
    recording: Path, config: Path | None, out: Path | None, ledger: Path | None
) -> None:
    """Examine a recording again by the same code, and compare the results.

    The exit code is 1 if frames are missing that should be in the recording, if some
    cannot be read, or if rows differ.
    """
    import cv2
    from rich.progress import Progress

    from edge.cli.signals import until_signalled
    from edge.pipeline.parts import parts_of
    from edge.recording.format import SETTINGS, open_recording
    from edge.replay.comparison import compare, require_comparable
    from edge.replay.replay import replay
    from edge.schema.codec import read_toml
    from edge.settings.files import DeviceFile, ReplaySettings

    opened = open_recording(recording)
    then = read_toml(recording / SETTINGS, ReplaySettings)
    now = then if config is None else ReplaySettings.of(read_toml(config, DeviceFile))
    if out is not None and out.exists() and any(out.iterdir()):
        raise ConfigurationInvalid(f"{out}: is not empty, expected a new folder")
    parts = parts_of(now)
    if ledger is not None:
        require_comparable(opened.head, parts, now, then)
    cv2.setNumThreads(1)  # frames run in parallel, each on one core
    with ExitStack() as until:
        folder = out or Path(until.enter_context(tempfile.TemporaryDirectory()))
        stop = until.enter_context(until_signalled())
        bar = until.enter_context(Progress(transient=True))
        task = bar.add_task("replaying", total=len(opened.items()))
        missing = replay(opened, parts, now, folder, stop, lambda: bar.advance(task))
        bar.stop()
        for line in missing[:_MAX_SHOWN]:
            click.echo(line, err=True)
        is_good = not missing
        if ledger is not None:
            is_good &= _print_comparison(compare(opened, ledger, folder))
    if not is_good:
        sys.exit(1)


def _print_comparison(found: Comparison) -> bool:
    """Print what was found; return whether all is the same."""
    for row, difference in found.different[:_MAX_SHOWN]:
        click.echo(f"row {row} differs: {difference}")
    for line in found.not_compared:
        click.echo(line)
    click.echo(
        f"{found.same} rows are the same, {found.partly_same} are the same but for "
        f"what depends on missing frames, {len(found.different)} differ"
    )
    return found.is_good
