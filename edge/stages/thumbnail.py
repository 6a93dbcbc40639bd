"""The small grey picture of a frame that registration compares."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

View = NDArray[np.uint8]


VIEW_PX = 160  # longest side of a view


def view_of(field: NDArray[np.uint8]) -> View:
    """Return the small grey picture of a reduced frame that registration needs.

    Parameters
    ----------
    field
        (h, w, 3) uint8 RGB, colour-corrected. Its green channel is taken, where stained
        cells are darkest.

    Returns
    -------
    NDArray[np.uint8]
        (h', w'), grey, at most `VIEW_PX` long; a smaller field stays as large as it is.
    """
    return shrink(np.ascontiguousarray(field[..., 1]), VIEW_PX)


def shrink(view: View, longest_px: int) -> View:
    """Return a view of at most that length."""
    factor = longest_px / max(view.shape)
    if factor < 1:
        size = [max(1, round(side * factor)) for side in view.shape[::-1]]
        view = np.asarray(cv2.resize(view, size, interpolation=cv2.INTER_AREA))
    return view
