"""Read labelled blood cells: a manifest CSV with one row per box or per image."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.correction import correct, prepare
from edge.crops import cut_crops, windows
from edge.errors import HemascopeError
from edge.images import read_image
from edge.location import are_whole, widths
from edge.profile import IDENTITY_PROFILE
from edge.taxonomy import TASKS, as_task

COLUMNS = ("path", "licence", "split", "label", "x0", "y0", "x1", "y1")
_FREE = ("MIT", "BSD")
_SERVING = {"cells4": ("cells4", "wbc_subtype")}  # tasks whose rows serve another


class DataInvalid(HemascopeError):
    """The data set is not what it says it is."""


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled cell. `box` is x0, y0, x1, y1 in pixels; None is the whole image.

    `group` is what a split must not cut: a slide, a blood sample, near-duplicates.
    `is_complete` says that every cell of its image is labelled.
    """

    path: Path
    licence: str
    split: str
    label: str
    box: tuple[float, float, float, float] | None
    task: str
    domain: str
    group: str
    is_complete: bool


def read_manifest(manifest: Path) -> list[Row]:
    """Read a manifest; image paths are relative to it.

    Raises
    ------
    DataInvalid
        A column is missing, a split or a box is not one; names the line.
    """
    try:
        text = manifest.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataInvalid(f"{manifest}: {error}; expected a CSV file, UTF-8") from error
    with io.StringIO(text, newline="") as file:
        reader = csv.DictReader(file)
        missing = [c for c in COLUMNS if c not in (reader.fieldnames or ())]
        if missing:
            raise DataInvalid(
                f"{manifest}: has no column {missing}; it needs {COLUMNS}"
            )
        return [_row(line, manifest, number) for number, line in enumerate(reader, 2)]


def _row(line: dict[str, str], manifest: Path, number: int) -> Row:
    where = f"{manifest}:{number}"
    if None in line.values():
        raise DataInvalid(f"{where}: has fewer columns than the first line")
    if line["split"] not in ("train", "val", "test"):
        raise DataInvalid(
            f"{where}: split is {line['split']!r}, not train, val or test"
        )
    sides = [line[c] for c in ("x0", "y0", "x1", "y1")]
    box = None
    if any(sides):
        try:
            box = (float(sides[0]), float(sides[1]), float(sides[2]), float(sides[3]))
        except (ValueError, TypeError) as error:
            raise DataInvalid(f"{where}: box {sides} is not four numbers") from error
        if not (np.isfinite(box).all() and box[2] > box[0] and box[3] > box[1]):
            raise DataInvalid(f"{where}: box {sides} is empty or not finite")
    return Row(
        path=manifest.parent / line["path"],
        licence=line["licence"],
        split=line["split"],
        label=line["label"],
        box=box,
        task=line.get("task") or "cells4",
        domain=line.get("domain") or manifest.parent.name,
        group=line.get("group") or line["path"],
        is_complete="incomplete" not in line.get("label_origin", ""),
    )


def free_rows(rows: Iterable[Row]) -> list[Row]:
    """Rows whose licence allows weights to be shipped: MIT and BSD."""
    return [row for row in rows if row.licence.startswith(_FREE)]


def rows_of_task(rows: Iterable[Row], task: str) -> list[tuple[Row, int]]:
    """Rows that `task` has a class for, each with that class's index.

    A white-cell kind serves as a WBC of `cells4` where the same cell is not labelled so
    already; an image that appears both as boxes and as a whole is used as boxes.
    """
    fit = [row for row in rows if row.task in _SERVING.get(task, (task,))]
    fit.sort(key=lambda row: row.task != task)
    boxed = {row.path for row in fit if row.box is not None}
    chosen: dict[tuple[Path, object], tuple[Row, int]] = {}
    for row in fit:
        label = as_task(row.label, task)
        if label is not None and (row.box is not None or row.path not in boxed):
            chosen.setdefault((row.path, row.box), (row, TASKS[task].index(label)))
    return list(chosen.values())


def digest(rows: Iterable[Row]) -> str:
    """Return the sha256 of what was used: every path, label and box, in order."""
    text = "\n".join(f"{r.path.name},{r.label},{r.box},{r.split}" for r in rows)
    return hashlib.sha256(text.encode()).hexdigest()


def count(values: Iterable[str]) -> dict[str, int]:
    """How often each value occurs, most frequent first."""
    return dict(Counter(values).most_common())


