"""Draw patches of whole fields for the locator, and the maps that it should predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.data.rows import Field
from training.models.locator import STRIDE_PX

PATCH_PX = 128
MEAN = (0.72, 0.65, 0.66)  # RGB of blood smears, 0 to 1
FILL = (
    round(255 * MEAN[0]),
    round(255 * MEAN[1]),
    round(255 * MEAN[2]),
)  # it becomes zero when standardised, as the padding of convolutions
MIN_VISIBLE = 0.15  # share of a box that a patch must show for it to count


@dataclass(frozen=True, slots=True, eq=False)
class LocatorBatch:
    """Patches for the locator and its targets; see `centre_loss` and `side_loss`.

    `images` (N, 3, P, P) float32, 0 to 255; `heat`, `weight` (N, K, P/4, P/4); `sides`
    (N, 4, P/4, P/4) pixels; `near` (N, P/4, P/4) bool.
    """

    images: Tensor
    heat: Tensor
    weight: Tensor
    sides: Tensor
    near: Tensor


def draw_batch(
    fields: Sequence[Field],
    classes: int,
    diameter_px: float,
    size: int,
    random: np.random.Generator,
) -> LocatorBatch:
    """Draw `size` random patches from random fields, each at a random scale.

    Cells are about `diameter_px` wide in them; `classes` is the number of maps.
    """
    examples = [
        _draw(fields[i], classes, diameter_px, random)
        for i in random.integers(0, len(fields), size)
    ]
    images, *maps = (
        torch.from_numpy(np.stack(part)) for part in zip(*examples, strict=True)
    )
    return LocatorBatch(images.permute(0, 3, 1, 2).float(), *maps)


def _draw(
    field: Field, classes: int, diameter_px: float, random: np.random.Generator
) -> tuple[NDArray[np.generic], ...]:
    """Draw one patch (P, P, 3) uint8 and its targets; see `_targets`."""
    patch, boxes, labels = _patch(field, diameter_px, random)
    patch, boxes = _turn(patch, boxes, random)
    height, width = patch.shape[:2]
    image = np.empty((PATCH_PX, PATCH_PX, 3), np.uint8)
    image[:] = FILL
    image[:height, :width] = patch
    return image, *_targets(boxes, labels, classes, (height, width), field.is_complete)


def _patch(
    field: Field, diameter_px: float, random: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int64]]:
    """Cut a window, zoomed and stretched, that becomes at most `PATCH_PX` wide.

    Returns the patch (h, w, 3) uint8, the boxes (N, 4) in its pixels, and the classes
    (N,) of the cells that it shows.
    """
    zoom = diameter_px / field.diameter_px * np.exp(random.uniform(-0.5, 0.5))
    stretch = zoom * np.exp(random.normal(0, 0.05, 2))
    frame = np.array(field.pixels.shape[1::-1])
    window = np.minimum(frame, PATCH_PX / stretch + 1).astype(int)
    corner = random.integers(0, frame - window + 1)
    size = np.clip((window * stretch).astype(int), 8, PATCH_PX)
    (x, y), (w, h) = corner.tolist(), window.tolist()
    smaller = cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR
    patch = cv2.resize(
        field.pixels[y : y + h, x : x + w], size.tolist(), interpolation=smaller
    )
    scale = np.tile(size / window, 2)
    moved = (field.boxes - np.tile(corner, 2)) * scale
    boxes = np.clip(moved, 0, np.tile(size, 2))
    whole = np.prod(moved[:, 2:] - moved[:, :2], axis=1)
    shown = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    large = (boxes[:, 2:] - boxes[:, :2] > 2).all(axis=1)
    kept = (shown > MIN_VISIBLE * whole) & large
    return patch, boxes[kept].astype(np.float32), field.classes[kept]


def _turn(
    patch: NDArray[np.uint8], boxes: NDArray[np.float32], random: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Flip and transpose a patch (h, w, 3) and boxes (N, 4) at random.

    A slide looks the same in all eight orientations.
    """
    height, width = patch.shape[:2]
    x0, y0, x1, y1 = boxes.T
    if random.random() < 0.5:
        patch, x0, x1 = patch[:, ::-1], width - x1, width - x0
    if random.random() < 0.5:
        patch, y0, y1 = patch[::-1], height - y1, height - y0
    if random.random() < 0.5:
        patch, x0, y0, x1, y1 = patch.transpose(1, 0, 2), y0, x0, y1, x1
    return patch, np.stack([x0, y0, x1, y1], axis=1)


def _targets(
    boxes: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: int,
    shape: tuple[int, int],
    is_complete: bool,
) -> tuple[NDArray[np.generic], ...]:
    """Return `heat`, `weight`, `sides` and `near` of a patch; see `LocatorBatch`.

    `boxes` (N, 4) in pixels, `labels` (N,) their classes, `shape` the height and width
    of the patch. Heat is a Gaussian around each centre; near it, the sides of the box
    are set. Large cells come first, so that small cells on them are not covered.
    """
    grid = PATCH_PX // STRIDE_PX
    y, x = (np.mgrid[0:grid, 0:grid].astype(np.float32) + 0.5) * STRIDE_PX
    heat = np.zeros((classes, grid, grid), np.float32)
    weight = np.zeros_like(heat)
    weight[:, : -(-shape[0] // STRIDE_PX), : -(-shape[1] // STRIDE_PX)] = 1
    if not is_complete:
        weight[0] = 0  # red cells are not all labelled: no loss
    sides = np.zeros((4, grid, grid), np.float32)
    near = np.zeros((grid, grid), bool)
    size = boxes[:, 2:] - boxes[:, :2]
    for i in np.argsort(-np.prod(size, axis=1)):
        x0, y0, x1, y1 = boxes[i]
        spread = np.maximum(size[i] * 0.14, 1.5)
        heat_of_cell = np.exp(
            -(
                ((x - (x0 + x1) / 2) / spread[0]) ** 2
                + ((y - (y0 + y1) / 2) / spread[1]) ** 2
            )
            / 2
        )
        row = min(int((y0 + y1) / 2 // STRIDE_PX), grid - 1)
        column = min(int((x0 + x1) / 2 // STRIDE_PX), grid - 1)
        own = heat[labels[i]]
        np.maximum(own, heat_of_cell, out=own)
        own[row, column] = 1
        close = heat_of_cell > 0.5
        close[row, column] = True
        close &= (x > x0) & (x < x1) & (y > y0) & (y < y1)
        sides[:, close] = np.stack([x - x0, y - y0, x1 - x, y1 - y])[:, close]
        near |= close
        if not is_complete and labels[i] == 0:
            weight[0][close] = 1
    return heat, weight, sides, near
