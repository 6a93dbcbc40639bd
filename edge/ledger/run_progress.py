"""How far a run is, as its rows say: what a later process needs to go on with it."""

from __future__ import annotations

from datetime import datetime

import msgspec
from msgspec import Struct

from edge import clock
from edge.schema.entries import PlanNote, RunMark
from edge.schema.results import FrameResult


class Progress(Struct, frozen=True, kw_only=True):
    """The last run of a ledger; `is_open` until its end is a row.

    `index` and `frame` are the next planned frame. `next_track` and `next_event` were
    never told. The last frame: `row`, `utc`, `monotonic_ns` in boot `boot_id`; the last
    one on which cells were followed is `followed_row`. `counted`: cells by class.
    """

    run: str
    slide: str | None = None
    operator: str | None = None
    plan: PlanNote | None = None
    is_open: bool = True
    index: int = 0
    frame: int = 0
    next_track: int = 1
    next_event: int = 1
    row: int = 1
    followed_row: int | None = None
    utc: datetime
    monotonic_ns: int
    boot_id: str
    counted: dict[str, int] = {}


def after_mark(before: Progress | None, seq: int, mark: RunMark) -> Progress | None:
    """Return how far things are once a mark is row `seq`."""
    if mark.phase == "start":
        return Progress(
            run=mark.run,
            slide=mark.slide,
            operator=mark.operator,
            plan=mark.plan,
            next_track=1 if before is None else before.next_track,
            next_event=1 if before is None else before.next_event,
            row=seq,
            utc=clock.utc_now(),
            monotonic_ns=clock.monotonic_ns(),
            boot_id=clock.boot_id(),
        )
    if before is None or before.run != mark.run:
        return before
    if mark.phase == "resumed":
        return msgspec.structs.replace(
            before, operator=mark.operator, plan=mark.plan, counted={}
        )
    return msgspec.structs.replace(before, is_open=mark.phase != "end")


def after_frame(before: Progress, seq: int, content: FrameResult) -> Progress:
    """Return how far a run is once what is said of a frame is row `seq`.

    Of a frame that was in hand when the run ended only the numbers it gave count.
    """
    changes: dict[str, object] = {}
    if content.following is not None:
        changes["followed_row"] = seq
        changes["next_track"] = content.following.next_track
        changes["next_event"] = content.following.next_event
    if content.run != before.run:
        return msgspec.structs.replace(before, **changes)
    changes |= {
        "row": seq,
        "utc": content.utc,
        "monotonic_ns": content.monotonic_ns,
        "boot_id": content.boot_id,
    }
    plan, point = before.plan, content.point
    if plan is not None and point is not None:
        is_last = point.frame + 1 >= plan.frames_per_point
        changes["index"] = point.index + is_last
        changes["frame"] = 0 if is_last else point.frame + 1
    if content.missed_points is not None:
        changes |= {"index": content.missed_points.last + 1, "frame": 0}
    if content.differential is not None:
        counts = {one.label: one.count for one in content.differential.classes}
        changes["counted"] = counts
    return msgspec.structs.replace(before, **changes)
