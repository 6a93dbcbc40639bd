"""Measure how good an exposure is, on the reduced frame."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.colours import delta_e, to_lab
from edge.frames import Counts
from edge.results import Quality


def measure_quality(
    counts: Counts, corrected: NDArray[np.uint8], white: NDArray[np.uint8] | None
) -> Quality:
    """Focus, saturation and background of one reduced frame.

    Parameters
    ----------
    counts
        (h, w, 3) sensor counts before correction.
    corrected
        (h, w, 3) uint8 RGB after it.
    white
        (3,) uint8 RGB that an empty field has after correction; None where nobody
        calibrated it.
    """
    green = corrected[..., 1]
    spread = float(green.var())
    sharpness = float(cv2.Laplacian(green, cv2.CV_32F).var())
    full_scale = np.iinfo(counts.dtype).max
    level = np.partition(green.reshape(-1), -max(1, green.size // 10))[
        -max(1, green.size // 10)
    ]
    bright = corrected[green >= level].mean(axis=0)
    return Quality(
        focus=round(sharpness / max(spread, 1.0), 6),
        saturated=round(float(np.count_nonzero(counts == full_scale)) / counts.size, 4),
        background=(
            round(float(bright[0]), 1),
            round(float(bright[1]), 1),
            round(float(bright[2]), 1),
        ),
        background_delta_e=(
            None if white is None else round(delta_e(to_lab(bright), to_lab(white)), 2)
        ),
    )
