"""How large a pixel is: told by the profile or the source, or read off the red cells.

Human red cells are 7.5 µm wide, so their median width in pixels gives the scale.
An estimate is made once per session and kept: a scale that followed every frame would
change what the same cell looks like.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge.bundle import LocationSpec
from edge.location import RED_CELL_UM, Regions

Origin = Literal["profile", "source", "estimated"]
Locate = Callable[[float], Regions]

_LADDER = 1.7  # step between tried scales; the locator stands up to +-60 %
_ENOUGH_CELLS, _ENOUGH_WHOLE = 4, 3


class Scale:
    """The pixel size of a session. Shared between workers."""

    def __init__(self, profile_um: float | None) -> None:
        """Know what the profile says, which may be nothing."""
        self._known: tuple[float | None, Origin | None] = (
            profile_um,
            None if profile_um is None else "profile",
        )
        self._lock = threading.Lock()

    def of(
        self, source_um: float | None, estimate: Callable[[], float | None]
    ) -> tuple[float | None, Origin | None]:
        """Return micrometres per pixel and where the figure comes from.

        Parameters
        ----------
        source_um
            What the source says; the profile's word goes before it.
        estimate
            Asked once where nobody knows, and again only while it finds too few cells.
        """
        with self._lock:
            if self._known[0] is None:
                if source_um is not None:
                    self._known = (source_um, "source")
                else:
                    found = estimate()
                    self._known = (found, None if found is None else "estimated")
            return self._known


def estimate_pixel_size(
    width_px: int, height_px: int, spec: LocationSpec, locate: Locate
) -> float | None:
    """Try scales from coarse to fine and keep the one where red cells fit best.

    Parameters
    ----------
    width_px, height_px
        Size of the frame.
    spec
        The locator's: it finds red cells best when they are `diameter_px` wide.
    locate
        Finds regions at a given pixel size (µm), boxes in full-resolution pixels.

    Returns
    -------
    float or None
        Micrometres per pixel; None when no scale shows enough red cells.
    """
    # A red cell may fill a third of the frame or be as small as the locator can see.
    widest = max(width_px, height_px) / 3
    tried = widest * _LADDER ** -np.arange(9.0)
    tried = tried[tried > spec.diameter_px / 3]
    best, best_score = None, 0.0
    for diameter in tried:
        regions = locate(RED_CELL_UM / diameter)
        found, score = _fit(regions, diameter, (width_px, height_px))
        if score > best_score:
            best, best_score = found, score
    if best is None:
        return None
    refined, _ = _fit(locate(RED_CELL_UM / best), best, (width_px, height_px))
    return RED_CELL_UM / (refined or best)


def _fit(
    regions: Regions, diameter_px: float, frame_px: tuple[int, int]
) -> tuple[float | None, float]:
    """Median red-cell width and how well the field agrees that this is the scale.

    Cells that the border cuts look smaller than they are: the width is that of whole
    cells where there are enough of them.
    """
    red, boxes = regions.kinds == 0, regions.boxes
    whole = (boxes[red, :2] > 2).all(axis=1)
    whole &= (boxes[red, 2:] < np.array(frame_px) - 2).all(axis=1)
    sizes = np.sqrt(np.prod(boxes[red, 2:] - boxes[red, :2], axis=1))
    likely: NDArray[np.float32] = regions.scores[red]
    near = (sizes > 0.55 * diameter_px) & (sizes < 1.8 * diameter_px)
    if near.sum() < _ENOUGH_CELLS:
        return None, 0.0
    covered = float((likely[near] * sizes[near] ** 2).sum()) / np.prod(frame_px)
    judged = near & whole if (near & whole).sum() >= _ENOUGH_WHOLE else near
    return float(np.median(sizes[judged])), float(covered * near.mean())
