"""Labelled blood cells: which rows serve a task, and their crops and fields."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.artifacts.profile import IDENTITY_PROFILE, Profile, ProfileMismatch
from edge.errors import FrameRejected, HemascopeError
from edge.frames import Counts
from edge.sources.image_files import printable, read_picture
from edge.stages.colour_correction import correct, prepare
from edge.stages.crops import cut_crops, windows
from edge.stages.detection import are_whole, widths
from edge.taxonomy import TASKS, label_in_task
from training.data.boxes import Box, box_problem
from training.data.npz_stacks import read_stack

_FREE = ("MIT", "BSD")
_IMAGE_CONTEXT = 2.0  # side of an image of one cell over that of the cell, about
# Of which tasks a task can use the rows: a kind of white cell is a white cell.
_USABLE_FOR = {"cells4": ("cells4", "wbc_subtype")}


class DataInvalid(HemascopeError):
    """The data set contradicts itself, or a part of it cannot be read."""


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled cell. `box` is x0, y0, x1, y1 in pixels; None is the whole image.

    `group` is what a split must not cut: a slide, a blood sample, near-duplicates.
    `is_complete` says that every cell of its image is labelled. `where` is what an
    error names: a line such as "manifest.csv:17", or the file itself. `index` is the
    image's place in the stack of its split, where `path` holds stacks. `frames` of a
    clip lie side by side in one strip.
    """

    path: Path
    licence: str
    split: str
    label: str
    box: Box | None
    task: str
    domain: str
    group: str
    is_complete: bool
    where: str = ""
    index: int | None = None
    frames: int = 1

    @property
    def image(self) -> tuple[str, str, int]:
        """Identity of its image: the file, or split and index in a stack."""
        if self.index is None:
            return str(self.path), "", 0
        return str(self.path), self.split, self.index


def free_rows(rows: Iterable[Row]) -> list[Row]:
    """Keep rows whose licence allows weights to be shipped: MIT and BSD."""
    return [row for row in rows if row.licence.startswith(_FREE)]


def rows_of_task(rows: Iterable[Row], task: str) -> list[tuple[Row, int]]:
    """Choose the rows that `task` has a class for, each with the index of that class.

    A kind of white cell is used as a WBC of `cells4`, unless the same cell has a row of
    `cells4` itself. An image that appears both with boxes and as a whole is used with
    its boxes.
    """
    fit = [row for row in rows if row.task in _USABLE_FOR.get(task, (task,))]
    fit.sort(key=lambda row: row.task != task)
    boxed = {row.image for row in fit if row.box is not None}
    chosen: dict[tuple[object, object], tuple[Row, int]] = {}
    for row in fit:
        label = label_in_task(row.label, task)
        if label is not None and (row.box is not None or row.image not in boxed):
            chosen.setdefault((row.image, row.box), (row, TASKS[task].index(label)))
    return list(chosen.values())


def digest(rows: Iterable[Row]) -> str:
    """Return a sha256 over the path, label, box and split of all rows, in order."""
    text = "\n".join(
        f"{row.path.name},{row.label},{row.box},{row.split}"
        + ("" if row.index is None else f",{row.index}")
        for row in rows
    )
    return hashlib.sha256(text.encode()).hexdigest()


def count(values: Iterable[str]) -> dict[str, int]:
    """Count how often each value occurs, most frequent first."""
    return dict(Counter(values).most_common())


@dataclass(frozen=True, slots=True, eq=False)
class Crops:
    """Crops (N, S, S, 3) uint8 RGB with `classes` (N,) and the rows they come from."""

    pixels: NDArray[np.uint8]
    classes: NDArray[np.int64]
    rows: tuple[Row, ...]


