"""How large a pixel is: from the profile, the source, or the size of the red cells.

Human red cells are 7.5 µm wide, so their median width in pixels gives the scale.
Once frames agree the estimate is kept for the session: a scale that followed every
frame would change what the same cell looks like.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edge.artifacts.bundle import Bundle
from edge.engines import Engine
from edge.stages.detection import (
    RED_CELL_UM,
    Regions,
    are_whole,
    locate_at,
    locator_spec,
    widths,
)

Origin = Literal["profile", "source", "estimated"]
Locate = Callable[[float], Regions]

_LADDER = 1.7  # step between tried scales; the locator stands up to +-60 %
_TIMES_RED = {"RBC": 1.0, "WBC": 1.8, "Platelet": 0.35}  # widths, by class
_MIN_CELLS = 3
_AGREEMENT = 1.1  # largest over smallest estimate
_REMEDY = "set pixel_size_um of the source, or calibrate"
_CHANCE_CELLS = 4  # so many cells count half of what a crowd does
_MIN_COVERED = 0.02  # share of the frame that cells must cover to be believed


@dataclass(frozen=True, slots=True)
class PixelSize:
    """Micrometres per pixel, None if unknown, and where the figure comes from.

    `doubt` says why results at this scale are not to be trusted yet.
    """

    um: float | None
    origin: Origin | None
    doubt: str | None = None


class FrameScale(Protocol):
    """Tells how large a pixel is, frame by frame. Shared between workers."""

    def of(
        self,
        source_um: float | None,
        estimate: Callable[[], float | None],
        sequence: int | None = None,
    ) -> PixelSize:
        """Return the pixel size of a frame.

        Parameters
        ----------
        source_um
            What the source says of this frame; None if it does not know.
        estimate
            Reads the pixel size (µm) off the frame's cells; asked only where nobody
            else knows it.
        sequence
            The frame's number; a scale that was recorded knows frames by it.
        """


class Scale:
    """The pixel size of a session: known, or settled by frames that agree.

    Where neither profile nor source knows it, each frame is estimated by itself until
    `agreeing` frames in a row agree; their median is then the session's.
    """

    def __init__(self, profile_um: float | None, *, agreeing: int = 3) -> None:
        """`profile_um` is what the profile says, None if nothing."""
        self._settled: PixelSize | None = None
        if profile_um is not None:
            self._settled = PixelSize(profile_um, "profile")
        self._agreeing = agreeing
        self._estimates: list[float] = []
        self._lock = threading.Lock()

    def of(
        self,
        source_um: float | None,
        estimate: Callable[[], float | None],
        sequence: int | None = None,
    ) -> PixelSize:
        """See `FrameScale.of`; what the profile says goes before the source."""
        with self._lock:
            settled = self._settled
            if settled is not None and settled.origin == "profile":
                return settled
            if source_um is not None:  # of this frame: an objective may be changed
                return PixelSize(source_um, "source")
            return settled or self._take(estimate())

    def _take(self, estimate_um: float | None) -> PixelSize:
        if estimate_um is None:
            self._estimates.clear()
            return PixelSize(
                None,
                None,
                f"pixel size unknown: too few cells to read it off; {_REMEDY}",
            )
        self._estimates = [*self._estimates, estimate_um][-self._agreeing :]
        low, high = min(self._estimates), max(self._estimates)
        if len(self._estimates) < self._agreeing or high > low * _AGREEMENT:
            doubt = (
                f"pixel size not settled: {low:.3f} to {high:.3f} µm read off the "
                f"last {len(self._estimates)} frames, {self._agreeing} must agree; "
                f"{_REMEDY}"
            )
            return PixelSize(estimate_um, "estimated", doubt)
        self._settled = PixelSize(float(np.median(self._estimates)), "estimated")
        return self._settled


def estimate_pixel_size(
    frame_px: tuple[int, int], locator: Bundle, locate: Locate
) -> float | None:
    """Try scales from coarse to fine and keep the one where red cells fit best.

    Parameters
    ----------
    frame_px
        Width and height of the frame.
    locator
        Finds red cells best when they are its `diameter_px` wide.
    locate
        Finds regions at a given pixel size (µm), boxes in full-resolution pixels.

    Returns
    -------
    float or None
        Micrometres per pixel; None when no scale shows enough cells.
    """
    # A red cell may fill a third of the frame or be as small as the locator can see.
    widest = max(frame_px) / 3
    least = locator_spec(locator).diameter_px / 3
    expected = np.array([_TIMES_RED.get(name, np.nan) for name in locator.labels])
    tried = widest * _LADDER ** -np.arange(9.0)
    tried = tried[tried > least]
    best, best_score = None, 0.0
    for diameter in tried:
        regions = locate(RED_CELL_UM / diameter)
        found, score = _fit(regions, expected, diameter, frame_px)
        if score > best_score:
            best, best_score = found, score
    if best is None:
        return None
    refined, _ = _fit(locate(RED_CELL_UM / best), expected, best, frame_px)
    return RED_CELL_UM / (refined or best)


def read_pixel_size(
    field: NDArray[np.uint8], locator: Bundle, engine: Engine
) -> float | None:
    """Estimate the pixel size (µm) of a corrected frame (H, W, 3); None if unknown."""
    spec = locator_spec(locator)
    return estimate_pixel_size(
        (field.shape[1], field.shape[0]),
        locator,
        lambda um: locate_at(um, field, engine, spec)[1],
    )


def _fit(
    regions: Regions,
    expected: NDArray[np.float64],
    diameter_px: float,
    frame_px: tuple[int, int],
) -> tuple[float | None, float]:
    """Red-cell width by the cells found, and how well they agree that it is this one.

    Cells that the border cuts look smaller than they are: the width is that of whole
    cells where there are enough of them.
    """
    boxes = regions.boxes
    sizes = widths(boxes)
    red_px = sizes / expected[regions.kinds]  # of a red cell, if the class is right
    near = (red_px > 0.55 * diameter_px) & (red_px < 1.8 * diameter_px)
    covered = float((regions.scores[near] * sizes[near] ** 2).sum()) / np.prod(frame_px)
    if covered < _MIN_COVERED:
        return None, 0.0
    whole = are_whole(boxes, frame_px)
    red = near & (expected[regions.kinds] == 1)
    for judged in (red & whole, red, near):
        if judged.sum() >= _MIN_CELLS:
            break
    found = int(near.sum())  # one chance find may cover as much as a hundred cells
    believed = found / (found + _CHANCE_CELLS)
    return float(np.median(red_px[judged])), float(covered * near.mean() * believed)
