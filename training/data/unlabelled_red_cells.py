"""Find red cells in images of laboratories that labelled only their white cells.

If a classifier sees nothing but white cells of a laboratory, it learns that the colours
of this camera mean "white cell". So the locator finds the other cells of those images:
what it takes for a whole red cell, and nobody labelled as a white one, is used as a red
cell.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from edge.artifacts.bundle import Bundle
from edge.engines import Engine
from edge.pipeline.scale_reading import read_pixel_size
from edge.stages.detection import (
    RED_CELL_UM,
    are_whole,
    locate_at,
    locator_spec,
    widths,
)
from edge.taxonomy import TASKS
from training.data.rows import Row, developed
from training.metrics.box_matching import intersection_over_union

_MIN_SCORE = 0.5
_SIZES = (0.7, 1.4)  # over the usual red cell: fragments and clumps are left out
_MAX_OVERLAP = 0.05


def find_red_cells(rows: Iterable[Row], locator: Bundle, engine: Engine) -> list[Row]:
    """Return rows of red cells in images where only kinds of white cells are labelled.

    Parameters
    ----------
    rows
        All rows that can be used.
    locator, engine
        The locator and its engine.
    """
    by_path: dict[Path, list[Row]] = {}
    for row in rows:
        by_path.setdefault(row.path, []).append(row)
    found = []
    for members in by_path.values():
        if all(row.task == "wbc_subtype" and _is_white(row) for row in members):
            found += _others(members, locator, engine)
    return found


def _is_white(row: Row) -> bool:
    """Whether a row is labelled with a kind of white cell."""
    return row.label in TASKS["wbc_subtype"]


def _others(members: Sequence[Row], locator: Bundle, engine: Engine) -> list[Row]:
    """Return rows of the red cells in an image; `members` are its labelled rows."""
    pixels = developed(members[0])
    height, width = pixels.shape[:2]
    pixel_size_um = read_pixel_size(pixels, locator, engine)
    if pixel_size_um is None:
        return []
    _, regions = locate_at(pixel_size_um, pixels, engine, locator_spec(locator))
    boxes = regions.boxes
    diameter_px = RED_CELL_UM / pixel_size_um
    size = widths(boxes) / diameter_px
    is_red = (regions.kinds == 0) & (regions.scores > _MIN_SCORE)
    is_red &= (size > _SIZES[0]) & (size < _SIZES[1])
    is_red &= are_whole(boxes, (width, height), margin_px=1)
    white = np.array([row.box or _middle(width, height) for row in members], np.float32)
    is_red &= intersection_over_union(boxes, white).max(axis=1) < _MAX_OVERLAP
    return [
        replace(members[0], label="RBC", task="cells4", box=tuple(box))
        for box in boxes[is_red].tolist()
    ]


def _middle(width: int, height: int) -> tuple[float, float, float, float]:
    """Return the box of the cell in an image of one cell, about."""
    return 0.22 * width, 0.22 * height, 0.78 * width, 0.78 * height