def cut_task_crops(
    rows: Iterable[tuple[Row, int]],
    size_px: int,
    context: float,
    profiles: Mapping[str, Profile] | None = None,
) -> Crops:
    """Cut one crop per row with the device's own code.

    Parameters
    ----------
    rows
        Rows with their class. A row without a box is an image of one cell: its window
        is the image, wider where `context` is more than such an image shows.
    size_px
        Side of a crop.
    context
        Side of a window over the longer side of its box.
    profiles
        The profile of a domain's camera; a domain without one is taken as it is.

    Raises
    ------
    DataInvalid
        An image is damaged, does not fit its profile, or a box reaches outside it.
    """
    ordered = sorted(rows, key=lambda pair: pair[0].image)
    pixels = np.empty((len(ordered), size_px, size_px, 3), np.uint8)
    image = np.empty((0, 0, 3), np.uint8)
    read = None
    for number, (row, _) in enumerate(ordered):
        if row.image != read:
            profile = (profiles or {}).get(row.domain, IDENTITY_PROFILE)
            image, read = developed(row, profile), row.image
        if row.box is None:
            whole = np.array([[0, 0, image.shape[1], image.shape[0]]], np.float32)
            window = windows(whole, max(1.0, context / _IMAGE_CONTEXT))
        else:
            window = windows(_boxes_inside([row], image), context)
        pixels[number] = cut_crops(image, window, size_px)[0]
    classes = np.array([index for _, index in ordered], np.int64)
    return Crops(pixels, classes, tuple(row for row, _ in ordered))


def _boxes_inside(rows: list[Row], image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the boxes (N, 4) of rows of an image (H, W, 3), clipped to it.

    Raises
    ------
    DataInvalid
        A box is empty or reaches more than a pixel outside; names its row.
    """
    height, width = image.shape[:2]
    boxes = [row.box for row in rows if row.box is not None]
    for row, box in zip(rows, boxes, strict=True):
        problem = box_problem(box, width, height)
        if problem is not None:
            raise DataInvalid(f"{row.where}: {row.path.name}: {problem}")
    return np.clip(np.array(boxes, np.float32), 0, (width, height) * 2)


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

    Raises
    ------
    DataInvalid
        An image cannot be read, or a box reaches outside it.
    """
    by_image: dict[tuple[str, str, int], list[Row]] = defaultdict(list)
    for row in rows:
        if row.box is not None and row.label in classes:
            by_image[row.image].append(row)
    read = []
    sizes: dict[str, list[float]] = defaultdict(list)
    for members in sorted(by_image.values(), key=lambda rows: rows[0].path):
        pixels = developed(members[0])
        boxes = _boxes_inside(members, pixels)
        labels = np.array([classes.index(r.label) for r in members])
        is_red = (labels == 0) & are_whole(boxes, (pixels.shape[1], pixels.shape[0]))
        sides = widths(boxes[is_red]).tolist()
        sizes[members[0].domain] += sides
        read.append((members[0], pixels, boxes, labels, sides))
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
        for row, pixels, boxes, labels, sides in read
        if sizes[row.domain]
    ]


def developed(row: Row, profile: Profile = IDENTITY_PROFILE) -> NDArray[np.uint8]:
    """Read the image of a row and correct it as a device with this profile does.

    Returns (H, W, 3) uint8 RGB.

    Raises
    ------
    DataInvalid
        The image is missing, damaged, or not of the size the profile was measured at.
    """
    try:
        counts = read_counts(row)
        size = (counts.shape[1], counts.shape[0])
        profile.check(*size, camera=None)
    except (FrameRejected, ProfileMismatch) as error:
        raise DataInvalid(f"{row.where}: {error}") from error
    return correct(counts, prepare(profile, *size, counts.dtype))


def read_counts(row: Row) -> Counts:
    """Read the image of a row, (H, W, 3) uint8 or uint16 RGB.

    Raises
    ------
    FrameRejected
        It is missing or damaged, or EXIF turns it: whether its boxes are those of the
        turned picture nobody says.
    """
    if row.index is None:
        picture = read_picture(row.path)
        if row.box is not None and picture.orientation != 1:
            raise FrameRejected(
                f"{printable(row.path)}: EXIF orientation {picture.orientation} turns "
                "the picture, expected 1 where a row has a box; save it upright, with "
                "boxes to match"
            )
        return picture.pixels
    image: NDArray[np.uint8] = read_stack(row.path, row.split)[row.index]
    return image
