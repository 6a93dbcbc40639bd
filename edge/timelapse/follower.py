"""Follow cells through the frames of runs: the part that needs frames in their order.

Each frame was examined alone. Here it is linked to the ones before it; then the
sequence model sees every followed cell, and what changes is reported as events.
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
    """Carries tracks, states and events from frame to frame. Used from one thread.

    Numbers of tracks and events continue from run to run. Everything else starts again
    with the first frame of another run.

    Parameters
    ----------
    tracking
        Of the tracker.
    intervals
        Tells how long after the last frame a frame comes.
    model
        Predicts what happens to each cell; without it cells are only followed.
    resume
        Where an earlier process stopped.
    """

    def __init__(
        self,
        tracking: TrackingSettings,
        intervals: FrameIntervals,
        model: SequenceModel | None = None,
        *,
        resume: ResumeState = NOTHING_TO_RESUME,
    ) -> None:
        self._model, self._intervals = model, intervals
        self._tracker = Tracker(tracking, first_id=resume.next_track)
        self._resume: ResumeState | None = resume
        self._pixel_size_um: float | None = None
        self._run: str | None = None
        # Events that had no room in a row yet; the next rows carry them.
        self._pending: deque[Event] = deque()

    def follow(
        self,
        examined: ExaminedFrame,
        *,
        shift_um: tuple[float, float] | None = None,
        is_new_field: bool = False,
    ) -> FrameResult:
        """Return the result of a frame, with tracks, predictions and events.

        A rejected frame, or one of unknown scale, is returned as it is: for the next
        frame it is a missing one.

        Parameters
        ----------
        examined
            The next frame in order.
        shift_um, is_new_field
            What the stage reports, see `Tracker.follow`.

        Raises
        ------
        EngineFailed
            The sequence model failed; its states are new from the next frame on.
        """
        pixel_size_um = self._update_scale(examined.result)
        if pixel_size_um is None or examined.result.status in ("rejected", "gap"):
            return examined.result
        result, stopwatch = _shortened(examined.result), Stopwatch()
        is_new_run = self._starts_new_run(result.run)
        gap = self._intervals.next_gap(result.monotonic_ns, _planned_interval(result))
        gap = self._resume_tracks(result, pixel_size_um) or gap
        boxes = np.array([c.box for c in result.cells], np.float32).reshape(-1, 4)
        with stopwatch("follow"):
            links = self._tracker.follow(
                _found(boxes, result, pixel_size_um),
                gap.steps,
                (result.width_px * pixel_size_um, result.height_px * pixel_size_um),
                shift_um=shift_um,
                is_new_field=is_new_field or is_new_run,
            )
        predictions: dict[int, TrackPrediction] = {}
        if self._model is not None:
            with stopwatch("remember"):
                self._end_events(self._model, links, gap, is_new_run=is_new_run)
                frame = FollowedFrame(
                    examined.raw,
                    pixel_size_um,
                    is_whole_field=result.locator is None,
                    is_late=gap.continuity == "discontinuous",
                )
                predictions = self._predict(self._model, frame, boxes, links)
        return msgspec.structs.replace(
            result,
            cells=_with_predictions(result.cells, links, predictions),
            following=self._following(links, gap, is_new_run=is_new_run),
            events=self._take_events(len(result.cells)),
            timings_ms={**result.timings_ms, **stopwatch.spent_ms},
        )

    @property
    def live(self) -> int:
        """How many cells are followed, those not confirmed yet included."""
        return self._tracker.live

    def close(self) -> None:
        """Release the engine."""
        if self._model is not None:
            self._model.close()

    def _update_scale(self, result: FrameResult) -> float | None:
        """Return micrometres per pixel; rescale the tracks where it has changed.

        Without a locator the one region is the field, and pixels serve as the unit.
        """
        known = self._pixel_size_um
        now = result.pixel_size_um if result.locator is not None else 1.0
        if now is not None and known is not None and now != known:
            self._tracker.rescale(now / known)
        self._pixel_size_um = now or known
        return self._pixel_size_um

    def _starts_new_run(self, run: str | None) -> bool:
        """Return whether another run begins with this frame.

        A frame that was being examined when its run ended belongs to no run, and begins
        none.
        """
        before = self._run
        self._run = run or before
        return before is not None and self._run != before

    def _resume_tracks(
        self, result: FrameResult, pixel_size_um: float
    ) -> FrameGap | None:
        """Resume the tracks of an earlier process, with the first frame of its run.

        Returns the gap since its last frame, None where there is nothing to resume. It
        is a reset, however short: the states of the model were in the old process.
        """
        resume = self._resume
        if resume is None or result.run is None:
            return None
        self._resume, cells = None, resume.cells
        if cells is None or result.run != resume.run:
            return None
        boxes = np.array(cells.boxes, np.float32)
        ids = np.array(cells.tracks, np.int64)
        may_begin = [True] * len(ids)
        self._tracker.resume(ids, _in_um(boxes, may_begin, pixel_size_um))
        away_s = (result.utc - cells.utc).total_seconds()
        if cells.monotonic_ns is not None:
            away_s = (result.monotonic_ns - cells.monotonic_ns) * 1e-9
        return FrameGap("reset", max(away_s, 0.0), None)

    def _predict(
        self, model: SequenceModel, frame: FollowedFrame, boxes: Boxes, links: Links
    ) -> dict[int, TrackPrediction]:
        """Show the cells of a frame to the model; return its predictions by track.

        `boxes` (N, 4) float32 px. Raises `EngineFailed` as `follow` does.
        """
        try:
            predictions, events = model.add_frame(frame, boxes, links)
        except EngineFailed:
            reason = "states are new after a failure of the model"
            self._pending.extend(model.restart(reason))
            raise
        self._pending.extend(events)
        return predictions

    def _end_events(
        self, model: SequenceModel, links: Links, gap: FrameGap, *, is_new_run: bool
    ) -> None:
        """End the events and drop the states of tracks that are over."""
        reason = "the cell is not seen any more"
        if is_new_run:
            reason = "another run was started"
        elif links.is_new_field:
            reason = "another field of view"
        self._pending.extend(model.end(links.ended.tolist(), reason))
        if gap.continuity == "reset":
            reason = f"states are new after a pause of {gap.seconds:.0f} s"
            self._pending.extend(model.restart(reason))

    def _take_events(self, cells: int) -> tuple[Event, ...]:
        """Take the events that have room in a row of so many cells.

        The first ones keep their filmstrips, if the cells leave room for any.
        """
        filmstrips = MAX_FILMSTRIPS if cells <= MAX_CELLS_BESIDE_FILMSTRIPS else 0
        count = min(MAX_EVENTS, len(self._pending))
        events = [self._pending.popleft() for _ in range(count)]
        bare = [
            msgspec.structs.replace(e, strip=msgspec.UNSET) for e in events[filmstrips:]
        ]
        return (*events[:filmstrips], *bare)

    def _following(self, links: Links, gap: FrameGap, *, is_new_run: bool) -> Following:
        """Return how a frame continues the ones before it, for its row."""
        continuity: Continuation = gap.continuity
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
            pause_s=None if gap.seconds is None else round(gap.seconds, 6),
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
        "and reported"
    )
    kept = result.cells[:MAX_FOLLOWED_CELLS]
    return msgspec.structs.replace(
        result,
        cells=kept,
        counts=Counter(cell.label for cell in kept),
        status="degraded",
        reason="; ".join(filter(None, (result.reason, more))),
    )


def _planned_interval(result: FrameResult) -> PlannedInterval:
    """Return what the schedule plans between a frame and the one before it."""
    if result.point is None:
        return PlannedInterval()
    return PlannedInterval(True, result.point.expected_s)


def _found(boxes: Boxes, result: FrameResult, pixel_size_um: float) -> FoundCells:
    """Return the cells of a result, `boxes` (N, 4) float32 px, in µm.

    A track does not begin with a region that is only plasma.
    """
    may_begin = [cell.label != NOT_A_CELL for cell in result.cells]
    return _in_um(boxes, may_begin, pixel_size_um)


def _in_um(boxes: Boxes, may_begin: Sequence[bool], pixel_size_um: float) -> FoundCells:
    """Return cells with `boxes` (N, 4) float32 px in µm."""
    return FoundCells(
        (boxes[:, :2] + boxes[:, 2:]).astype(float) / 2 * pixel_size_um,
        np.maximum(widths(boxes).astype(float), 1.0) * pixel_size_um,
        np.array(may_begin, bool),
    )


def _with_predictions(
    cells: tuple[Cell, ...], links: Links, predictions: dict[int, TrackPrediction]
) -> tuple[Cell, ...]:
    """Give each followed cell its number and its prediction."""
    return tuple(
        cell
        if track == NO_TRACK
        else msgspec.structs.replace(
            cell, track_id=track, course=predictions.get(track, msgspec.UNSET)
        )
        for cell, track in zip(cells, links.tracks.tolist(), strict=True)
    )
