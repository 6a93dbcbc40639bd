"""Measure how good an exposure is, on the reduced frame."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.frames import Counts
from edge.schema.results import Quality
from edge.stages.colour_statistics import delta_e, to_lab

# Standard deviations (px) of Gaussians on a frame whose red cells are 24 px wide.
_GRAIN, _FINE = 1.0, 1.7  # between them lies what a small loss of focus takes away
_SHAPE, _CELL = 2.0, 5.0  # between them what a large one still leaves
_GRAIN_PASSED = 0.872  # standard deviation of white noise less its smoothed self
_FINE_PASSED, _SHAPE_PASSED = 0.0350, 0.0121  # variance of white noise in these bands
_LEAST_VARIANCE = 1e-3


def measure_quality(
    counts: Counts,
    corrected: NDArray[np.uint8],
    white: NDArray[np.uint8] | None,
    boxes: NDArray[np.float32] | None = None,
) -> Quality:
    """Focus, light, motion and content of one reduced frame.

    Fine detail is what two narrow Gaussians differ by. Its variance, without what the
    sensor's grain adds to it, is divided by that of the shapes of cells, so that the
    number of cells hardly matters. Motion smears fine detail in one direction: the
    coherence of its structure tensor (Bigün and Granlund, 1987). The grain is the
    median absolute deviation of what the narrowest Gaussian takes away.

    Parameters
    ----------
    counts
        (h, w, 3) sensor counts before correction.
    corrected
        (h, w, 3) uint8 RGB after it.
    white
        (3,) uint8 RGB that an empty field has after correction; None where nobody
        calibrated it.
    boxes
        (N, 4) of the cells found, in pixels of the reduced frame; None for none.
    """
    green = corrected[..., 1].astype(np.float32)
    smooth = cv2.GaussianBlur(green, (0, 0), _GRAIN)
    fine = smooth - cv2.GaussianBlur(smooth, (0, 0), _FINE)
    shapes = cv2.GaussianBlur(green, (0, 0), _SHAPE)
    shapes -= cv2.GaussianBlur(green, (0, 0), _CELL)
    off = np.abs(green[::2, ::2] - smooth[::2, ::2])  # a quarter tells it as well
    grain = (1.4826 / _GRAIN_PASSED * float(np.median(off))) ** 2
    detail = max(float(fine.var()) - _FINE_PASSED * grain, 0.0)
    spread = max(float(shapes.var()) - _SHAPE_PASSED * grain, 0.0)
    bright = np.array(cv2.mean(corrected, _brightest(corrected[..., 1]))[:3])
    return Quality(
        focus=round(detail / max(spread, _LEAST_VARIANCE), 6),
        saturated=round(saturation(counts), 4),
        background=(
            round(float(bright[0]), 1),
            round(float(bright[1]), 1),
            round(float(bright[2]), 1),
        ),
        background_delta_e=(
            None if white is None else round(delta_e(to_lab(bright), to_lab(white)), 2)
        ),
        brightness=round(brightness(counts), 4),
        motion=round(_coherence(fine), 4),
        texture=round(spread**0.5 / max(float(bright[1]), 1.0), 5),
        covered=0.0 if boxes is None else round(_covered(boxes, green.shape), 4),
    )


def brightness(counts: Counts) -> float:
    """Green of the brightest tenth of (h, w, 3) sensor counts; 1 is full scale."""
    raw: Counts = counts[::2, ::2, 1].copy()
    return float(cv2.mean(raw, _brightest(raw))[0] / np.iinfo(counts.dtype).max)


def saturation(counts: Counts) -> float:
    """Share of (h, w, 3) sensor counts that are at full scale."""
    full_scale = np.iinfo(counts.dtype).max
    return float(np.count_nonzero(counts == full_scale)) / counts.size


def _brightest(channel: Counts) -> NDArray[np.uint8]:
    """Where the brightest tenth of the pixels is: a mask of 0 and 1."""
    tenth = max(1, channel.size // 10)
    level = np.partition(channel.reshape(-1), -tenth)[-tenth]
    return np.asarray(channel >= level, np.uint8)


def _coherence(picture: NDArray[np.float32]) -> float:
    """Return how much one direction prevails among the gradients: 0 none, 1 alone."""
    across = cv2.Scharr(picture, cv2.CV_32F, 1, 0)
    down = cv2.Scharr(picture, cv2.CV_32F, 0, 1)
    xx, yy = float((across * across).mean()), float((down * down).mean())
    xy = float((across * down).mean())
    return float(np.hypot(xx - yy, 2 * xy) / max(xx + yy, _LEAST_VARIANCE))


def _covered(boxes: NDArray[np.float32], size: tuple[int, ...]) -> float:
    """Share of a picture (h, w) that lies inside boxes."""
    inside = np.zeros(size, np.uint8)
    for x0, y0, x1, y1 in np.rint(boxes).astype(int).tolist():
        inside[y0:y1, x0:x1] = 1
    return float(inside.mean())
