"""The small grey picture of a frame that registration compares."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Thumbnail = NDArray[np.uint8]


THUMBNAIL_PX = 160  # longest side


def thumbnail_of(field: NDArray[np.uint8]) -> Thumbnail:
    """Return the small grey picture of a reduced frame that registration needs.

    Parameters
    ----------
    field
        (h, w, 3) uint8 RGB, colour-corrected. Its green channel is taken, where stained
        cells are darkest.

    Returns
    -------
    NDArray[np.uint8]
        (h', w') uint8, grey, at most `THUMBNAIL_PX` long; a smaller field keeps its
        size.
    """
    return shrink(np.ascontiguousarray(field[..., 1]), THUMBNAIL_PX)


def shrink(thumbnail: Thumbnail, longest_px: int) -> Thumbnail:
    """Return the thumbnail (h, w) uint8, its longer side at most `longest_px`."""
    factor = longest_px / max(thumbnail.shape)
    if factor < 1:
        size = [max(1, round(side * factor)) for side in thumbnail.shape[::-1]]
        thumbnail = np.asarray(
            cv2.resize(thumbnail, size, interpolation=cv2.INTER_AREA)
        )
    return thumbnail
