"""Find cells on a reduced frame, by the peaks of a small network.

The locator sees the frame at one scale, where red cells are about `diameter_px` wide.
For every fourth pixel it gives the probability that a cell of each class is centred
there, and how far away its four sides are: "objects as points" (Zhou et al., arXiv
1904.07850) with the side distances of FCOS (arXiv 1904.01355). Touching and overlapping
cells have centres of their own, so they stay apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.artifacts.bundle import Bundle, BundleRefused, LocationSpec
from edge.engines import Engine

RED_CELL_UM = 7.5  # mean diameter of a human red cell on a dried smear
Image = TypeVar("Image", bound=NDArray[Any])


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """Cells that were found.

    `boxes` (N, 4) float32 x0, y0, x1, y1 in full-resolution pixels, inside the frame;
    `scores` (N,) float32 the probability that a cell is centred there; `kinds` (N,)
    int, the locator's class; `evidence` (N, K) float32, its probability of each class
    there. Most likely first.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    kinds: NDArray[np.intp]
    evidence: NDArray[np.float32]

    def none(self) -> Regions:
        """Return no regions, of the same classes."""
        return Regions(
            self.boxes[:0], self.scores[:0], self.kinds[:0], self.evidence[:0]
        )


def locator_spec(bundle: Bundle) -> LocationSpec:
    """Return how this locator is used.

    Raises
    ------
    BundleRefused
        The bundle is not a locator, or its thresholds are not those of its classes.
    """
    spec = bundle.record.location
    if spec is None or len(spec.thresholds) != len(bundle.labels):
        raise BundleRefused(
            f"{bundle.id}: has no location settings for {bundle.labels}; it is no "
            "locator"
        )
    return spec


def whole_field(width_px: int, height_px: int) -> Regions:
    """One region: the frame itself."""
    box = np.array([[0, 0, width_px, height_px]], np.float32)
    no_evidence = np.zeros((1, 0), np.float32)
    return Regions(box, np.ones(1, np.float32), np.zeros(1, np.intp), no_evidence)


def reduction(pixel_size_um: float, spec: LocationSpec) -> float:
    """Return the factor that brings red cells to the locator's diameter."""
    return spec.diameter_px * pixel_size_um / RED_CELL_UM


