"""Let good frames into the differential, and say of the others why not.

Each figure has a limit that holds for every microscope, and a closer one learned from
the run's own good frames: median and median absolute deviation of the last of them,
within bounds, so that a bad stretch cannot open the gate.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np

from edge.schema.results import Fault, FrameResult, Quality
from edge.schema.row_limits import MAX_CELLS
from edge.taxonomy import NOT_A_CELL

_LEARNS_FROM = 200  # good frames
_ENOUGH = 20  # of them, before a limit is learned
_LEAST_FOCUS = 0.1  # worst good field of four laboratories 0.13; 1.2 µm out: 0.09
_PER_MAD = 1.4826  # standard deviation of a normal distribution over its MAD


@dataclass(frozen=True, slots=True)
class UsualRange:
    """What good frames of this run show: median and robust spread of a figure.

    `deviation` is that of the logarithm where `is_log`.
    """

    median: float
    deviation: float


@dataclass(frozen=True, slots=True)
class LimitExceeded:
    """A figure beyond its limit."""

    fault: Fault
    reason: str


class QualityGate:
    """Judges frames in their order, and learns from the good ones."""

    def __init__(self) -> None:
        self._good: dict[str, deque[float]] = {}

    def judge(self, result: FrameResult) -> FrameResult:
        """Return what was said of a frame, rejected if the frame is no good."""
        if result.status not in ("ok", "degraded") or result.quality is None:
            return result
        verdict = self._find(result, result.quality)
        if verdict is None:
            if result.status == "ok":
                self._learn(result.quality)
            return result
        return msgspec.structs.replace(
            result,
            status="rejected",
            fault=verdict.fault,
            reason=verdict.reason,
            cells=(),
            counts={},
        )

    def limits(self) -> dict[str, float]:
        """Return the limit of each figure as it is now."""
        return {
            "brightness": self._limit("brightness", 0.25, _at_least(0.6, 0.25, 0.5)),
            "saturated": self._limit("saturated", 0.25, _near(0.15, 0.15, 0.25)),
            "texture": self._limit("texture", 0.006, _at_least(0.15, 0.006, 0.012)),
            "motion": self._limit("motion", 0.42, _spread(8.0, 0.3, 0.42)),
            "focus": self._limit("focus", _LEAST_FOCUS, _sharp),
            "covered": 0.93,
        }

    def _find(self, result: FrameResult, quality: Quality) -> LimitExceeded | None:
        """Return the first thing that is wrong, the coarsest first."""
        figures = (quality.brightness, quality.motion, quality.texture, quality.covered)
        if None in figures:
            return None
        brightness, motion, texture, covered = (float(f or 0.0) for f in figures)
        limit = self.limits()
        cells = sum(n for label, n in result.counts.items() if label != NOT_A_CELL)
        if brightness < limit["brightness"]:
            return _verdict(
                "dark", "brightness", brightness, "least", limit, "give more light"
            )
        if quality.saturated > limit["saturated"]:
            return _verdict(
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
            return _verdict(
                "moving", "motion", motion, "most", limit, "hold the stage still"
            )
        if quality.focus < limit["focus"]:
            return _verdict(
                "blurred", "focus", quality.focus, "least", limit, "turn the fine focus"
            )
        if covered > limit["covered"] or len(result.cells) >= MAX_CELLS:
            return LimitExceeded(
                "crowded",
                f"too many cells: {len(result.cells)} of them cover {covered:.2f} of "
                f"the frame, at most {MAX_CELLS} and {limit['covered']:.2f} can be "
                "told apart; move to a thinner place",
            )
        return None

    def _learn(self, quality: Quality) -> None:
        for name in ("brightness", "saturated", "texture", "motion", "focus"):
            value = getattr(quality, name)
            if value is not None:
                seen = self._good.setdefault(name, deque(maxlen=_LEARNS_FROM))
                seen.append(float(value))

    def _limit(
        self, name: str, always: float, learned: Callable[[UsualRange], float]
    ) -> float:
        values = self._good.get(name, ())
        if len(values) < _ENOUGH:
            return always
        seen = np.array(values)
        median = float(np.median(seen))
        deviation = _PER_MAD * float(np.median(np.abs(seen - median)))
        return learned(UsualRange(median, deviation))


def _verdict(
    fault: Fault, name: str, value: float, side: str, limit: dict[str, float], do: str
) -> LimitExceeded:
    return LimitExceeded(
        fault,
        f"{fault}: {name} {value:.3f}, expected at {side} {limit[name]:.3f}; {do}",
    )


def _at_least(share: float, low: float, high: float) -> Callable[[UsualRange], float]:
    """Limit at a share of the usual, within bounds."""
    return lambda usual: min(max(share * usual.median, low), high)


def _near(more: float, low: float, high: float) -> Callable[[UsualRange], float]:
    """Limit so much above the usual, within bounds."""
    return lambda usual: min(max(usual.median + more, low), high)


def _spread(
    deviations: float, low: float, high: float
) -> Callable[[UsualRange], float]:
    """Limit so many deviations above the usual, within bounds."""
    return lambda usual: min(
        max(usual.median + deviations * usual.deviation, low), high
    )


def _sharp(usual: UsualRange) -> float:
    """Limit of focus: five deviations below the usual, between 0.35 and 0.55 of it."""
    share = 1 - 5 * usual.deviation / max(usual.median, 1e-6)
    return max(usual.median * min(max(share, 0.35), 0.55), _LEAST_FOCUS)
