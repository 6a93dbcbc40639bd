"""What a process left in its ledger, for the next one to go on with."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

from edge.schema.results import Box, Count, RunId


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

    `run` is still open; `next_track` and `next_event` were never told.
    """

    run: RunId | None = None
    next_track: Count = 1
    next_event: Count = 1
    cells: ResumeCells | None = None


NOTHING_TO_RESUME = ResumeState()
