"""How regularly frames come, and what a gap means for tracks and states of cells."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import median
from typing import Literal

Continuity = Literal["first", "continuous", "discontinuous", "reset"]

_WINDOW = 31  # latest intervals, whose median is the usual one
_MAX_STEPS = 4


@dataclass(frozen=True, slots=True)
class FrameGap:
    """What lies between a frame and the one before it.

    `seconds` is None for the first frame. `steps` counts usual intervals, 1 where no
    frame is missing; None where the past does not tell where cells are now.
    """

    continuity: Continuity
    seconds: float | None
    steps: int | None


@dataclass(frozen=True, slots=True)
class PlannedInterval:
    """What a schedule plans between two frames; `seconds` is None where unknown."""

    is_planned: bool = False
    seconds: float | None = None


class FrameIntervals:
    """The intervals between frames; their median is the usual one.

    Lost frames are noticed by time, so that the cause does not matter: the driver, a
    busy device, a rejected picture, or an unplugged cable. A frame later than
    `lost_after` times the usual interval is discontinuous. After more than
    `reset_after_s` seconds nothing of the past is used: the gap is a reset.
    """

    def __init__(self, lost_after: float, reset_after_s: float) -> None:
        self._lost_after, self._reset_after_s = lost_after, reset_after_s
        self._intervals_s: deque[float] = deque(maxlen=_WINDOW)
        self._last_ns: int | None = None

    def next_gap(
        self, monotonic_ns: int, expected: PlannedInterval = PlannedInterval()
    ) -> FrameGap:
        """Return what lies between this frame and the last one.

        Parameters
        ----------
        monotonic_ns
            When this frame was taken.
        expected
            The planned interval. Where frames are planned it is the usual one.
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
        steps = min(max(steps, 1), _MAX_STEPS)
        is_late = passed_s > self._lost_after * usual_s
        return FrameGap("discontinuous" if is_late else "continuous", passed_s, steps)
