"""Red cells of laboratories that labelled only their white cells.

A laboratory of which the classifier has seen nothing but white cells teaches it that
this camera's colours mean "white cell". So the other cells of those images are found by
the locator and used as red cells: whatever it takes for a whole red cell and nobody
labelled as a white one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from edge.artifacts.bundle import Bundle
from edge.engines import Engine
from edge.pipeline.pixel_size import read_pixel_size
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
_SIZES = (0.7, 1.4)  # times the median red cell: fragments and clumps are left out
_MAX_OVERLAP = 0.05


def find_red_cells(rows: Iterable[Row], locator: Bundle, engine: Engine) -> list[Row]:
    """Rows of red cells in images where only white-cell kinds are labelled.

    Parameters
    ----------
    rows
        All rows that may be used.
    locator, engine
        What finds cells.
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
    return row.label in TASKS["wbc_subtype"]


def _others(members: Sequence[Row], locator: Bundle, engine: Engine) -> list[Row]:
    pixels = developed(members[0])
    height, width = pixels.shape[:2]
    pixel_size_um = read_pixel_size(pixels, locator, engine)
    if pixel_size_um is None:
        return []
    _, regions = locate_at(pixel_size_um, pixels, engine, locator_spec(locator))
    boxes = regions.boxes
    diameter_px = RED_CELL_UM / pixel_size_um
    size = widths(boxes) / diameter_px
    good = (regions.kinds == 0) & (regions.scores > _MIN_SCORE)
    good &= (size > _SIZES[0]) & (size < _SIZES[1])
    good &= are_whole(boxes, (width, height), margin_px=1)
    white = np.array([row.box or _middle(width, height) for row in members], np.float32)
    good &= intersection_over_union(boxes, white).max(axis=1) < _MAX_OVERLAP
    return [
        replace(members[0], label="RBC", task="cells4", box=tuple(box))
        for box in boxes[good].tolist()
    ]


def _middle(width: int, height: int) -> tuple[float, float, float, float]:
    """Where the labelled cell of an image of one cell lies."""
    return 0.22 * width, 0.22 * height, 0.78 * width, 0.78 * height
