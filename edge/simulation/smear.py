"""Render a stained blood smear with known truth.

Light through a stained cell follows Beer-Lambert: what overlaps adds up in optical
density. So cells are painted as density patches, summed on the slide, and the camera
sees `exp(-density)`. The slide wraps around at its edges, so that a stage may travel
without end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.simulation.cell_painting import (
    LEUKOCYTES,
    STAINS,
    Density,
    Kind,
    Stain,
    paint,
)


@dataclass(frozen=True, slots=True)
class TrueCell:
    """One cell of the slide: what it is and where, in slide pixels."""

    id: int
    kind: Kind
    x_px: float
    y_px: float
    width_px: float
    height_px: float

    @property
    def label(self) -> str:
        """The class of the four-class task this kind belongs to."""
        if self.kind in LEUKOCYTES:
            return "WBC"
        return "RBC" if self.kind == "erythrocyte" else "Platelet"


@dataclass(frozen=True, slots=True, eq=False)
class SimulatedSlide:
    """A rendered slide: `transmittance` (H, W, 3) uint8 RGB, 255 is clear glass."""

    transmittance: NDArray[np.uint8]
    cells: tuple[TrueCell, ...]
    pixel_size_um: float


def _visible_box(patch: Density) -> tuple[int, int, int, int]:
    """Return x0, y0, x1, y1 px of what is visibly denser than plasma in (S, S, 3)."""
    visible = patch.max(axis=2) > 0.045
    ys, xs = np.flatnonzero(visible.any(axis=1)), np.flatnonzero(visible.any(axis=0))
    return int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1


class _Placer:
    """Finds positions for cells: close, touching, some overlapping, none stacked."""

    def __init__(self, size_um: tuple[float, float], rng: np.random.Generator) -> None:
        self.size = np.asarray(size_um)
        self.rng = rng
        self.centres = np.empty((0, 2))
        self.radii = np.empty(0)

    def find(self, radius_um: float, overlap: float) -> tuple[float, float] | None:
        """Return a free position (µm) for a disc that may overlap others by a share.

        None where 60 tries found none.
        """
        for _ in range(60):
            at = self.rng.uniform((0, 0), self.size)
            apart = np.abs(self.centres - at)  # the slide wraps around
            apart = np.minimum(apart, self.size - apart)
            distance = np.hypot(apart[:, 0], apart[:, 1])
            if np.all(distance > (self.radii + radius_um) * (1 - overlap)):
                self.centres = np.vstack([self.centres, at])
                self.radii = np.append(self.radii, radius_um)
                return float(at[0]), float(at[1])
        return None


def _population(
    rng: np.random.Generator, size_um: tuple[float, float], density_per_mm2: float
) -> list[tuple[Kind, float, float]]:
    """Choose kinds and positions (µm).

    White cells come first, since red cells lie in the space between them.
    """
    area_mm2 = size_um[0] * size_um[1] * 1e-6
    placer = _Placer(size_um, rng)
    wanted: list[tuple[Kind, int, float, float]] = []
    share = {"neutrophil": 0.40, "lymphocyte": 0.26, "monocyte": 0.12}
    share |= {"eosinophil": 0.13, "basophil": 0.09}
    for kind in LEUKOCYTES:
        count = max(1, round(share[kind] * 240 * area_mm2))
        wanted.append((kind, count, 8.6 if kind == "monocyte" else 7.0, 0.0))
    wanted.append(("erythrocyte", round(density_per_mm2 * area_mm2), 3.8, 0.0))
    wanted.append(("platelet", round(700 * area_mm2), 1.4, 0.05))
    placed: list[tuple[Kind, float, float]] = []
    for kind, count, radius, overlap in wanted:
        for _ in range(count):
            close = rng.random() < 0.35 if kind == "erythrocyte" else False
            at = placer.find(radius, rng.uniform(0.08, 0.5) if close else overlap)
            if at is not None:
                placed.append((kind, *at))
    return placed


def render_slide(
    width_px: int,
    height_px: int,
    *,
    pixel_size_um: float = 0.07,
    stain: Stain = STAINS["may-grunwald-giemsa"],
    cells_per_mm2: float = 6500.0,
    seed: int = 0,
    on_cell: Callable[[int, Kind, Density, tuple[int, int]], None] | None = None,
) -> SimulatedSlide:
    """Render one slide with known truth.

    Parameters
    ----------
    width_px, height_px
        Size of the slide; it wraps around at its edges.
    pixel_size_um
        Micrometres per pixel in the plane of the cells.
    stain
        Its dyes.
    cells_per_mm2
        Red cells per square millimetre: 3000 is thin, 9000 is crowded, 0 gives a field
        without any cell.
    seed
        The same seed renders the same slide.
    on_cell
        Called for each cell with its number, its kind, its patch and the patch's top
        left pixel (x, y).

    Returns
    -------
    SimulatedSlide
        Transmittance (H, W, 3) uint8 RGB and every cell with its box.
    """
    rng = np.random.default_rng(seed)
    margin_px = round(12.0 / pixel_size_um)  # more than half the largest cell
    canvas = np.zeros(
        (height_px + 2 * margin_px, width_px + 2 * margin_px, 3), np.float32
    )
    cells = []
    size_um = (width_px * pixel_size_um, height_px * pixel_size_um)
    for number, (kind, x_um, y_um) in enumerate(
        _population(rng, size_um, cells_per_mm2) if cells_per_mm2 else ()
    ):
        patch = paint(kind, rng, pixel_size_um, stain)
        x = round(x_um / pixel_size_um) - patch.shape[1] // 2
        y = round(y_um / pixel_size_um) - patch.shape[0] // 2
        rows = slice(y + margin_px, y + margin_px + patch.shape[0])
        columns = slice(x + margin_px, x + margin_px + patch.shape[1])
        canvas[rows, columns] += patch
        if on_cell is not None:
            on_cell(number, kind, patch, (x, y))
        x0, y0, x1, y1 = _visible_box(patch)
        centre = ((x + (x0 + x1) / 2) % width_px, (y + (y0 + y1) / 2) % height_px)
        cells.append(TrueCell(number, kind, *centre, float(x1 - x0), float(y1 - y0)))
    density = _folded(canvas, margin_px)
    _add_plasma(density, stain, rng)
    light = _transmittance(density, pixel_size_um)
    return SimulatedSlide(light, tuple(cells), pixel_size_um)


def _add_plasma(density: Density, stain: Stain, rng: np.random.Generator) -> None:
    """Add the slightly uneven density of dried plasma to (H, W, 3), in place."""
    height_px, width_px = density.shape[:2]
    veil = rng.standard_normal((height_px // 48 + 2, width_px // 48 + 2))
    veil = 0.008 * cv2.resize(veil.astype(np.float32), (width_px, height_px))
    density += veil[..., None] + np.asarray(stain.plasma, np.float32)


def _transmittance(density: Density, pixel_size_um: float) -> NDArray[np.uint8]:
    """Return the light (H, W, 3) uint8 that passes `density` (H, W, 3), overwritten.

    Beer-Lambert: T = exp(-density), blurred by the diffraction of a 1.25 NA objective.
    """
    cv2.exp(-density, density)
    optics_px = 0.13 / pixel_size_um
    light = cv2.GaussianBlur(density, (0, 0), optics_px)
    return np.asarray(cv2.convertScaleAbs(light, alpha=255))


def _folded(canvas: Density, margin_px: int) -> Density:
    """Add what reaches over an edge of the slide to the opposite edge; cut the margin.

    `canvas` (H + 2m, W + 2m, 3) with the margin m; returns (H, W, 3).
    """
    canvas[margin_px : 2 * margin_px] += canvas[-margin_px:]
    canvas[-2 * margin_px : -margin_px] += canvas[:margin_px]
    canvas[:, margin_px : 2 * margin_px] += canvas[:, -margin_px:]
    canvas[:, -2 * margin_px : -margin_px] += canvas[:, :margin_px]
    return np.array(canvas[margin_px:-margin_px, margin_px:-margin_px])
