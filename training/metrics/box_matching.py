"""Match detected boxes with true ones, and count."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MATCH_IOU = 0.5
Boxes = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Tally:
    """Cells that were found, detections without a cell, and cells that were missed."""

    right: int = 0
    wrong: int = 0
    missed: int = 0

    def __add__(self, other: Tally) -> Tally:
        """Sum of two tallies."""
        return Tally(
            self.right + other.right,
            self.wrong + other.wrong,
            self.missed + other.missed,
        )

    @property
    def precision(self) -> float:
        """Share of the detections that are cells; NaN without detections."""
        detections = self.right + self.wrong
        return self.right / detections if detections else float("nan")

    @property
    def recall(self) -> float:
        """Share of the cells that were found; NaN without cells."""
        cells = self.right + self.missed
        return self.right / cells if cells else float("nan")

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; NaN without cells and detections."""
        both = 2 * self.right + self.wrong + self.missed
        return 2 * self.right / both if both else float("nan")


def intersection_over_union(a: Boxes, b: Boxes) -> NDArray[np.float32]:
    """Overlaps (N, M) of boxes (N, 4) and (M, 4), each x0, y0, x1, y1."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    overlap = np.prod(np.clip(high - low, 0, None), axis=2)
    area_a = np.prod(a[:, 2:] - a[:, :2], axis=1)[:, None]
    area_b = np.prod(b[:, 2:] - b[:, :2], axis=1)[None, :]
    return np.asarray(overlap / np.maximum(area_a + area_b - overlap, 1e-9), np.float32)


def match(found: Boxes, true: Boxes) -> tuple[NDArray[np.intp], Tally]:
    """Match each detected box with the best true box that is still free.

    Parameters
    ----------
    found, true
        (N, 4) and (M, 4); of the detected boxes, the most likely come first.

    Returns
    -------
    matched, tally
        (N,) index of the true box or -1, and the counts at IoU 0.5.
    """
    matched = np.full(len(found), -1, np.intp)
    overlaps = intersection_over_union(found, true)
    for i in range(len(found) if len(true) else 0):
        best = int(overlaps[i].argmax())
        if overlaps[i, best] >= MATCH_IOU:
            matched[i] = best
            overlaps[:, best] = 0
    right = int((matched >= 0).sum())
    return matched, Tally(right, len(found) - right, len(true) - right)