def reduce(pixels: Image, factor: float) -> Image:
    """Resize a frame by `factor`: exact halvings first, they are cheap and smooth.

    Parameters
    ----------
    pixels
        (H, W, 3) uint8 or uint16.
    factor
        Below 1 shrinks.

    Returns
    -------
    NDArray
        (round(H * factor), round(W * factor), 3), at least one pixel each.
    """
    height, width = pixels.shape[:2]
    wanted = (max(1, round(width * factor)), max(1, round(height * factor)))
    remaining, small = factor, cast(NDArray[Any], pixels)
    while remaining <= 0.5 and min(small.shape[:2]) > 1:
        half = (small.shape[1] // 2, small.shape[0] // 2)
        small = cv2.resize(small, half, interpolation=cv2.INTER_AREA)
        remaining *= 2
    if (small.shape[1], small.shape[0]) != wanted:
        small = cv2.resize(small, wanted, interpolation=cv2.INTER_LINEAR)
    return cast(Image, small)


def widths(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N,) widths of cells in boxes (N, 4): the side of a square of the same area."""
    return np.asarray(np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)))


def are_whole(
    boxes: NDArray[np.float32],
    frame_px: tuple[int, int],
    margin_px: float | NDArray[np.float32] = 2,
) -> NDArray[np.bool_]:
    """Whether each of (N, 4) boxes lies inside the frame: the border cuts no cell.

    `margin_px`: least distance from the border, for all or for each (N,).
    """
    inside = boxes - np.array([0, 0, *frame_px], np.float32)
    distance = np.minimum(inside[:, :2], -inside[:, 2:]).min(axis=1, initial=np.inf)
    return np.asarray(distance > margin_px)


def find_regions(
    field: NDArray[np.uint8],
    engine: Engine,
    spec: LocationSpec,
    frame_px: tuple[int, int],
) -> Regions:
    """Find cells on a reduced, colour-corrected frame.

    Parameters
    ----------
    field
        (h, w, 3) uint8 RGB.
    engine
        The locator's engine: `likely` (1, h', w', K), the probability that a cell of
        each class is centred there; `sides` (1, h', w', 4), distances to left, top,
        right and bottom in pixels of `field`.
    spec
        How this locator is used.
    frame_px
        Width and height of the full frame: boxes come back in its pixels.
    """
    height, width = field.shape[:2]
    tensors = engine.infer(_padded(field, spec)[None]).tensors
    likely, sides = tensors["likely"][0], tensors["sides"][0]
    rows, columns, kinds, scores = _peaks(likely, spec)
    x, y = (columns + 0.5) * spec.stride_px, (rows + 0.5) * spec.stride_px
    inside = (x < width) & (y < height)
    rows, columns, x, y = rows[inside], columns[inside], x[inside], y[inside]
    left, top, right, bottom = sides[rows, columns].T
    boxes = np.stack([x - left, y - top, x + right, y + bottom], axis=1)
    boxes = np.clip(boxes, 0, (width, height, width, height)).astype(np.float32)
    kept = suppress_overlaps(boxes, scores[rows, columns], spec.overlap)
    scale = np.array([frame_px[0] / width, frame_px[1] / height] * 2, np.float32)
    rows, columns = rows[kept], columns[kept]
    return Regions(
        boxes[kept] * scale,
        scores[rows, columns],
        kinds[rows, columns],
        likely[rows, columns],
    )


def _padded(field: NDArray[np.uint8], spec: LocationSpec) -> NDArray[np.uint8]:
    """Extend `field` (h, w, 3) below and right to a size that the network takes."""
    height, width = field.shape[:2]
    block = 4 * spec.stride_px
    below, right = -height % block, -width % block
    padded = cv2.copyMakeBorder(
        field, 0, below, 0, right, cv2.BORDER_CONSTANT, value=spec.fill
    )
    return np.asarray(padded)


def _peaks(
    likely: NDArray[np.float32], spec: LocationSpec
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Return where cells are centred, in a map `likely` (h', w', K) of probabilities.

    Returns rows and columns (P,) of the peaks; and for every place of the map the class
    that exceeds its threshold most (h', w') and its probability (h', w').
    """
    # A peak is the highest of its 3 x 3 neighbours: the non-maximum suppression of
    # "objects as points", which needs no boxes.
    highest = cv2.dilate(likely, np.ones((3, 3), np.uint8)).reshape(likely.shape)
    peaks = np.where(likely >= highest, likely, 0.0)
    thresholds = np.array(spec.thresholds, np.float32)
    kinds = (peaks - thresholds).argmax(axis=2)
    scores = np.take_along_axis(peaks, kinds[..., None], axis=2)[..., 0]
    rows, columns = np.nonzero(scores > thresholds[kinds])
    return rows, columns, kinds, scores


def locate_at(
    pixel_size_um: float, field: NDArray[np.uint8], engine: Engine, spec: LocationSpec
) -> tuple[NDArray[np.uint8], Regions]:
    """Find cells on a corrected full-size frame (H, W, 3); return it reduced, too."""
    small = reduce(field, reduction(pixel_size_um, spec))
    frame_px = (field.shape[1], field.shape[0])
    return small, find_regions(small, engine, spec, frame_px)


def suppress_overlaps(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], overlap: float
) -> NDArray[np.intp]:
    """Return the boxes that remain after non-maximum suppression, likeliest first.

    `boxes` (N, 4), `scores` (N,). A box is dropped if its intersection over union with
    a likelier one is above `overlap`.
    """
    if len(boxes) == 0:
        return np.zeros(0, np.intp)
    corner_and_size = np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])
    kept = cv2.dnn.NMSBoxes(corner_and_size.tolist(), scores.tolist(), 0.0, overlap)
    return np.asarray(kept, np.intp).reshape(-1)
