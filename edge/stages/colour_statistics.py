"""Measure colours of a corrected, reduced frame: background, red cells, nuclei.

Used in three places: drift compares them with the calibration, the slide reference is
fitted to them, and reports compare laboratories by them.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge.stages.crops import cut_crops
from edge.stages.detection import Regions

_BOX_SCALE = 1.15  # of a cell's box, so that its rim and halo are not background
_MIN_BACKGROUND_SHARE = 0.02  # of the field; less is not measured
_BRIGHT_PERCENTILE = 50  # darker pixels outside of boxes may be pale cells
_CROP_PX = 12  # side of the crops whose colours are measured
_NUCLEUS_PERCENTILE = 25  # of the red channel in a white cell's box
_RING = (0.25, 0.85)  # radii, shares of the half box: without pale centre and rim


@dataclass(frozen=True, slots=True, eq=False)
class Colours:
    """Colours of one frame, 8-bit RGB as float.

    `background` (3,) float64 is that of plasma, None where cells cover the field;
    `background_share` is the share of the field outside of cells. `red_cells` (N, 3)
    and `nuclei` (M, 3) have one row per whole cell.
    """

    background: NDArray[np.float64] | None
    background_share: float
    red_cells: NDArray[np.float64]
    nuclei: NDArray[np.float64]


def read_colours(
    field: NDArray[np.uint8],
    regions: Regions,
    labels: tuple[str, ...],
    frame_px: tuple[int, int],
) -> Colours:
    """Measure the colours of a frame.

    Parameters
    ----------
    field
        (h, w, 3) uint8 RGB, corrected and reduced.
    regions
        The cells, boxes in pixels of the full frame.
    labels
        The locator's names of `regions.kinds`.
    frame_px
        Width and height of the full frame.
    """
    height, width = field.shape[:2]
    scale = np.array([width / frame_px[0], height / frame_px[1]] * 2)
    boxes = regions.boxes * scale
    names = np.array(labels)[regions.kinds] if labels else np.array([], str)
    background, share = _background(field, boxes)
    inside = (boxes[:, :2] >= 1).all(axis=1)
    inside &= (boxes[:, 2:] <= np.array([width, height]) - 1).all(axis=1)
    red = _crops(field, boxes[inside & (names == "RBC")])
    white = _crops(field, boxes[inside & (names == "WBC")])
    return Colours(background, share, _red_cells(red), _nuclei(white))


def to_lab(rgb: ArrayLike) -> NDArray[np.float64]:
    """CIELAB (..., 3) float64 of 8-bit sRGB colours (..., 3); clipped to 0 to 255."""
    colours = np.asarray(rgb, np.float32).clip(0, 255) / 255
    lab = cv2.cvtColor(colours.reshape(1, -1, 3), cv2.COLOR_RGB2Lab)
    return np.asarray(lab.reshape(colours.shape), np.float64)


def delta_e(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """CIE76 difference of two colours (3,) in CIELAB."""
    return float(np.linalg.norm(a - b))


def median(colours: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Median (3,) of colours (N, 3); None for N = 0."""
    return np.median(colours, axis=0) if len(colours) else None


def _background(
    field: NDArray[np.uint8], boxes: NDArray[np.float64]
) -> tuple[NDArray[np.float64] | None, float]:
    """Return the median colour (3,) outside of boxes, and the share of the field there.

    `field` (h, w, 3), `boxes` (N, 4) in its pixels. Only the brighter half counts.
    """
    is_background = np.ones(field.shape[:2], np.uint8)
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]) / 2 * _BOX_SCALE
    corners = np.rint(np.hstack([middle - half, middle + half])).astype(int)
    for x0, y0, x1, y1 in corners.tolist():
        cv2.rectangle(is_background, (x0, y0), (x1, y1), 0, cv2.FILLED)
    pixels = field[is_background.astype(bool)]
    share = len(pixels) / is_background.size
    if share < _MIN_BACKGROUND_SHARE:
        return None, share
    green = pixels[:, 1]
    bright = pixels[green >= np.percentile(green, _BRIGHT_PERCENTILE)]
    return np.asarray(np.median(bright, axis=0), np.float64), share


def _crops(field: NDArray[np.uint8], boxes: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Cut boxes (N, 4) out of `field` (h, w, 3), stretched to (N, P, P, 3)."""
    windows_px = np.rint(boxes).astype(np.int32)
    return cut_crops(field, windows_px, _CROP_PX)


def _red_cells(crops: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the median colour (N, 3) of a ring in each crop (N, P, P, 3)."""
    at = (np.arange(_CROP_PX) + 0.5) / _CROP_PX * 2 - 1
    radius = np.hypot(at[:, None], at[None])
    ring = (radius > _RING[0]) & (radius < _RING[1])
    return np.asarray(np.median(crops[:, ring], axis=1), np.float64).reshape(-1, 3)


def _nuclei(crops: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the colour (N, 3) of the nucleus in each crop (N, P, P, 3).

    The median of the pixels that let least red light through: nuclei are blue.
    """
    colours = []
    for pixels in crops.reshape(-1, _CROP_PX**2, 3):
        dark = pixels[pixels[:, 0] <= np.percentile(pixels[:, 0], _NUCLEUS_PERCENTILE)]
        colours.append(np.median(dark, axis=0))
    return np.array(colours, np.float64).reshape(-1, 3)
