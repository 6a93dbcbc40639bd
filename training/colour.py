"""One white for all laboratories: the plasma of each becomes the reference's.

That is a light grey, so that what is brighter than most plasma is not clipped: pale
platelets would vanish in it. The white point is measured once per laboratory, over all
its images, and frozen; an image is never corrected by its own statistics.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from calibration.field import PLASMA_DENSITY
from edge.profile import Profile, ProfileRecord
from training.data import Row, read_counts

_BRIGHT = 70  # percentile of brightness above which a smear is mostly plasma
_IMAGES = 40  # per laboratory; more change nothing
_STEP_PX = 3


def white_points(rows: Iterable[Row]) -> dict[str, Profile]:
    """Return a profile per laboratory that makes its plasma the reference's.

    The colour is the median over images of the median of their brightest part.
    Laboratories whose images differ in depth are measured at that of the first.
    """
    images: dict[str, dict[tuple[str, str, int], Row]] = {}
    for row in rows:
        images.setdefault(row.domain, {}).setdefault(row.image, row)
    return {domain: _profile(list(own.values())) for domain, own in images.items()}


def _profile(rows: list[Row]) -> Profile:
    drawn = rows[:: max(1, len(rows) // _IMAGES)]
    white = np.median([plasma_colour(read_counts(row)) for row in drawn], axis=0)
    red, green, blue = white.tolist()
    matrix = (
        (1.0, 0.0, 0.0, PLASMA_DENSITY),
        (0.0, 1.0, 0.0, PLASMA_DENSITY),
        (0.0, 0.0, 1.0, PLASMA_DENSITY),
    )
    record = ProfileRecord(white_point=(red, green, blue), matrix=matrix)
    return Profile(record, None, None)


def plasma_colour(counts: NDArray[np.integer]) -> NDArray[np.float64]:
    """Median colour (3,) of the brightest part of an image (H, W, 3), in counts."""
    pixels = counts[::_STEP_PX, ::_STEP_PX].reshape(-1, 3).astype(np.float64)
    bright = pixels.sum(axis=1)
    colour: NDArray[np.float64] = np.median(
        pixels[bright >= np.percentile(bright, _BRIGHT)], axis=0
    )
    return colour
