"""Read the reviewed cells of a site, and what the pipeline predicts for each.

A review is a CSV file with the columns path, label, x0, y0, x1 and y1: frames of this
site, and the boxes of cells that a person named. Paths are relative to the file.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge.errors import HemascopeError
from edge.pipeline.images.classify_images import classify
from edge.pipeline.pipeline import Pipeline
from edge.schema.results import Cell

_COLUMNS = ("path", "label", "x0", "y0", "x1", "y1")
_MIN_OVERLAP = 0.5  # intersection over union of a box and the cell found there
_MIN_PROBABILITY = 1e-6  # probabilities are written with four digits


class ReviewRefused(HemascopeError):
    """The file of reviewed cells cannot be read, or a line of it is wrong."""


@dataclass(frozen=True, slots=True)
class Reviewed:
    """One cell as a person named it."""

    path: Path
    label: str
    box: tuple[float, float, float, float]


class _Line(msgspec.Struct, frozen=True):
    path: str
    label: str
    x0: float
    y0: float
    x1: float
    y1: float


def read_reviewed(table: Path, labels: Sequence[str]) -> list[Reviewed]:
    """Read reviewed cells.

    Raises
    ------
    ReviewRefused
        A column is missing, or a line names an unknown label or an empty box.
    """
    try:
        text = table.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ReviewRefused(f"{table}: {error}; name a CSV file in UTF-8") from error
    lines = csv.DictReader(text.splitlines())
    missing = sorted(set(_COLUMNS) - set(lines.fieldnames or ()))
    if missing:
        raise ReviewRefused(f"{table}: has no columns {missing}, expected {_COLUMNS}")
    return [_cell(table, n, line, labels) for n, line in enumerate(lines, 2)]


def _cell(
    table: Path, number: int, line: Mapping[str, str], labels: Sequence[str]
) -> Reviewed:
    try:
        cell = msgspec.convert(line, _Line, strict=False)
    except msgspec.ValidationError as error:
        raise ReviewRefused(f"{table}:{number}: {error}") from error
    box = (cell.x0, cell.y0, cell.x1, cell.y1)
    if cell.label not in labels:
        raise ReviewRefused(
            f"{table}:{number}: label {cell.label!r}, expected one of {list(labels)}"
        )
    if not np.isfinite(box).all() or cell.x1 <= cell.x0 or cell.y1 <= cell.y0:
        raise ReviewRefused(f"{table}:{number}: box {box} is empty, expected x0 < x1")
    return Reviewed(table.parent / cell.path, cell.label, box)


def predictions_of(
    cells: Sequence[Reviewed], pipeline: Pipeline, pixel_size_um: float | None
) -> tuple[NDArray[np.float64], NDArray[np.int64], list[str]]:
    """Predict reviewed cells with the whole pipeline.

    Parameters
    ----------
    cells
        As a person named them.
    pipeline
        Of the site.
    pixel_size_um
        Of the frames, where the profile does not have it.

    Returns
    -------
    tuple
        Natural logarithms (N, K) of the probabilities, the reviewed classes (N,), and a
        line for every cell that is left out because it was not found.
    """
    labels = pipeline.classifier.labels
    predicted: list[list[float]] = []
    classes: list[int] = []
    left_out: list[str] = []
    paths = list(dict.fromkeys(cell.path for cell in cells))
    for image in classify(paths, pipeline, pixel_size_um):
        own = [cell for cell in cells if cell.path == image.path]
        if image.examined is None:
            left_out += [f"{image.path}: {image.error}"] * len(own)
            continue
        for cell in own:
            found = _at(cell, image.examined.result.cells)
            if found is None:
                left_out.append(f"{cell.path.name}: no cell found at {cell.box}")
                continue
            predicted.append([found.probabilities[label] for label in labels])
            classes.append(labels.index(cell.label))
    shares = np.maximum(np.array(predicted).reshape(-1, len(labels)), _MIN_PROBABILITY)
    return np.log(shares), np.array(classes, np.int64), left_out


def _at(reviewed: Reviewed, cells: Sequence[Cell]) -> Cell | None:
    """Return the cell whose box overlaps the reviewed one most, if by half or more."""
    best = max(cells, key=lambda cell: _overlap(reviewed.box, cell.box), default=None)
    if best is None or _overlap(reviewed.box, best.box) < _MIN_OVERLAP:
        return None
    return best


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes x0, y0, x1, y1."""
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(0.0, wide) * max(0.0, high)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return both / (sum(areas) - both)
