"""Cells of a simulated slide that swell, burst or spread, at times that are known.

The change of a cell is a difference of optical density, dD. The light that passed the
slide at first is multiplied by exp(-dD), so that the slide is rendered only once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.settings.sources import SimulatedSettings
from edge.simulation.cell_changes import (
    CellRenderer,
    ChangeProgress,
    red_cell,
    spreading_cell,
)
from edge.simulation.cell_painting import STAINS, Density, Kind

Change = Literal["swelling", "lysis", "activation"]

_OPTICS_UM = 0.13  # as the slide's own
_PROGRESS_STEPS = 32  # that a change is drawn in
_CACHED_DRAWINGS = 512  # of cells
# Side of a drawing over the side of the cell's patch: room to grow.
_DRAWING_SCALE: dict[Kind, float] = {
    "erythrocyte": 1.5,
    "platelet": 2.2,
    "neutrophil": 1.6,
}
_LYSIS_SHARE, _SWELLS_FIRST = 0.65, 0.5


@dataclass(frozen=True, slots=True)
class TrueChange:
    """A change of one cell of the truth, from `onset_s` on, seconds from the start."""

    cell: int
    change: Change
    onset_s: float


@dataclass(frozen=True, slots=True, eq=False)
class _CellChanges:
    """The changes of one cell: when it swells, bursts or spreads, and how fast.

    `x_px`, `y_px`: centre of its drawings on the slide. Changes that never
    come begin at infinity.
    """

    x_px: int
    y_px: int
    render: CellRenderer
    swells_s: float
    bursts_s: float
    spreads_s: float
    duration_s: float

    @property
    def onset_s(self) -> float:
        """When the first change begins."""
        return min(self.swells_s, self.bursts_s, self.spreads_s)

    def progress(self, seconds: float) -> ChangeProgress:
        """How far the cell has come, in steps."""
        return ChangeProgress(
            _progress(seconds - self.swells_s, self.duration_s),
            _progress(seconds - self.bursts_s, 0.3 * self.duration_s),
            _progress(seconds - self.spreads_s, self.duration_s),
        )


def _progress(passed_s: float, duration_s: float) -> float:
    """From 0 to 1, fast at first, so that the onset is seen."""
    if passed_s < 0:
        return 0.0
    remaining = 1 - min(passed_s / duration_s, 1.0)
    return round((1 - remaining * remaining) * _PROGRESS_STEPS) / _PROGRESS_STEPS


class ChangeTimeline:
    """All changes on one slide. `truth` lists them in the order of the cells."""

    def __init__(self, settings: SimulatedSettings) -> None:
        self._settings = settings
        self._cells: list[_CellChanges] = []
        self.truth: list[TrueChange] = []
        self._light = lru_cache(maxsize=_CACHED_DRAWINGS)(self._drawn_light)

    def plan_cell(
        self, cell: int, kind: Kind, patch: Density, corner: tuple[int, int]
    ) -> None:
        """Choose the changes of a cell, its patch (S, S, 3) at `corner` (x, y) px."""
        settings = self._settings
        random = np.random.default_rng((settings.seed, cell, 5))
        if kind not in _DRAWING_SCALE or random.random() >= settings.changing:
            return
        onset_s = float(random.uniform(0, 3600 * settings.changing_within_h))
        duration_s = settings.change_takes_s * float(random.uniform(0.5, 1.0))
        swells_s = bursts_s = spreads_s = float("inf")
        if kind != "erythrocyte":
            spreads_s = onset_s
        elif random.random() >= _LYSIS_SHARE:
            swells_s = onset_s
        elif random.random() < _SWELLS_FIRST:
            swells_s = onset_s
            bursts_s = onset_s + duration_s * float(random.uniform(0.4, 1.0))
        else:
            bursts_s = onset_s
        side = int(len(patch) * _DRAWING_SCALE[kind]) // 2 * 2 + 1
        if kind == "erythrocyte":
            stain, um = STAINS[settings.stain], settings.pixel_size_um
            render = red_cell(patch, stain, um, side, random)
        else:
            render = spreading_cell(patch, kind, side, random)
        middle = len(patch) // 2
        x_px, y_px = corner[0] + middle, corner[1] + middle
        self._cells.append(
            _CellChanges(x_px, y_px, render, swells_s, bursts_s, spreads_s, duration_s)
        )
        moments: tuple[tuple[Change, float], ...] = (
            ("swelling", swells_s),
            ("lysis", bursts_s),
            ("activation", spreads_s),
        )
        self.truth += [TrueChange(cell, c, at) for c, at in moments if np.isfinite(at)]

    def apply(
        self,
        view: NDArray[np.uint8],
        corner: tuple[int, int],
        slide_px: tuple[int, int],
        seconds: float,
    ) -> NDArray[np.uint8]:
        """Return the view (H, W, 3) uint8 with all changes up to a time.

        Parameters
        ----------
        view
            Transmittance of the slide as it was at first.
        corner
            Its top left pixel (x, y) on the slide.
        slide_px
            Width and height after which the slide repeats.
        seconds
            From the start.
        """
        shown = view
        for number, cell_changes in enumerate(self._cells):
            if cell_changes.onset_s > seconds:
                continue
            light = self._light(number, cell_changes.progress(seconds))
            half = len(light) // 2
            left = (cell_changes.x_px - half - corner[0] + len(light)) % slide_px[0]
            top = (cell_changes.y_px - half - corner[1] + len(light)) % slide_px[1]
            left, top = left - len(light), top - len(light)
            if left < view.shape[1] and top < view.shape[0]:
                shown = view.copy() if shown is view else shown
                _multiply(shown, light, left, top)
        return shown

    def _drawn_light(self, number: int, progress: ChangeProgress) -> Density:
        """Return the light (S, S, 3) float32 that passes now over that at first."""
        render = self._cells[number].render
        more = render(progress) - render(ChangeProgress(0, 0, 0))
        optics_px = _OPTICS_UM / self._settings.pixel_size_um
        return np.asarray(np.exp(-cv2.GaussianBlur(more, (0, 0), optics_px)))


def _multiply(view: NDArray[np.uint8], light: Density, left: int, top: int) -> None:
    """Multiply the view (H, W, 3) by the part of `light` (S, S, 3) in it, in place."""
    height, width = view.shape[:2]
    rows = slice(max(top, 0), min(top + len(light), height))
    columns = slice(max(left, 0), min(left + len(light), width))
    if rows.stop <= rows.start or columns.stop <= columns.start:
        return
    part = light[
        rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
    ]
    bright = cv2.multiply(view[rows, columns], part, dtype=cv2.CV_32F)
    view[rows, columns] = cv2.convertScaleAbs(bright)
