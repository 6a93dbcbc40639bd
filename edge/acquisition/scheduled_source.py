"""A source that gives frames at the points of a plan, and none in between.

A live camera is read all the time. Its frames between two points are passed over and
not decoded, so that no buffer holds an old frame and a loss is seen at once. The frame
of a point is one that was exposed after the point was due and before the next point is
due. A point without a frame by then is missed: as soon as a frame comes again, one gap
names the points that were missed. The plan goes on with the next point; nothing is
taken later instead.

The plan's clock is the machine's monotonic time plus the time that it was suspended.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from edge.acquisition.pausable_source import PausableSource
from edge.acquisition.schedule import Plan, SchedulePosition
from edge.clock import boot_id, suspended_ns, utc_of
from edge.frames import Exposure, Gap, Planned
from edge.schema.entries import PlanNote
from edge.schema.results import MissedPoints, Point

_FIRST = SchedulePosition(0)
_PAUSED = "paused"
_NOT_IN_TIME = "no frame came in time"
_NO_PROCESS = "no process was at work"


@dataclass(frozen=True, slots=True)
class _PlanStart:
    """When a run's plan began, on the clock of the plan and by wall time."""

    run: str
    elapsed_ns: int
    utc: datetime


class ScheduledSource:
    """Gives the frames of `plan`. `read` is for one thread, the rest for any.

    Before `begin` and after the last point it gives no frames.
    """

    def __init__(
        self,
        source: PausableSource,
        plan: Plan,
        *,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        suspended_ns: Callable[[], int] = suspended_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._source, self.plan = source, plan
        self._monotonic_ns, self._suspended_ns = monotonic_ns, suspended_ns
        self._sleep = sleep
        self._lock = threading.Lock()
        self._start: _PlanStart | None = None
        self._next = _FIRST
        self._passed_over = 0
        self._waiting: Exposure | None = None
        self._lost_points: MissedPoints | None = None
        self._reason: str | None = None
        self._is_over = False
        self._sequence = 0
        self._last_frame_ns = monotonic_ns()

    @property
    def is_live(self) -> bool:
        """As the source is."""
        return self._source.is_live

    @property
    def silent_s(self) -> float:
        """Seconds since the camera gave a frame, planned or not."""
        return (self._monotonic_ns() - self._last_frame_ns) * 1e-9

    @property
    def is_over(self) -> bool:
        """Whether the last planned frame was read, and another one asked for."""
        with self._lock:
            return self._is_over

    def now_ns(self) -> int:
        """Time on the clock of the plan."""
        return self._monotonic_ns() + self._suspended_ns()

    def plan_note(self) -> PlanNote:
        """Return a description of the plan, with now as its beginning."""
        return PlanNote(
            points=self.plan.points,
            frames_per_point=self.plan.frames_per_point,
            lasts_s=self.plan.duration_ns / 1e9,
            sha256=self.plan.sha256,
            zero_utc=utc_of(self._monotonic_ns()),
            zero_ns=self.now_ns(),
            boot_id=boot_id(),
        )

    def begin(
        self,
        run: str,
        note: PlanNote,
        position: SchedulePosition = _FIRST,
        lost: MissedPoints | None = None,
    ) -> None:
        """Give the frames of a run from `position` on; those of another are dropped.

        `lost`: points from there on that passed without a process; the first gap names
        them.
        """
        start = _PlanStart(run, note.zero_ns, note.zero_utc)
        with self._lock:
            self._start, self._next, self._passed_over = start, position, 0
            self._waiting, self._reason, self._is_over = None, None, False
            self._lost_points = lost

    def end(self) -> None:
        """Give no more frames."""
        with self._lock:
            self._start, self._is_over = None, False

    @property
    def _is_done(self) -> bool:
        return self._next.index >= self.plan.points

    def read(self, timeout_s: float) -> Exposure | Gap | None:
        """Return the next planned frame or a gap. See `Source.read`."""
        with self._lock:
            self._is_over = self._start is not None and self._is_done
            if self._start is not None and self._lost_points is not None:
                return self._report_lost(self._start, self._lost_points)
            if self._waiting is not None and self._start is not None:
                exposure, self._waiting = self._waiting, None
                return self._match(exposure)
        if not self.is_live and self._waits_for_point(timeout_s):
            return None
        item = self._source.read(timeout_s)
        with self._lock:
            return self._match(item)

    def close(self) -> None:
        """Release the device."""
        self._source.close()

    def _match(self, item: Exposure | Gap | None) -> Exposure | Gap | None:
        """Return a frame that is due, or a gap of what was missed; drop all others."""
        if isinstance(item, Exposure):
            self._last_frame_ns, self._sequence = (
                self._monotonic_ns(),
                item.shot.sequence,
            )
        start = self._start
        if self._source.is_paused:
            self._reason = _PAUSED
        if isinstance(item, Gap):
            return self._forward_gap(item)
        if start is None or self._is_done:
            return None
        if self._lost_points is not None:  # the run began while we waited for this item
            self._waiting = item
            return self._report_lost(start, self._lost_points)
        if item is None:
            return self._miss_remaining(start)
        at_ns = item.shot.monotonic_ns + self._suspended_ns() - start.elapsed_ns
        due = self.plan.index_at(at_ns)
        if at_ns >= self.plan.end_ns:
            return self._miss(start, self.plan.points)
        if due > self._next.index:
            self._waiting = item
            return self._miss(start, due)
        if due < self._next.index:
            self._passed_over += 1
            return None
        return self._with_point(start, item)

    def _forward_gap(self, gap: Gap) -> Gap | None:
        """Return a gap; frames skipped between two points are only counted."""
        if gap.missed is None:
            self._reason = "camera away"
        elif self._reason != _PAUSED:
            self._passed_over += gap.missed
            return None
        return gap

    def _with_point(self, start: _PlanStart, exposure: Exposure) -> Exposure:
        """Return the exposure with the point that it belongs to."""
        plan, position = self.plan, self._next
        at_ns = exposure.shot.monotonic_ns + self._suspended_ns() - start.elapsed_ns
        due_ns, expected_ns = plan.due_ns(position.index), plan.expected_ns(position)
        following_ns = None
        if position.index + 1 < plan.points:
            following_ns = plan.due_ns(position.index + 1) - due_ns
        point = Point(
            index=position.index,
            frame=position.frame,
            phase=plan.phase_of(position.index),
            due=start.utc + timedelta(microseconds=due_ns / 1000),
            late_ms=round((at_ns - due_ns) / 1e6, 3),
            expected_s=None if expected_ns is None else expected_ns / 1e9,
            next_s=None if following_ns is None else following_ns / 1e9,
            between=self._passed_over,
        )
        self._next, self._passed_over = plan.after(position), 0
        self._reason = None
        return replace(exposure, planned=Planned(start.run, point))

    def _report_lost(self, start: _PlanStart, lost: MissedPoints) -> Gap:
        """Return a gap of the points that passed before this process was at work."""
        self._lost_points = None
        return self._miss(start, lost.last + 1, _NO_PROCESS)

    def _miss(self, start: _PlanStart, index: int, reason: str | None = None) -> Gap:
        """Go on with point `index`; return a gap of those missed before it."""
        position, self._next = self._next, SchedulePosition(index)
        missed = self.plan.missed(position, index)
        now_ns = self._monotonic_ns()
        text = f"points {missed.first} to {missed.last} of the schedule missed: "
        if missed.first == missed.last:
            text = f"point {missed.first} of the schedule missed: "
        text += reason or self._reason or _NOT_IN_TIME
        planned = Planned(start.run, missed)
        return Gap(self._sequence, None, text, now_ns, utc_of(now_ns), planned)

    def _miss_remaining(self, start: _PlanStart) -> Gap | None:
        """Return a gap where the plan is over and its last points have no frame."""
        if self.now_ns() - start.elapsed_ns < self.plan.end_ns:
            return None
        return self._miss(start, self.plan.points)

    def _waits_for_point(self, timeout_s: float) -> bool:
        """Wait, for a recording, until the next point is due; False once it is due."""
        with self._lock:
            start, position = self._start, self._next
        if (
            start is None
            or position.index >= self.plan.points
            or self._source.is_paused
        ):
            wait_s = timeout_s
        else:
            due_ns = start.elapsed_ns + self.plan.due_ns(position.index)
            wait_s = (due_ns - self.now_ns()) * 1e-9
        if wait_s > 0:
            self._sleep(min(wait_s, timeout_s))
        return wait_s > 0