@dataclass(frozen=True, slots=True, eq=False)
class Crops:
    """Crops (N, S, S, 3) uint8 RGB with `classes` (N,) and the rows they come from."""

    pixels: NDArray[np.uint8]
    classes: NDArray[np.int64]
    rows: tuple[Row, ...]


def cut_task_crops(
    rows: Iterable[tuple[Row, int]], size_px: int, context: float
) -> Crops:
    """Cut one crop per row with the device's own code.

    A row without a box is an image of one cell: its window is the image.
    """
    wanted = sorted(rows, key=lambda pair: str(pair[0].path))
    pixels = np.empty((len(wanted), size_px, size_px, 3), np.uint8)
    image = np.empty((0, 0, 3), np.uint8)
    of = None
    for place, (row, _) in enumerate(wanted):
        if row.path != of:
            image, of = developed(row.path), row.path
        height, width = image.shape[:2]
        if row.box is None:
            window = windows(np.array([[0, 0, width, height]], np.float32), 1.0)
        else:
            box = np.clip(np.array([row.box], np.float32), 0, (width, height) * 2)
            window = windows(box, context)
        pixels[place] = cut_crops(image, window, size_px)[0]
    classes = np.array([index for _, index in wanted], np.int64)
    return Crops(pixels, classes, tuple(row for row, _ in wanted))


def join(a: Crops, b: Crops) -> Crops:
    """Put two sets of crops of the same size together."""
    return Crops(
        np.concatenate([a.pixels, b.pixels]),
        np.concatenate([a.classes, b.classes]),
        a.rows + b.rows,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """One field of view with its boxes (N, 4) in pixels and `classes` (N,).

    `diameter_px` is the median width of its red cells. `is_complete` says that every
    red cell is labelled.
    """

    pixels: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]
    diameter_px: float
    domain: str
    path: Path
    is_complete: bool


def read_fields(rows: Iterable[Row], classes: tuple[str, ...]) -> list[Field]:
    """Group the boxes of `classes` by image and read the images.

    The red-cell diameter of a field with fewer than three whole red cells is that of
    its domain; a domain without any is left out.
    """
    by_path: dict[Path, list[Row]] = {}
    for row in rows:
        if row.box is not None and row.label in classes:
            by_path.setdefault(row.path, []).append(row)
    drafts = []
    for path, members in sorted(by_path.items()):
        pixels = developed(path)
        boxes = np.array([r.box for r in members], np.float32)
        boxes = np.clip(boxes, 0, (pixels.shape[1], pixels.shape[0]) * 2)
        labels = np.array([classes.index(r.label) for r in members])
        drafts.append(
            (members[0], pixels, boxes, labels, _whole_red(boxes, labels, pixels))
        )
    sizes: dict[str, list[float]] = {}
    for row, _, _, _, sides in drafts:
        sizes.setdefault(row.domain, []).extend(sides)
    return [
        Field(
            pixels,
            boxes,
            labels,
            float(np.median(sides if len(sides) >= 3 else sizes[row.domain])),
            row.domain,
            row.path,
            row.is_complete,
        )
        for row, pixels, boxes, labels, sides in drafts
        if sizes[row.domain]
    ]


def developed(path: Path) -> NDArray[np.uint8]:
    """Read an image as a device without a calibration sees it."""
    counts = read_image(path)
    size = (counts.shape[1], counts.shape[0])
    return correct(counts, prepare(IDENTITY_PROFILE, *size, counts.dtype))


def _whole_red(
    boxes: NDArray[np.float32], classes: NDArray[np.int64], pixels: NDArray[np.uint8]
) -> list[float]:
    """Widths (px) of the red cells that the border does not cut."""
    height, width = pixels.shape[:2]
    chosen = (classes == 0) & are_whole(boxes, (width, height))
    found: list[float] = widths(boxes[chosen]).tolist()
    return found


def contact_sheet(crops: Crops, columns: int = 20) -> NDArray[np.uint8]:
    """Return a picture of up to `columns` crops per class, one class per row."""
    rows = []
    for index in np.unique(crops.classes):
        chosen = crops.pixels[crops.classes == index][:columns]
        blank = np.full((columns - len(chosen), *crops.pixels.shape[1:]), 255, np.uint8)
        rows.append(np.hstack([*chosen, *blank]))
    sheet: NDArray[np.uint8] = cv2.resize(np.vstack(rows), None, fx=0.5, fy=0.5)
    return sheet
