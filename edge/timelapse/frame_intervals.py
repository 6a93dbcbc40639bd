"""How regularly frames come, and what a pause means for what is remembered of cells."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import median
from typing import Literal

Continuity = Literal["first", "continuous", "discontinuous", "reset"]

_REMEMBERED = 31  # intervals of which the median is the usual one
_MOST_STEPS = 4


@dataclass(frozen=True, slots=True)
class FrameGap:
    """What lies between a frame and the one before it.

    `seconds` is None for the first; `steps` counts usual intervals, None where the past
    says nothing of where cells are now.
    """

    continuity: Continuity
    seconds: float | None
    steps: int | None


@dataclass(frozen=True, slots=True)
class PlannedInterval:
    """What a schedule says of a pause: None where the frame comes as it can."""

    is_planned: bool = False
    seconds: float | None = None


class FrameIntervals:
    """The intervals between frames; their median is the usual one.

    Time tells of every lost frame, whoever lost it: the driver, a busy device, a
    rejected picture or a cable that was out. A frame later than `lost_after` times the
    usual interval is discontinuous, one after `reset_after_s` has no past.
    """

    def __init__(self, lost_after: float, reset_after_s: float) -> None:
        self._lost_after, self._reset_after_s = lost_after, reset_after_s
        self._intervals_s: deque[float] = deque(maxlen=_REMEMBERED)
        self._last_ns: int | None = None

    def take(
        self, monotonic_ns: int, expected: PlannedInterval = PlannedInterval()
    ) -> FrameGap:
        """Say what lies between this frame and the last one.

        Where frames are planned, the usual interval is the planned one.
        """
        last, self._last_ns = self._last_ns, monotonic_ns
        if last is None:
            return FrameGap("first", None, None)
        passed_s = max(monotonic_ns - last, 0) * 1e-9
        if passed_s > self._reset_after_s:
            return FrameGap("reset", passed_s, None)
        if expected.is_planned:
            usual_s = expected.seconds or passed_s
        else:
            usual_s = median(self._intervals_s) if self._intervals_s else passed_s
            self._intervals_s.append(passed_s)
        steps = round(passed_s / usual_s) if usual_s > 0 else 1
        steps = min(max(steps, 1), _MOST_STEPS)
        is_late = passed_s > self._lost_after * usual_s
        return FrameGap("discontinuous" if is_late else "continuous", passed_s, steps)
