"""How far a run is, as its rows say: what a later process needs to resume it.

`after_mark` and `after_frame` take the progress before a row and return that after it.
`LedgerState` calls them in the transaction that writes the row.
"""

from __future__ import annotations

from datetime import datetime

import msgspec
from msgspec import Struct

from edge import clock
from edge.schema.entries import PlanNote, RunMark
from edge.schema.results import FrameResult


class Progress(Struct, frozen=True, kw_only=True):
    """The last run of a ledger; `is_open` until a row says that it ended.

    `index` and `frame` are the point and frame that the schedule takes next.
    `next_track` and `next_event` are the first numbers that no row has used. `row`,
    `utc`, `monotonic_ns` and `boot_id` are those of the last frame. `followed_row` is
    the last frame on which cells were followed. `counted`: cells by class.
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


def after_mark(progress: Progress | None, seq: int, mark: RunMark) -> Progress | None:
    """Return the progress once `mark` is row `seq`."""
    if mark.phase == "start":
        return Progress(
            run=mark.run,
            slide=mark.slide,
            operator=mark.operator,
            plan=mark.plan,
            # Numbers are unique in a ledger, not only in a run: this one goes on with
            # them.
            next_track=1 if progress is None else progress.next_track,
            next_event=1 if progress is None else progress.next_event,
            row=seq,
            utc=clock.utc_now(),
            monotonic_ns=clock.monotonic_ns(),
            boot_id=clock.boot_id(),
        )
    if progress is None or progress.run != mark.run:
        return progress
    if mark.phase == "resumed":
        # Counting begins anew: what the process before knew of the slide is gone, so a
        # cell that was counted could be counted again.
        return msgspec.structs.replace(
            progress, operator=mark.operator, plan=mark.plan, counted={}
        )
    return msgspec.structs.replace(progress, is_open=mark.phase != "end")


def after_frame(progress: Progress, seq: int, result: FrameResult) -> Progress:
    """Return the progress once the result of a frame is row `seq`.

    Of a frame that was still in work when the run ended, only the numbers of tracks and
    events count.
    """
    changes: dict[str, object] = {}
    # A later process finds the tracks again on the last frame on which cells were
    # followed, even if rejected frames or gaps came after it.
    if result.following is not None:
        changes["followed_row"] = seq
        changes["next_track"] = result.following.next_track
        changes["next_event"] = result.following.next_event
    if result.run != progress.run:
        return msgspec.structs.replace(progress, **changes)
    changes |= {
        "row": seq,
        "utc": result.utc,
        "monotonic_ns": result.monotonic_ns,
        "boot_id": result.boot_id,
    }
    plan, point = progress.plan, result.point
    if plan is not None and point is not None:
        is_last = point.frame + 1 >= plan.frames_per_point
        changes["index"] = point.index + is_last
        changes["frame"] = 0 if is_last else point.frame + 1
    # Missed points are never made up for: the schedule goes on after the last of them.
    if result.missed_points is not None:
        changes |= {"index": result.missed_points.last + 1, "frame": 0}
    if result.differential is not None:
        counts = {one.label: one.count for one in result.differential.classes}
        changes["counted"] = counts
    return msgspec.structs.replace(progress, **changes)
