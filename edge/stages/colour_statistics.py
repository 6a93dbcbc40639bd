"""Read colours off a corrected, reduced frame: plasma, red cells, nuclei.

The same reading serves three: drift compares it with the calibration, the slide
reference is fitted to it, and reports show it between laboratories.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge.stages.crops import cut_crops
from edge.stages.detection import Regions

_MARGIN = 1.15  # of a cell's box: its rim and halo are no background
_LEAST_SHARE = 0.02  # of the field; less background than this is none
_BRIGHT = 50  # percentile: what no box covers may still be a pale cell
_LOOK_PX = 12  # side that a cell is looked at with
_NUCLEUS = 25  # percentile of the red channel in a white cell's box
_RING = (0.25, 0.85)  # of the half box: neither the pale middle nor the rim


@dataclass(frozen=True, slots=True, eq=False)
class Colours:
    """Colours of one frame, 8-bit RGB as float.

    `background` (3,) is that of plasma, None where cells cover the field;
    `background_share` how much of the field is no cell. `red_cells` (N, 3) and `nuclei`
    (M, 3) have one row per whole cell.
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
    """Read the colours of a frame.

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
    red = _looks(field, boxes[inside & (names == "RBC")])
    white = _looks(field, boxes[inside & (names == "WBC")])
    return Colours(background, share, _red_cells(red), _nuclei(white))


def to_lab(rgb: ArrayLike) -> NDArray[np.float64]:
    """CIELAB (…, 3) of 8-bit sRGB colours (…, 3); what is beyond white is white."""
    colours = np.asarray(rgb, np.float32).clip(0, 255) / 255
    lab = cv2.cvtColor(colours.reshape(1, -1, 3), cv2.COLOR_RGB2Lab)
    return np.asarray(lab.reshape(colours.shape), np.float64)


def delta_e(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """CIE76 difference of two colours (3,) in CIELAB."""
    return float(np.linalg.norm(a - b))


def median(colours: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Median (3,) of colours (N, 3); None of none."""
    return np.median(colours, axis=0) if len(colours) else None


def _background(
    field: NDArray[np.uint8], boxes: NDArray[np.float64]
) -> tuple[NDArray[np.float64] | None, float]:
    """Median colour of the brighter half of what no cell covers, and its share."""
    free = np.ones(field.shape[:2], np.uint8)
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]) / 2 * _MARGIN
    corners = np.rint(np.hstack([middle - half, middle + half])).astype(int)
    for x0, y0, x1, y1 in corners.tolist():
        cv2.rectangle(free, (x0, y0), (x1, y1), 0, cv2.FILLED)
    pixels = field[free.astype(bool)]
    share = len(pixels) / free.size
    if share < _LEAST_SHARE:
        return None, share
    green = pixels[:, 1]
    bright = pixels[green >= np.percentile(green, _BRIGHT)]
    return np.asarray(np.median(bright, axis=0), np.float64), share


def _looks(field: NDArray[np.uint8], boxes: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Boxes (N, 4), resized to (N, P, P, 3) whatever their shape."""
    places = np.rint(boxes).astype(np.int32)
    return cut_crops(field, places, _LOOK_PX)


def _red_cells(looks: NDArray[np.uint8]) -> NDArray[np.float64]:
    at = (np.arange(_LOOK_PX) + 0.5) / _LOOK_PX * 2 - 1
    radius = np.hypot(at[:, None], at[None])
    ring = (radius > _RING[0]) & (radius < _RING[1])
    return np.asarray(np.median(looks[:, ring], axis=1), np.float64).reshape(-1, 3)


def _nuclei(looks: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Median colour of the pixels that let least red light through."""
    colours = []
    for look in looks.reshape(-1, _LOOK_PX**2, 3):
        dark = look[look[:, 0] <= np.percentile(look[:, 0], _NUCLEUS)]
        colours.append(np.median(dark, axis=0))
    return np.array(colours, np.float64).reshape(-1, 3)
