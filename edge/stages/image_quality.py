"""Measure how good an exposure is, on the reduced frame."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.frames import Counts
from edge.schema.results import Quality
from edge.stages.colour_statistics import delta_e, to_lab

# Standard deviations (px) of Gaussians on a frame whose red cells are 24 px wide.
# Between the first two lies the detail that a small loss of focus removes, between the
# other two the shapes that even a large one leaves.
_SIGMA_GRAIN, _SIGMA_FINE = 1.0, 1.7
_SIGMA_SHAPE, _SIGMA_CELL = 2.0, 5.0
# What these filters leave of white noise of variance 1: the standard deviation of noise
# minus smoothed noise, and the variance in both bands.
_GRAIN_PASSED = 0.872
_FINE_PASSED, _SHAPE_PASSED = 0.0350, 0.0121
_MIN_VARIANCE = 1e-3
# What no laboratory's fields fall below: the quality gate and the check of the field.
MIN_BRIGHTNESS = 0.25
# The worst sharp field of four laboratories has 0.13; 1.2 µm out of focus gives 0.09.
MIN_FOCUS = 0.1


def measure_quality(
    counts: Counts,
    corrected: NDArray[np.uint8],
    white: NDArray[np.uint8] | None,
    boxes: NDArray[np.float32] | None = None,
) -> Quality:
    """Focus, light, motion and content of one reduced frame.

    Fine detail is the difference of two narrow Gaussians. Its variance, minus that of
    the sensor's noise, is divided by the variance of the shapes of cells, so that focus
    hardly depends on the number of cells. Motion smears fine detail in one direction:
    the coherence of its structure tensor (Bigün and Granlund, 1987). The noise is the
    median absolute deviation of what the narrowest Gaussian removes.

    Parameters
    ----------
    counts
        (h, w, 3) sensor counts before correction.
    corrected
        (h, w, 3) uint8 RGB after it.
    white
        (3,) uint8 RGB that an empty field has after correction; None without a
        calibration.
    boxes
        (N, 4) of the cells found, in pixels of the reduced frame; None for none.
    """
    green = corrected[..., 1].astype(np.float32)
    smooth = cv2.GaussianBlur(green, (0, 0), _SIGMA_GRAIN)
    fine = smooth - cv2.GaussianBlur(smooth, (0, 0), _SIGMA_FINE)
    shapes = cv2.GaussianBlur(green, (0, 0), _SIGMA_SHAPE)
    shapes -= cv2.GaussianBlur(green, (0, 0), _SIGMA_CELL)
    # A quarter of the pixels is enough for a median. 1.4826 turns a median absolute
    # deviation into the standard deviation of a normal distribution.
    residual = np.abs(green[::2, ::2] - smooth[::2, ::2])
    grain = (1.4826 / _GRAIN_PASSED * float(np.median(residual))) ** 2
    detail = max(float(fine.var()) - _FINE_PASSED * grain, 0.0)
    spread = max(float(shapes.var()) - _SHAPE_PASSED * grain, 0.0)
    bright = np.array(cv2.mean(corrected, _brightest_tenth(corrected[..., 1]))[:3])
    return Quality(
        focus=round(detail / max(spread, _MIN_VARIANCE), 6),
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
    return float(cv2.mean(raw, _brightest_tenth(raw))[0] / np.iinfo(counts.dtype).max)


def saturation(counts: Counts) -> float:
    """Share of (h, w, 3) sensor counts that are at full scale."""
    full_scale = np.iinfo(counts.dtype).max
    return float(np.count_nonzero(counts == full_scale)) / counts.size


def _brightest_tenth(channel: Counts) -> NDArray[np.uint8]:
    """Return a mask (h, w) of 0 and 1: where the brightest tenth of (h, w) is."""
    tenth = max(1, channel.size // 10)
    level = np.partition(channel.reshape(-1), -tenth)[-tenth]
    return np.asarray(channel >= level, np.uint8)


def _coherence(picture: NDArray[np.float32]) -> float:
    """Return the coherence of the gradients of (h, w) float32: 0 all ways, 1 one way.

    With the mean structure tensor J it is |l1 - l2| / (l1 + l2) of its eigenvalues,
    which is hypot(Jxx - Jyy, 2 Jxy) / (Jxx + Jyy).
    """
    across = cv2.Scharr(picture, cv2.CV_32F, 1, 0)
    down = cv2.Scharr(picture, cv2.CV_32F, 0, 1)
    xx, yy = float((across * across).mean()), float((down * down).mean())
    xy = float((across * down).mean())
    return float(np.hypot(xx - yy, 2 * xy) / max(xx + yy, _MIN_VARIANCE))


def _covered(boxes: NDArray[np.float32], size: tuple[int, ...]) -> float:
    """Return the share of a picture (h, w) that lies inside boxes (N, 4)."""
    inside = np.zeros(size, np.uint8)
    for x0, y0, x1, y1 in np.rint(boxes).astype(int).tolist():
        inside[y0:y1, x0:x1] = 1
    return float(inside.mean())
