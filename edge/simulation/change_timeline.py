"""Cells of a simulated slide that swell, burst or spread, at moments that are known.

What has changed of a cell is a difference in optical density, so light that passed the
slide as it was at first is multiplied by the exponential of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.settings.sources import SimulatedSettings
from edge.simulation.cell_changes import Look, Stage, red_cell, spreading_cell
from edge.simulation.cell_painting import STAINS, Density, Kind

Change = Literal["swelling", "lysis", "activation"]

_OPTICS_UM = 0.13  # as the slide's own
_STEPS = 32  # that a change is drawn in
_DRAWINGS = 512  # that are kept
_ROOM: dict[Kind, float] = {"erythrocyte": 1.5, "platelet": 2.2, "neutrophil": 1.6}
_LYSIS_SHARE, _SWELLS_FIRST = 0.65, 0.5


@dataclass(frozen=True, slots=True)
class TrueChange:
    """A change of one cell of the truth, from `onset_s` on, seconds from the start."""

    cell: int
    change: Change
    onset_s: float


@dataclass(frozen=True, slots=True, eq=False)
class _Fate:
    """What happens to one cell: when it swells, bursts or spreads, and how fast.

    `x_px`, `y_px`: centre of its drawings on the slide. Moments that never come are
    infinite.
    """

    x_px: int
    y_px: int
    look: Look
    swells_s: float
    bursts_s: float
    spreads_s: float
    takes_s: float

    @property
    def onset_s(self) -> float:
        """When the first change begins."""
        return min(self.swells_s, self.bursts_s, self.spreads_s)

    def stage(self, seconds: float) -> Stage:
        """How far the cell has come, in steps."""
        return Stage(
            _progress(seconds - self.swells_s, self.takes_s),
            _progress(seconds - self.bursts_s, 0.3 * self.takes_s),
            _progress(seconds - self.spreads_s, self.takes_s),
        )


def _progress(passed_s: float, takes_s: float) -> float:
    """From 0 to 1, fast at first, so that the onset is seen."""
    if passed_s < 0:
        return 0.0
    left = 1 - min(passed_s / takes_s, 1.0)
    return round((1 - left * left) * _STEPS) / _STEPS


class ChangeTimeline:
    """All changes on one slide. `truth` lists them in the order of the cells."""

    def __init__(self, settings: SimulatedSettings) -> None:
        self._settings = settings
        self._fates: list[_Fate] = []
        self.truth: list[TrueChange] = []
        self._light = lru_cache(maxsize=_DRAWINGS)(self._drawn_light)

    def consider(
        self, cell: int, kind: Kind, patch: Density, corner: tuple[int, int]
    ) -> None:
        """Decide the fate of a painted cell, its patch at `corner` (x, y) px."""
        settings = self._settings
        random = np.random.default_rng((settings.seed, cell, 5))
        if kind not in _ROOM or random.random() >= settings.changing:
            return
        onset_s = float(random.uniform(0, 3600 * settings.changing_within_h))
        takes_s = settings.change_takes_s * float(random.uniform(0.5, 1.0))
        swells_s = bursts_s = spreads_s = float("inf")
        if kind != "erythrocyte":
            spreads_s = onset_s
        elif random.random() >= _LYSIS_SHARE:
            swells_s = onset_s
        elif random.random() < _SWELLS_FIRST:
            swells_s = onset_s
            bursts_s = onset_s + takes_s * float(random.uniform(0.4, 1.0))
        else:
            bursts_s = onset_s
        side = int(len(patch) * _ROOM[kind]) // 2 * 2 + 1
        if kind == "erythrocyte":
            stain, um = STAINS[settings.stain], settings.pixel_size_um
            look = red_cell(patch, stain, um, side, random)
        else:
            look = spreading_cell(patch, kind, side, random)
        middle = len(patch) // 2
        x_px, y_px = corner[0] + middle, corner[1] + middle
        self._fates.append(
            _Fate(x_px, y_px, look, swells_s, bursts_s, spreads_s, takes_s)
        )
        moments: tuple[tuple[Change, float], ...] = (
            ("swelling", swells_s),
            ("lysis", bursts_s),
            ("activation", spreads_s),
        )
        self.truth += [TrueChange(cell, c, at) for c, at in moments if np.isfinite(at)]

    def show(
        self,
        view: NDArray[np.uint8],
        corner: tuple[int, int],
        slide_px: tuple[int, int],
        seconds: float,
    ) -> NDArray[np.uint8]:
        """Return the view (H, W, 3) with all that has happened until then.

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
        for number, fate in enumerate(self._fates):
            if fate.onset_s > seconds:
                continue
            light = self._light(number, fate.stage(seconds))
            half = len(light) // 2
            left = (fate.x_px - half - corner[0] + len(light)) % slide_px[0]
            top = (fate.y_px - half - corner[1] + len(light)) % slide_px[1]
            left, top = left - len(light), top - len(light)
            if left < view.shape[1] and top < view.shape[0]:
                shown = view.copy() if shown is view else shown
                _multiply(shown, light, left, top)
        return shown

    def _drawn_light(self, number: int, stage: Stage) -> Density:
        """Share of light (S, S, 3) that passes now, of what passed at first."""
        look = self._fates[number].look
        more = look(stage) - look(Stage(0, 0, 0))
        optics_px = _OPTICS_UM / self._settings.pixel_size_um
        return np.asarray(np.exp(-cv2.GaussianBlur(more, (0, 0), optics_px)))


def _multiply(view: NDArray[np.uint8], light: Density, left: int, top: int) -> None:
    """Multiply what of `light` lies in the view, in place."""
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
