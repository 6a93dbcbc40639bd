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
        (N, 4) float32, x0, y0, x1, y1 in pixels.
    context
        1.0 touches the longer side; more shows what lies around the cell.

    Returns
    -------
    NDArray[np.int32]
        (N, 4) int32, x0, y0, x1, y1; may reach beyond the frame.
    """
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    side = (boxes[:, 2:] - boxes[:, :2]).max(axis=1) * context
    side = np.maximum(np.rint(side), 1)
    corner = np.rint(centre - side[:, None] / 2)
    return np.hstack([corner, corner + side[:, None]]).astype(np.int32)


def cut_crops(pixels: Image, windows_px: NDArray[np.int32], size_px: int) -> Image:
    """Cut windows and resize each to `size_px`; the frame is mirrored at its border.

    Windows that are twice as wide or more are cut out of the frame at half its size,
    or a quarter and so on, where bilinear interpolation skips no pixel: they overlap,
    so the frame is averaged once and not in each of them.

    Parameters
    ----------
    pixels
        (H, W, 3) uint8, uint16 or float32.
    windows_px
        (N, 4) int32, x0, y0, x1, y1 in pixels; one that is not square is stretched.
    size_px
        Side of each crop.

    Returns
    -------
    NDArray
        (N, size_px, size_px, 3), the type of `pixels`.
    """
    crops = np.empty((len(windows_px), size_px, size_px, 3), pixels.dtype)
    halvings: list[Any] = [pixels]
    for crop, window in zip(crops, windows_px.tolist(), strict=True):
        x0, y0, x1, y1 = window
        reduction = min(x1 - x0, y1 - y0) // (2 * size_px)
        level = reduction.bit_length()  # how often the frame is halved
        if level == 0:
            _cut_whole_pixels(pixels, window, crop)
            continue
        while level >= len(halvings):
            halvings.append(_halved(halvings[-1]))
        _cut_resampled(halvings[level], np.array(window) / 2**level, crop)
    return cast(Image, crops)


def _cut_whole_pixels(pixels: Any, window: list[int], crop: NDArray[Any]) -> None:
    """Resize a window of whole pixels of (H, W, 3) into `crop` (S, S, 3), in place."""
    height, width = pixels.shape[:2]
    x0, y0, x1, y1 = window
    top, left = min(max(y0, 0), height - 1), min(max(x0, 0), width - 1)
    inner = pixels[top : max(y1, 1), left : max(x1, 1)]
    beyond = (max(-y0, 0), max(y1 - height, 0), max(-x0, 0), max(x1 - width, 0))
    if any(beyond):
        inner = cv2.copyMakeBorder(inner, *beyond, borderType=cv2.BORDER_REFLECT)
    cv2.resize(inner, crop.shape[1::-1], crop, interpolation=cv2.INTER_LINEAR)


def _cut_resampled(
    pixels: Any, window: NDArray[np.float64], crop: NDArray[Any]
) -> None:
    """Resize a window (4,) that may begin within a pixel into `crop`, in place.

    `pixels` (H, W, 3) is the frame, halved some times; `crop` (S, S, 3).
    """
    size_px = len(crop)
    x0, y0, x1, y1 = window
    across, down = (x1 - x0) / size_px, (y1 - y0) / size_px
    corner = x0 + across / 2 - 0.5, y0 + down / 2 - 0.5  # of pixel centres
    cv2.warpAffine(
        pixels,
        np.array([[across, 0, corner[0]], [0, down, corner[1]]]),
        (size_px, size_px),
        crop,
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT,
    )


def _halved(pixels: Any) -> Any:
    """Return means of two by two pixels of (H, W, 3); an odd last line is left out."""
    height, width = (max(side // 2, 1) for side in pixels.shape[:2])
    even = pixels[: 2 * height, : 2 * width]
    return cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA)
