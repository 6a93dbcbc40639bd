"""Cut each located cell out of the frame: the very crops that training sees."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import cv2
import numpy as np
from numpy.typing import NDArray

Image = TypeVar("Image", bound=NDArray[Any])


def windows(
    boxes: NDArray[np.float32], context: float | NDArray[np.float32]
) -> NDArray[np.int32]:
    """Square windows around `boxes`, `context` times their longer side.

    Parameters
    ----------
    boxes
        (N, 4) x0, y0, x1, y1 in pixels.
    context
        1.0 touches the longer side; more shows what lies around the cell.

    Returns
    -------
    NDArray[np.int32]
        (N, 4) x0, y0, x1, y1; may reach beyond the frame.
    """
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    side = (boxes[:, 2:] - boxes[:, :2]).max(axis=1) * context
    side = np.maximum(np.rint(side), 1)
    corner = np.rint(centre - side[:, None] / 2)
    return np.hstack([corner, corner + side[:, None]]).astype(np.int32)


def cut_crops(pixels: Image, places: NDArray[np.int32], size_px: int) -> Image:
    """Cut windows and resize each to `size_px`; the frame is mirrored at its border.

    Parameters
    ----------
    pixels
        (H, W, 3) uint8, uint16 or float32.
    places
        (N, 4) square windows x0, y0, x1, y1 in pixels.
    size_px
        Side of each crop.

    Returns
    -------
    NDArray
        (N, size_px, size_px, 3), the type of `pixels`.
    """
    height, width = pixels.shape[:2]
    crops = np.empty((len(places), size_px, size_px, 3), pixels.dtype)
    for crop, (x0, y0, x1, y1) in zip(crops, places.tolist(), strict=True):
        top, left = min(max(y0, 0), height - 1), min(max(x0, 0), width - 1)
        inner: Any = pixels[top : max(y1, 1), left : max(x1, 1)]
        beyond = (max(-y0, 0), max(y1 - height, 0), max(-x0, 0), max(x1 - width, 0))
        if any(beyond):
            inner = cv2.copyMakeBorder(inner, *beyond, borderType=cv2.BORDER_REFLECT)
        cv2.resize(
            inner, (size_px, size_px), crop, interpolation=_filter(x1 - x0, size_px)
        )
    return cast(Image, crops)


def _filter(from_px: int, to_px: int) -> int:
    """Choose the filter: bilinear reads two pixels, beyond a half it skips some."""
    return cv2.INTER_AREA if from_px > 2 * to_px else cv2.INTER_LINEAR
