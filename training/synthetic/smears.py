"""Simulated smears as training data: all cells are known, and the stains are random.

No two laboratories stain alike, and the next one will have colours that are in no data
set. So slides are rendered with random dyes: only the shape of cells is common to them,
and that is what a model learns from them. DECISIONS.md says what this gains in
laboratories that were left out of training.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.simulation.cell_painting import STAINS, Stain
from edge.simulation.smear import SimulatedSlide, render_slide
from edge.stages.crops import cut_crops, windows
from edge.stages.detection import RED_CELL_UM
from edge.taxonomy import TASKS
from training.data.rows import Crops, Field, Row
from training.metrics.box_matching import intersection_over_union

DOMAIN = "simulated"
_SIZE_PX = (900, 700)
_PIXEL_UM = 0.14
_RED_PER_SLIDE, _PLASMA_PER_SLIDE = 20, 8
_Dye = tuple[float, float, float]


def simulated_fields(slides: int, classes: tuple[str, ...]) -> list[Field]:
    """Render whole slides, thin to crowded, with all their cells.

    Parameters
    ----------
    slides
        How many; one in four has one of the known stains, the others random dyes.
    classes
        The labels that count, in order.
    """
    return [_field(seed, classes) for seed in range(slides)]


def simulated_crops(slides: int, size_px: int, context: float) -> Crops:
    """Cut the cells of simulated slides, and plasma between them, for task `cells4`.

    Parameters
    ----------
    slides
        How many; see `simulated_fields`.
    size_px, context
        Of the crops, as for `cut_task_crops`.
    """
    names = TASKS["cells4"]
    pixels, classes = [], []
    rows: list[Row] = []
    for field in simulated_fields(slides, names):
        random = np.random.default_rng(len(rows))
        plasma = _between(field, random)
        boxes = np.vstack([field.boxes, plasma])
        labels = np.append(field.classes, [names.index("Plasma")] * len(plasma))
        red = random.permutation(np.flatnonzero(labels == names.index("RBC")))
        kept = np.setdiff1d(np.arange(len(labels)), red[_RED_PER_SLIDE:])
        pixels.append(cut_crops(field.pixels, windows(boxes[kept], context), size_px))
        classes.append(labels[kept])
        rows += [_row(field, names[label]) for label in labels[kept]]
    return Crops(np.concatenate(pixels), np.concatenate(classes), tuple(rows))


def random_stain(random: np.random.Generator) -> Stain:
    """Draw random dyes of any hue; nuclei are the densest, plasma is almost clear."""

    def dye(low: float, high: float, purest: float) -> _Dye:
        mix = random.uniform(purest, 1, 3)
        density = random.uniform(low, high) * mix / mix.max()
        return float(density[0]), float(density[1]), float(density[2])

    nucleus = dye(0.8, 2.2, 0.05)
    red, green, blue = (float(v) for v in np.array(nucleus) * random.uniform(0.5, 0.9))
    return Stain(
        haemoglobin=dye(0.15, 0.7, 0.3),
        nucleus=nucleus,
        cytoplasm=dye(0.1, 0.55, 0.1),
        azurophil=(red, green, blue),
        eosin=dye(0.3, 1.0, 0.1),
        plasma=dye(0.0, 0.2, 0.0),
    )


def _field(seed: int, classes: tuple[str, ...]) -> Field:
    """Render one slide, with all its cells of these classes."""
    random = np.random.default_rng((seed, 99))
    known = list(STAINS.values())
    stain = known[seed // 4 % len(known)] if seed % 4 == 0 else random_stain(random)
    slide = render_slide(
        *_SIZE_PX,
        pixel_size_um=_PIXEL_UM,
        stain=stain,
        cells_per_mm2=float(random.uniform(4000, 9500)),
        seed=1000 + seed,
    )
    boxes, labels = _visible(slide, classes)
    return Field(
        slide.transmittance,
        boxes,
        labels,
        RED_CELL_UM / _PIXEL_UM,
        DOMAIN,
        Path(f"slide-{seed}"),
        is_complete=True,
    )


def _row(field: Field, label: str) -> Row:
    """Return the row of a cell on a simulated slide."""
    return Row(
        path=field.path,
        licence="MIT",
        split="train",
        label=label,
        box=None,
        task="cells4",
        domain=DOMAIN,
        group=str(field.path),
        is_complete=True,
    )


def _between(field: Field, random: np.random.Generator) -> NDArray[np.float32]:
    """Draw boxes (N, 4) of plasma that no cell overlaps."""
    side = 0.6 * field.diameter_px
    corner = random.uniform((0, 0), np.array(_SIZE_PX) - side, (400, 2))
    boxes = np.hstack([corner, corner + side]).astype(np.float32)
    free = intersection_over_union(boxes, field.boxes).max(axis=1) == 0
    return np.array(boxes[free][:_PLASMA_PER_SLIDE])


def _visible(
    slide: SimulatedSlide, classes: tuple[str, ...]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Boxes (N, 4) and classes (N,) of the visible parts of all cells.

    The slide wraps around, so one cell may show parts at opposite borders.
    """
    size = np.array(_SIZE_PX, np.float32)
    boxes, labels = [], []
    for cell in slide.cells:
        half = np.array([cell.width_px, cell.height_px]) / 2
        for shift in np.stack(np.meshgrid((-1, 0, 1), (-1, 0, 1)), -1).reshape(-1, 2):
            centre = np.array([cell.x_px, cell.y_px]) + shift * size
            low, high = np.clip(centre - half, 0, size), np.clip(centre + half, 0, size)
            if (high - low > 3).all():
                boxes.append([*low, *high])
                labels.append(classes.index(cell.label))
    return np.array(boxes, np.float32), np.array(labels, np.int64)
