"""What a process left open in its ledger, and where the next one continues."""

from __future__ import annotations

import logging
from contextlib import closing
from datetime import datetime
from pathlib import Path

from msgspec import Struct

from edge import clock
from edge.ledger.reader import LedgerReader
from edge.ledger.run_progress import Progress
from edge.schema.codec import PayloadInvalid
from edge.schema.entries import read_row
from edge.schema.results import Box, Count, Result, RunId

log = logging.getLogger(__name__)


class ResumeCells(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The cells that were followed on the last frame of a run.

    `boxes`, px, of the tracks `tracks`. The frame's `utc` and `monotonic_ns`, null if
    it was another boot.
    """

    tracks: tuple[Count, ...]
    boxes: tuple[Box, ...]
    utc: datetime
    monotonic_ns: int | None


class ResumeState(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an earlier process left.

    `run` is still open; `next_track` and `next_event` are numbers that no row has yet.
    """

    run: RunId | None = None
    next_track: Count = 1
    next_event: Count = 1
    cells: ResumeCells | None = None


NOTHING_TO_RESUME = ResumeState()


def resume_state_of(folder: Path, progress: Progress | None) -> ResumeState:
    """Return what the ledger in `folder` holds for the next process to continue."""
    if progress is None:
        return NOTHING_TO_RESUME
    return ResumeState(
        run=progress.run if progress.is_open else None,
        next_track=progress.next_track,
        next_event=progress.next_event,
        cells=_cells_in(folder, progress) if progress.is_open else None,
    )


def _cells_in(folder: Path, progress: Progress) -> ResumeCells | None:
    """Read the last frame on which cells were followed; None if that cannot be."""
    if progress.followed_row is None:
        return None
    with closing(LedgerReader(folder)) as reader:
        rows = reader.rows(progress.followed_row - 1, 1)
    try:
        result = read_row(rows[0].data) if rows else None
    except PayloadInvalid as error:  # of another version, perhaps
        log.warning("row=%d no track goes on: %s", progress.followed_row, error)
        return None
    if not isinstance(result, Result) or result.run != progress.run:
        return None
    found = {c.track_id: c.box for c in result.cells if c.track_id is not None}
    if not found:
        return None
    is_same_boot = result.boot_id == clock.boot_id()
    return ResumeCells(
        tracks=tuple(found),
        boxes=tuple(found.values()),
        utc=result.utc,
        monotonic_ns=result.monotonic_ns if is_same_boot else None,
    )
