"""Read the size of a pixel off the cells of one frame, and say how sure that is.

Human red cells are 7.5 µm wide on a dried smear, so their median width in pixels gives
the scale. Where nothing is known, scales from coarse to fine are tried. Where a scale
is told, the cells found at it tell whether it can be right: their widths follow, from
0.6 to 2 times the true one, and further away hardly a red cell is found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, hypot, log

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

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

Locate = Callable[[float], Regions]

_LADDER = 1.7  # step between tried scales; the locator stands up to +-60 %
_TIMES_RED = {"RBC": 1.0, "WBC": 1.8, "Platelet": 0.35}  # widths, by class
_MIN_CELLS = 3
_CHANCE_CELLS = 4  # so many cells count half of what a crowd does
_MIN_COVERED = 0.02  # share of the frame that cells must cover to be believed
_MAX_LONE = 0.6  # share of the frame that one of fewer than `_MIN_CELLS` may cover
_LEAST_SPREAD = 0.07  # of ln(width) of red cells; a few may be alike by chance
_PEOPLE = 0.06  # by so much mean red cells of people differ, 95 %
_SURE = 0.6  # half of the interval, of ln(µm), that is still believed


@dataclass(frozen=True, slots=True)
class Reading:
    """The pixel size (µm) that cells show.

    `cells`: how many it was read off. `error`: standard error of its logarithm.
    """

    um: float
    cells: int
    error: float

    @property
    def range_um(self) -> tuple[float, float]:
        """Limits, 95 %: of the measurement, and of how people's red cells differ."""
        share = hypot(self._t() * self.error, _PEOPLE)
        return self.um * exp(-share), self.um * exp(share)

    @property
    def is_sure(self) -> bool:
        """Whether an image may be examined at this scale without a word."""
        return self.cells >= _MIN_CELLS and self._t() * self.error < _SURE

    def is_apart(self, um: float, times: float) -> bool:
        """Whether this is more than `times` off `um`, and by more than chance."""
        off = abs(log(self.um / um))
        chance = self._t() * self.error
        return self.cells >= _MIN_CELLS and off > log(times) and off > chance

    def __str__(self) -> str:
        """Write the figure, its limits and the number of cells."""
        low, high = self.range_um
        return f"{self.um:.3g} µm ({low:.3g} to {high:.3g}, {self.cells} cells)"

    def _t(self) -> float:
        """Return the factor of the standard error for 95 %, by Student."""
        return float(stdtrit(max(1, self.cells - 1), 0.975))


def reading_of(ratios: NDArray[np.float64], um: float) -> Reading | None:
    """Return what red cells say whose widths are `ratios` (N,) of those at `um`.

    The standard error of a median is 1.2533 times that of a mean; 1.4826 times the
    median absolute deviation is the standard deviation of normal values. None for
    N = 0.
    """
    if len(ratios) == 0:
        return None
    logs = np.log(ratios)
    middle = _median(logs)
    spread = max(1.4826 * _median(np.abs(logs - middle)), _LEAST_SPREAD)
    error = 1.2533 * spread / float(np.sqrt(len(logs)))
    return Reading(um * exp(-middle), len(logs), error)


def _median(values: NDArray[np.float64]) -> float:
    """Return the median of (N,); np.median takes ten times as long for 200."""
    ordered, count = np.sort(values), len(values)
    return float(ordered[(count - 1) // 2] + ordered[count // 2]) / 2


@dataclass(frozen=True, slots=True, eq=False)
class CellsAtScale:
    """What was found on a frame at a pixel size that was told.

    `ratios` (N,) float64 are widths of whole red cells, as shares of 7.5 µm. `score` is
    the mean probability of all finds: low where the scale is far off; None without any.
    """

    ratios: NDArray[np.float64]
    score: float | None


def cells_at_scale(
    regions: Regions, labels: Sequence[str], um: float, frame_px: tuple[int, int]
) -> CellsAtScale:
    """Return the red cells of a frame as they look at `um` per pixel."""
    kind = labels.index("RBC") if "RBC" in labels else -1
    red = regions.boxes[regions.kinds == kind]
    whole = red[are_whole(red, frame_px)]
    ratios = widths(whole).astype(np.float64) * (um / RED_CELL_UM)
    score = float(regions.scores.mean()) if len(regions.scores) else None
    return CellsAtScale(ratios, score)


def estimate_pixel_size(
    frame_px: tuple[int, int], locator: Bundle, locate: Locate
) -> Reading | None:
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
    Reading or None
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
    refined, _ = _fit(locate(best.um), expected, RED_CELL_UM / best.um, frame_px)
    return refined or best


def read_pixel_size(
    field: NDArray[np.uint8], locator: Bundle, engine: Engine
) -> float | None:
    """Estimate the pixel size (µm) of a corrected frame (H, W, 3); None if unknown."""
    spec = locator_spec(locator)
    reading = estimate_pixel_size(
        (field.shape[1], field.shape[0]),
        locator,
        lambda um: locate_at(um, field, engine, spec)[1],
    )
    return None if reading is None else reading.um


def _fit(
    regions: Regions,
    expected: NDArray[np.float64],
    diameter_px: float,
    frame_px: tuple[int, int],
) -> tuple[Reading | None, float]:
    """Read the scale off the cells found, and say how well they agree on it.

    Cells that the border cuts look smaller than they are: the width is that of whole
    cells where there are enough of them.
    """
    boxes = regions.boxes
    sizes = widths(boxes)
    red_px = sizes / expected[regions.kinds]  # of a red cell, if the class is right
    near = (red_px > 0.55 * diameter_px) & (red_px < 1.8 * diameter_px)
    shares = sizes[near] ** 2 / np.prod(frame_px)
    covered = float((regions.scores[near] * shares).sum())
    found = int(near.sum())
    # Without contrast the whole frame may be taken for one cell, which it cannot be.
    is_lone = found < _MIN_CELLS and shares.max(initial=0.0) > _MAX_LONE
    if covered < _MIN_COVERED or is_lone:
        return None, 0.0
    whole = are_whole(boxes, frame_px)
    red = near & (expected[regions.kinds] == 1)
    for judged in (red & whole, red, near):
        if judged.sum() >= _MIN_CELLS:
            break
    # One chance find may cover as much as a hundred cells.
    believed = found / (found + _CHANCE_CELLS)
    ratios = np.asarray(red_px[judged] / diameter_px, np.float64)
    reading = reading_of(ratios, RED_CELL_UM / diameter_px)
    return reading, float(covered * near.mean() * believed)
