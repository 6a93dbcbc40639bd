"""What a frame owes to the ones before it: its run, the gate, tracks, counts, drift.

Workers examine frames in any order. These stages need them one after the other, and
run in the main thread; only the follower has a thread of its own, since its engine is
opened, used and closed in one thread and may hang.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import msgspec

from edge.pipeline.calibration_drift import DriftWatch
from edge.run.deadline_worker import DeadlineWorker, JobTimedOut
from edge.run.failure_policy import FailurePolicy, HangWatch
from edge.run.frame_worker import FrameOutcome, rejected
from edge.run.frozen_image import FrozenImageCheck
from edge.schema.results import FrameResult
from edge.slide.run_state import RunTimeline
from edge.slide.slide_counter import SlideCounter
from edge.taxonomy import NOT_A_CELL, UNIDENTIFIED
from edge.timelapse.follower import Follower

_NOT_WHITE = {"RBC", "Platelet", NOT_A_CELL, UNIDENTIFIED}

log = logging.getLogger(__name__)


class OrderedStages:
    """The stages that need order. Used by the main thread.

    Parameters
    ----------
    frozen
        Rejects a live picture that froze; None for a recording.
    timeline, counter
        Of which run a frame is, and what counts its cells; None where nothing does.
    follower
        Follows cells from frame to frame; None where they are not followed.
    drift
        Compares what is seen with the calibration.
    failures, hang
        Told when the follower does not come back.
    """

    def __init__(
        self,
        *,
        frozen: FrozenImageCheck | None,
        timeline: RunTimeline | None,
        counter: SlideCounter | None,
        follower: DeadlineWorker[Follower] | None,
        drift: DriftWatch | None,
        failures: FailurePolicy,
        hang: HangWatch,
    ) -> None:
        self._frozen, self._timeline, self._counter = frozen, timeline, counter
        self._follower, self._drift = follower, drift
        self._failures, self._hang = failures, hang

    def complete(self, outcome: FrameOutcome) -> FrameOutcome:
        """Return the outcome of the next frame in order, as it becomes a row."""
        result = outcome.result
        if self._frozen is not None:
            result = self._frozen.judge(result, outcome.digest)
        result = self._judge(self._without_old_plan(outcome, result))
        outcome = self._follow(replace(outcome, result=result))
        result = self._count(outcome)
        return replace(outcome, result=self._watch_drift(result))

    def _without_old_plan(
        self, outcome: FrameOutcome, result: FrameResult
    ) -> FrameResult:
        """Leave out the planned point where the run that planned it is over."""
        planned = outcome.queued.item.planned
        if planned is None or self._timeline is None:
            return result
        if self._timeline.is_under_way(planned.run):
            return result
        return msgspec.structs.replace(result, point=None, missed_points=None)

    def _judge(self, result: FrameResult) -> FrameResult:
        """Give a result its run, and let the quality gate judge it."""
        if self._timeline is None:
            return result
        run = self._timeline.run_of(result)
        result = msgspec.structs.replace(result, run=run.id)
        return self._counted(result, lambda c: c.judge(result, run))

    def _count(self, outcome: FrameOutcome) -> FrameResult:
        """Count the cells that are new on the slide."""
        result, thumbnail = outcome.result, outcome.thumbnail
        return self._counted(result, lambda c: c.count(result, thumbnail))

    def _counted(
        self, result: FrameResult, use: Callable[[SlideCounter], FrameResult]
    ) -> FrameResult:
        """Use the counter; a result never fails because it cannot be counted."""
        if self._counter is None:
            return result
        try:
            return use(self._counter)
        except Exception as error:
            log.exception("sequence=%d not counted", result.frame.first)
            reason = f"not counted: {error!r}; say so to the makers"
            return msgspec.structs.replace(result, status="degraded", reason=reason)

    def _follow(self, outcome: FrameOutcome) -> FrameOutcome:
        """Follow the cells of a frame; a failure here is one of the whole frame."""
        result, frame = outcome.result, outcome.frame
        if self._follower is None or frame is None:
            return outcome
        judged = replace(frame, result=result)
        try:
            followed = self._follower.do(
                lambda follower: follower.follow(judged), self._hang.left_s
            )
            return replace(outcome, result=followed)
        except JobTimedOut:
            error = self._hang.error()
            self._failures.give_up(error)
            reason = f"given up: {error}"
        except Exception as error:
            log.exception("sequence=%d failed", result.frame.first)
            reason = str(error) or repr(error)
        failed = rejected(outcome.queued, reason)
        empty = msgspec.structs.replace(
            failed.result, run=result.run, point=result.point
        )
        return replace(failed, result=empty)

    def _watch_drift(self, result: FrameResult) -> FrameResult:
        """Say how far the microscope is from its calibration, by its good frames."""
        if self._drift is None or result.quality is None or result.colours is None:
            return result
        if result.status == "rejected":
            return result
        white = [cell.box for cell in result.cells if cell.label not in _NOT_WHITE]
        drift = self._drift.follow(
            result.colours, result.quality.focus, result.monotonic_ns, white
        )
        return msgspec.structs.replace(result, drift=drift)
