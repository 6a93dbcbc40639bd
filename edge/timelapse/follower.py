"""Follow cells through the frames of runs: the part of the way that needs order.

A frame that was examined alone is linked to the ones before; then the sequence model
sees every cell that is followed, and what changes is told as events.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

import msgspec
import numpy as np

from edge.engines import EngineFailed
from edge.pipeline.pipeline import ExaminedFrame
from edge.pipeline.stopwatch import Stopwatch
from edge.schema.results import (
    Cell,
    Continuation,
    Event,
    Following,
    FrameResult,
    TrackPrediction,
)
from edge.schema.row_limits import (
    MAX_CELLS_BESIDE_FILMSTRIPS,
    MAX_EVENTS,
    MAX_FILMSTRIPS,
    MAX_FOLLOWED_CELLS,
)
from edge.settings.timelapse import TrackingSettings
from edge.stages.detection import widths
from edge.taxonomy import NOT_A_CELL
from edge.timelapse.frame_intervals import FrameGap, FrameIntervals, PlannedInterval
from edge.timelapse.resume_state import NOTHING_TO_RESUME, ResumeState
from edge.timelapse.sequence_model import Boxes, FollowedFrame, SequenceModel
from edge.timelapse.tracker import NO_TRACK, FoundCells, Links, Tracker


class Follower:
    """Carries the tracks, the states and the events. Used from one thread.

    Without a sequence model cells are only followed. Numbers go on from run to run;
    everything else begins anew with the first frame of another one.
    """

    def __init__(
        self,
        tracking: TrackingSettings,
        pace: FrameIntervals,
        model: SequenceModel | None = None,
        *,
        left: ResumeState = NOTHING_TO_RESUME,
    ) -> None:
        self._model, self._pace = model, pace
        self._tracker = Tracker(tracking, first_id=left.next_track)
        self._left: ResumeState | None = left
        self._um: float | None = None
        self._run: str | None = None
        self._untold: deque[Event] = deque()

    def follow(
        self,
        examined: ExaminedFrame,
        *,
        shift_um: tuple[float, float] | None = None,
        is_new_field: bool = False,
    ) -> FrameResult:
        """Return what a frame says, with how it continues the ones before.

        A rejected frame, or one whose scale nobody knows yet, is passed over: the next
        one comes after a longer pause.

        Parameters
        ----------
        examined
            The next frame in order.
        shift_um, is_new_field
            What somebody measured of the stage, see `Tracker.follow`.

        Raises
        ------
        EngineFailed
            The sequence model failed; its states are new from the next frame on.
        """
        um = self._scale_of(examined.result)
        if um is None or examined.result.status in ("rejected", "gap"):
            return examined.result
        result, stage = _shortened(examined.result), Stopwatch()
        is_new_run = self._turn_to(result.run)
        pause = self._pace.take(result.monotonic_ns, _expected(result))
        pause = self._take_up(result, um) or pause
        with stage("follow"):
            boxes = np.array([c.box for c in result.cells], np.float32).reshape(-1, 4)
            links = self._tracker.follow(
                _found(boxes, [c.label != NOT_A_CELL for c in result.cells], um),
                pause.steps,
                (result.width_px * um, result.height_px * um),
                shift_um=shift_um,
                is_new_field=is_new_field or is_new_run,
            )
        courses: dict[int, TrackPrediction] = {}
        if self._model is not None:
            with stage("remember"):
                self._end(self._model, links, pause, is_new_run=is_new_run)
                is_late = pause.continuity == "discontinuous"
                frame = FollowedFrame(examined.raw, um, result.locator is None, is_late)
                try:
                    courses, events = self._model.show(frame, boxes, links)
                except EngineFailed:
                    reason = "states are new after a failure of the model"
                    self._untold.extend(self._model.begin_anew(reason))
                    raise
                self._untold.extend(events)
        return msgspec.structs.replace(
            result,
            cells=_named(result.cells, links, courses),
            following=self._note(links, pause, is_new_run=is_new_run),
            events=self._tell(
                MAX_FILMSTRIPS
                if len(result.cells) <= MAX_CELLS_BESIDE_FILMSTRIPS
                else 0
            ),
            timings_ms={**result.timings_ms, **stage.spent_ms},
        )

    @property
    def live(self) -> int:
        """How many cells are followed, those not told yet included."""
        return self._tracker.live

    def close(self) -> None:
        """Release the engine."""
        if self._model is not None:
            self._model.close()

    def _scale_of(self, result: FrameResult) -> float | None:
        """Return the scale; where another is known now, tracks go on at that one."""
        um = result.pixel_size_um if result.locator is not None else 1.0
        if um is not None and self._um is not None and um != self._um:
            self._tracker.rescale(um / self._um)
        self._um = um or self._um
        return self._um

    def _take_up(self, result: FrameResult, um: float) -> FrameGap | None:
        """Go on with the cells that an earlier process left, with the first frame here.

        Their states are gone, so what lies between is as long as it may be.
        """
        left = self._left
        if left is None or result.run is None:
            return None
        self._left, cells = None, left.cells
        if cells is None or result.run != left.run:
            return None
        boxes = np.array(cells.boxes, np.float32)
        ids = np.array(cells.tracks, np.int64)
        self._tracker.take_up(ids, _found(boxes, [True] * len(ids), um))
        away_s = (result.utc - cells.utc).total_seconds()
        if cells.monotonic_ns is not None:
            away_s = (result.monotonic_ns - cells.monotonic_ns) * 1e-9
        return FrameGap("reset", max(away_s, 0.0), None)

    def _turn_to(self, run: str | None) -> bool:
        """Return whether another run begins with this frame.

        A frame that was in hand when its run ended is of none, and begins none.
        """
        before = self._run
        self._run = run or before
        return before is not None and self._run != before

    def _end(
        self, model: SequenceModel, links: Links, pause: FrameGap, *, is_new_run: bool
    ) -> None:
        """End the events and forget the states of tracks that are over."""
        reason = "the cell is not seen any more"
        if is_new_run:
            reason = "another run was started"
        elif links.is_new_field:
            reason = "another field of view"
        self._untold.extend(model.end(links.ended.tolist(), reason))
        if pause.continuity == "reset":
            reason = f"states are new after a pause of {pause.seconds:.0f} s"
            self._untold.extend(model.begin_anew(reason))

    def _tell(self, strips: int) -> tuple[Event, ...]:
        """Take what has room in a row, the first `strips` of it with pictures."""
        room = min(MAX_EVENTS, len(self._untold))
        told = [self._untold.popleft() for _ in range(room)]
        bare = [msgspec.structs.replace(e, strip=msgspec.UNSET) for e in told[strips:]]
        return (*told[:strips], *bare)

    def _note(self, links: Links, pause: FrameGap, *, is_new_run: bool) -> Following:
        continuity: Continuation = pause.continuity
        if is_new_run:
            continuity = "new run"
        elif links.is_new_field and continuity != "first":
            continuity = "new field"
        shift = None if links.shift_um is None else links.shift_um.tolist()
        model = None if self._model is None else self._model.bundle
        return Following(
            continuity=continuity,
            tracks=int((links.tracks != NO_TRACK).sum()) + len(links.coasting),
            coasting=len(links.coasting),
            ended=tuple(links.ended.tolist()),
            shift_um=None
            if shift is None
            else (round(shift[0], 3), round(shift[1], 3)),
            pause_s=None if pause.seconds is None else round(pause.seconds, 6),
            not_followed=links.not_followed,
            dropped=links.dropped,
            next_track=self._tracker.next_id,
            next_event=1 if self._model is None else self._model.next_event,
            model=None if model is None else model.id,
            classes=() if model is None else model.labels,
        )


def _shortened(result: FrameResult) -> FrameResult:
    """Leave out the least likely cells where a row cannot hold them all."""
    if len(result.cells) <= MAX_FOLLOWED_CELLS:
        return result
    more = (
        f"{len(result.cells)} cells, the likeliest {MAX_FOLLOWED_CELLS} are followed "
        "and said"
    )
    kept = result.cells[:MAX_FOLLOWED_CELLS]
    return msgspec.structs.replace(
        result,
        cells=kept,
        counts=Counter(cell.label for cell in kept),
        status="degraded",
        reason="; ".join(filter(None, (result.reason, more))),
    )


def _expected(result: FrameResult) -> PlannedInterval:
    """Return what the schedule says of the pause before a frame."""
    if result.point is None:
        return PlannedInterval()
    return PlannedInterval(True, result.point.expected_s)


def _found(boxes: Boxes, may_begin: Sequence[bool], um: float) -> FoundCells:
    """Return the cells in µm; a track does not begin where there is only plasma."""
    return FoundCells(
        (boxes[:, :2] + boxes[:, 2:]).astype(float) / 2 * um,
        np.maximum(widths(boxes).astype(float), 1.0) * um,
        np.array(may_begin, bool),
    )


def _named(
    cells: tuple[Cell, ...], links: Links, courses: dict[int, TrackPrediction]
) -> tuple[Cell, ...]:
    """Give each followed cell its number and its course."""
    return tuple(
        cell
        if track == NO_TRACK
        else msgspec.structs.replace(
            cell, track_id=track, course=courses.get(track, msgspec.UNSET)
        )
        for cell, track in zip(cells, links.tracks.tolist(), strict=True)
    )
