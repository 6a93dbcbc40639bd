"""A source that gives frames at the points of a plan, and none in between.

A live camera is read all the time: its frames between two points are passed over
undecoded, so that no buffer holds an old one and its loss is seen at once. A planned
frame is one that was exposed after its point was due and before the next one is. What
was not taken by then is missed: one gap says which, as soon as there is a frame again,
and the plan goes on with the next point; nothing is caught up.

The plan's clock is the machine's monotonic time, with the time that it was suspended.
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
_NOBODY = "no process was at work"


@dataclass(frozen=True, slots=True)
class _PlanStart:
    """The beginning of a run's plan, on the clock of the plan and by wall time."""

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
        self._zero: _PlanStart | None = None
        self._next = _FIRST
        self._between = 0
        self._held: Exposure | None = None
        self._lost: MissedPoints | None = None
        self._why: str | None = None
        self._is_over = False
        self._sequence = 0
        self._seen_ns = monotonic_ns()

    @property
    def is_live(self) -> bool:
        """As the source is."""
        return self._source.is_live

    @property
    def silent_s(self) -> float:
        """Seconds since the camera gave a frame, planned or not."""
        return (self._monotonic_ns() - self._seen_ns) * 1e-9

    @property
    def is_over(self) -> bool:
        """Whether whoever read the last planned frame has come back for more."""
        with self._lock:
            return self._is_over

    def now_ns(self) -> int:
        """Time on the clock of the plan."""
        return self._monotonic_ns() + self._suspended_ns()

    def noted(self) -> PlanNote:
        """Return what is planned, beginning now."""
        return PlanNote(
            points=self.plan.points,
            frames_per_point=self.plan.frames_per_point,
            lasts_s=self.plan.lasts_ns / 1e9,
            sha256=self.plan.sha256,
            zero_utc=utc_of(self._monotonic_ns()),
            zero_ns=self.now_ns(),
            boot_id=boot_id(),
        )

    def begin(
        self,
        run: str,
        note: PlanNote,
        place: SchedulePosition = _FIRST,
        lost: MissedPoints | None = None,
    ) -> None:
        """Give the frames of a run from `place` on; those of another are dropped.

        `lost`: points from there on that passed without a process; that is said first.
        """
        zero = _PlanStart(run, note.zero_ns, note.zero_utc)
        with self._lock:
            self._zero, self._next, self._between = zero, place, 0
            self._held, self._why, self._is_over = None, None, False
            self._lost = lost

    def end(self) -> None:
        """Give nothing any more."""
        with self._lock:
            self._zero, self._is_over = None, False

    @property
    def _is_done(self) -> bool:
        return self._next.index >= self.plan.points

    def read(self, timeout_s: float) -> Exposure | Gap | None:
        """Return what comes next of what is planned. See `Source.read`."""
        with self._lock:
            self._is_over = self._zero is not None and self._is_done
            if self._zero is not None and self._lost is not None:
                return self._say_lost(self._zero, self._lost)
            if self._held is not None and self._zero is not None:
                held, self._held = self._held, None
                return self._judge(held)
        if not self.is_live and self._waits(timeout_s):
            return None
        item = self._source.read(timeout_s)
        with self._lock:
            return self._judge(item)

    def close(self) -> None:
        """Release the device."""
        self._source.close()

    def _judge(self, item: Exposure | Gap | None) -> Exposure | Gap | None:
        """Give a frame that is due, say what was missed, pass over all others."""
        if isinstance(item, Exposure):
            self._seen_ns, self._sequence = self._monotonic_ns(), item.shot.sequence
        zero = self._zero
        if self._source.is_paused:
            self._why = _PAUSED
        if isinstance(item, Gap):
            return self._pass_on(item)
        if zero is None or self._is_done:
            return None
        if self._lost is not None:  # the run began while we waited for this item
            self._held = item
            return self._say_lost(zero, self._lost)
        if item is None:
            return self._miss_the_rest(zero)
        at_ns = item.shot.monotonic_ns + self._suspended_ns() - zero.elapsed_ns
        due = self.plan.index_at(at_ns)
        if at_ns >= self.plan.over_ns:
            return self._miss(zero, self.plan.points)
        if due > self._next.index:
            self._held = item
            return self._miss(zero, due)
        if due < self._next.index:
            self._between += 1
            return None
        return self._take(zero, item)

    def _pass_on(self, gap: Gap) -> Gap | None:
        """Count frames that the driver skipped among those that nobody wanted."""
        if gap.missed is None:
            self._why = "camera away"
        elif self._why != _PAUSED:
            self._between += gap.missed
            return None
        return gap

    def _take(self, zero: _PlanStart, exposure: Exposure) -> Exposure:
        """Say which planned frame this is."""
        plan, place = self.plan, self._next
        at_ns = exposure.shot.monotonic_ns + self._suspended_ns() - zero.elapsed_ns
        due_ns, expected_ns = plan.due_ns(place.index), plan.expected_ns(place)
        following_ns = None
        if place.index + 1 < plan.points:
            following_ns = plan.due_ns(place.index + 1) - due_ns
        point = Point(
            index=place.index,
            frame=place.frame,
            phase=plan.phase_of(place.index),
            due=zero.utc + timedelta(microseconds=due_ns / 1000),
            late_ms=round((at_ns - due_ns) / 1e6, 3),
            expected_s=None if expected_ns is None else expected_ns / 1e9,
            next_s=None if following_ns is None else following_ns / 1e9,
            between=self._between,
        )
        self._next, self._between = plan.after(place), 0
        self._why = None
        return replace(exposure, planned=Planned(zero.run, point))

    def _say_lost(self, zero: _PlanStart, lost: MissedPoints) -> Gap:
        """Say which points passed before this process was at work."""
        self._lost = None
        return self._miss(zero, lost.last + 1, _NOBODY)

    def _miss(self, zero: _PlanStart, upto: int, why: str | None = None) -> Gap:
        """Go on with point `upto`, and say which were missed before it."""
        place, self._next = self._next, SchedulePosition(upto)
        missed = self.plan.missed(place, upto)
        now_ns = self._monotonic_ns()
        reason = f"points {missed.first} to {missed.last} of the schedule missed: "
        if missed.first == missed.last:
            reason = f"point {missed.first} of the schedule missed: "
        reason += why or self._why or _NOT_IN_TIME
        planned = Planned(zero.run, missed)
        return Gap(self._sequence, None, reason, now_ns, utc_of(now_ns), planned)

    def _miss_the_rest(self, zero: _PlanStart) -> Gap | None:
        """Say so where the plan is over and the last points were never taken."""
        if self.now_ns() - zero.elapsed_ns < self.plan.over_ns:
            return None
        return self._miss(zero, self.plan.points)

    def _waits(self, timeout_s: float) -> bool:
        """Let a recording wait until the next point is due."""
        with self._lock:
            zero, place = self._zero, self._next
        if zero is None or place.index >= self.plan.points or self._source.is_paused:
            wait_s = timeout_s
        else:
            due_ns = zero.elapsed_ns + self.plan.due_ns(place.index)
            wait_s = (due_ns - self.now_ns()) * 1e-9
        if wait_s > 0:
            self._sleep(min(wait_s, timeout_s))
        return wait_s > 0
