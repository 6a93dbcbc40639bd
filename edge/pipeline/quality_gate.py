"""Admit good frames to the differential; reject the others with a reason.

Each figure of quality has a fixed limit that holds for every microscope. Once enough
good frames have been seen, a closer limit is learned from the run itself: from the
median and the median absolute deviation (MAD) of its latest good frames. The learned
limit stays within fixed bounds, so that a long series of bad frames cannot widen it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
from msgspec import UNSET

from edge.schema.results import Fault, FrameResult, Quality, cells_found
from edge.schema.row_limits import MAX_CELLS
from edge.stages.image_quality import MIN_BRIGHTNESS, MIN_FOCUS
from edge.taxonomy import NOT_A_CELL

_LEARNS_FROM = 200  # latest good frames
_MIN_FRAMES = 20  # of them, before a limit is learned
_PER_MAD = 1.4826  # standard deviation of a normal distribution over its MAD


@dataclass(frozen=True, slots=True)
class UsualRange:
    """Median and robust standard deviation of a figure over good frames of this run."""

    median: float
    deviation: float


@dataclass(frozen=True, slots=True)
class LimitExceeded:
    """A figure beyond its limit: the kind of fault, and the reason with its remedy."""

    fault: Fault
    reason: str


class QualityGate:
    """Judges frames in their order, and learns from the good ones."""

    def __init__(self) -> None:
        self._good: dict[str, deque[float]] = {}

    def judge(self, result: FrameResult) -> FrameResult:
        """Return the result of a frame, rejected if its quality is beyond a limit."""
        if result.status not in ("ok", "degraded") or result.quality is None:
            return result
        exceeded = self._first_exceeded(result, result.quality)
        if exceeded is None:
            if result.status == "ok":
                self._learn(result.quality)
            return result
        return msgspec.structs.replace(
            result,
            status="rejected",
            fault=exceeded.fault,
            reason="; ".join(r for r in (exceeded.reason, result.reason) if r),
            cells=(),
            cells_found=cells_found(result) or UNSET,
            counts={},
        )

    def limits(self) -> dict[str, float]:
        """Return the present limit of each figure: unitless, see `Quality`."""
        return {
            "brightness": self._limit(
                "brightness", MIN_BRIGHTNESS, _at_least(0.6, MIN_BRIGHTNESS, 0.5)
            ),
            "saturated": self._limit("saturated", 0.25, _above(0.15, 0.15, 0.25)),
            "texture": self._limit("texture", 0.006, _at_least(0.15, 0.006, 0.012)),
            "motion": self._limit("motion", 0.42, _deviations_above(8.0, 0.3, 0.42)),
            "focus": self._limit("focus", MIN_FOCUS, _below_usual_focus),
            "covered": 0.93,
        }

    def _first_exceeded(
        self, result: FrameResult, quality: Quality
    ) -> LimitExceeded | None:
        """Return the first limit exceeded, None for a good frame.

        Coarse faults come first: a dark frame also looks blurred and empty, but its
        remedy is light.
        """
        figures = (quality.brightness, quality.motion, quality.texture, quality.covered)
        if None in figures:
            return None
        brightness, motion, texture, covered = (float(f or 0.0) for f in figures)
        limit = self.limits()
        cells = sum(n for label, n in result.counts.items() if label != NOT_A_CELL)
        if brightness < limit["brightness"]:
            return _exceeded(
                "dark", "brightness", brightness, "least", limit, "give more light"
            )
        if quality.saturated > limit["saturated"]:
            return _exceeded(
                "saturated",
                "saturated",
                quality.saturated,
                "most",
                limit,
                "lower the exposure, the gain or the lamp",
            )
        if texture < limit["texture"] and cells == 0:
            return LimitExceeded(
                "empty",
                f"empty field, nothing to count: texture {texture:.4f}, cells show at "
                f"least {limit['texture']:.4f}; move to where cells lie",
            )
        if motion > limit["motion"]:
            return _exceeded(
                "moving", "motion", motion, "most", limit, "hold the stage still"
            )
        if quality.focus < limit["focus"]:
            return _exceeded(
                "blurred", "focus", quality.focus, "least", limit, "turn the fine focus"
            )
        if covered > limit["covered"] or cells_found(result) >= MAX_CELLS:
            return LimitExceeded(
                "crowded",
                f"too many cells: {cells_found(result)} of them cover {covered:.2f} of "
                f"the frame, at most {MAX_CELLS} and {limit['covered']:.2f} can be "
                "told apart; move to a thinner place",
            )
        return None

    def _learn(self, quality: Quality) -> None:
        """Add the figures of a good frame to what is usual."""
        for name in ("brightness", "saturated", "texture", "motion", "focus"):
            value = getattr(quality, name)
            if value is not None:
                values = self._good.setdefault(name, deque(maxlen=_LEARNS_FROM))
                values.append(float(value))

    def _limit(
        self, name: str, fixed: float, learned: Callable[[UsualRange], float]
    ) -> float:
        """Return the `learned` limit; `fixed`, while too few frames are known."""
        values = self._good.get(name, ())
        if len(values) < _MIN_FRAMES:
            return fixed
        usual = np.array(values)
        median = float(np.median(usual))
        deviation = _PER_MAD * float(np.median(np.abs(usual - median)))
        return learned(UsualRange(median, deviation))


def _exceeded(
    fault: Fault,
    name: str,
    value: float,
    side: str,
    limit: dict[str, float],
    remedy: str,
) -> LimitExceeded:
    return LimitExceeded(
        fault,
        f"{fault}: {name} {value:.3f}, expected at {side} {limit[name]:.3f}; {remedy}",
    )


def _at_least(share: float, low: float, high: float) -> Callable[[UsualRange], float]:
    """Limit at a share of the usual, within bounds."""
    return lambda usual: min(max(share * usual.median, low), high)


def _above(more: float, low: float, high: float) -> Callable[[UsualRange], float]:
    """Limit at `more` above the usual, within bounds."""
    return lambda usual: min(max(usual.median + more, low), high)


def _deviations_above(
    deviations: float, low: float, high: float
) -> Callable[[UsualRange], float]:
    """Limit so many deviations above the usual, within bounds."""
    return lambda usual: min(
        max(usual.median + deviations * usual.deviation, low), high
    )


def _below_usual_focus(usual: UsualRange) -> float:
    """Limit of focus: five deviations below the usual, between 0.35 and 0.55 of it."""
    share = 1 - 5 * usual.deviation / max(usual.median, 1e-6)
    return max(usual.median * min(max(share, 0.35), 0.55), MIN_FOCUS)
