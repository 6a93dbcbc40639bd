"""Which pixel sizes a microscope can have.

A 100x objective on a sensor with pixels of 1.4 µm gives 0.014 µm, a 4x objective with
6.5 µm gives 1.6 µm. Outside of these, red cells would fill the frame or vanish.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

LEAST_UM, MOST_UM = 0.01, 2.0  # micrometres per pixel
PixelSizeUm = Annotated[float, Meta(ge=LEAST_UM, le=MOST_UM)]


def why_not_sensible(um: float) -> str | None:
    """Say why no microscope has this pixel size (µm); None if it may be.

    >>> why_not_sensible(0.07)
    >>> why_not_sensible(1e-9)
    'a pixel size of 1e-09 µm is not possible, expected 0.01 to 2 µm (a 100x objective \
gives about 0.05 to 0.1); give that of the objective in use'
    """
    if LEAST_UM <= um <= MOST_UM:  # false for nan
        return None
    return (
        f"a pixel size of {um:g} µm is not possible, expected {LEAST_UM:g} to "
        f"{MOST_UM:g} µm (a 100x objective gives about 0.05 to 0.1); give that of the "
        "objective in use"
    )
