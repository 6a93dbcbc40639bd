"""Measure how a cell's colour changes while the field around it empties, by method.

With a frozen calibration it does not change. With methods that take their statistics
from the frame it does, which is why they are not used live.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.choices import METHODS, Method
from calibration.reference import plasma_colour
from calibration.stains import StainsRefused, gather, normalise
from edge.artifacts.profile import Profile
from edge.stages.colour_correction import correct, prepare
from edge.stages.colour_statistics import delta_e, to_lab
from training.data.rows import Field

FILLED = ("half empty", "only the cell")
_Image = NDArray[np.uint8]
_Correction = Callable[[_Image], _Image]


@dataclass(frozen=True, slots=True)
class ColourShift:
    """CIE76 shift of a white cell: mean and largest over `fields`.

    The method refused `refused` fields, because they show too little stain.
    """

    mean: float
    most: float
    fields: int
    refused: int


def colour_shifts(
    fields: Sequence[Field], frozen: Profile, white: int
) -> dict[str, dict[str, ColourShift]]:
    """Measure the shift by method and by how far the field is emptied.

    Parameters
    ----------
    fields
        Those without a cell of class `white` are left out; of the others the first
        white cell is measured.
    frozen
        Calibration of their laboratory.
    white
        Class of white cells.
    """
    own = [field for field in fields if (field.classes == white).any()]

    def calibrated(image: _Image) -> _Image:
        return correct(
            image, prepare(frozen, image.shape[1], image.shape[0], image.dtype)
        )

    methods: dict[str, _Correction] = {"frozen calibration": calibrated}
    for method in METHODS:
        methods[f"{method}, per frame"] = _per_frame(own[0].pixels, method)
    return {
        name: {
            filled: _shift(own, change, white, kept)
            for filled, kept in zip(FILLED, (0.5, 0.0), strict=True)
        }
        for name, change in methods.items()
    }


def _per_frame(reference: _Image, method: Method) -> _Correction:
    """Return a correction that takes its statistics from the image itself."""
    target = gather([reference], plasma_colour(reference))

    def change(image: _Image) -> _Image:
        return normalise(image, method, gather([image], plasma_colour(image)), target)

    return change


def _shift(
    fields: Sequence[Field], change: _Correction, white: int, kept: float
) -> ColourShift:
    """Correct each field full and emptied, and compare its white cell."""
    distances, refused = [], 0
    for field in fields:
        x0, y0, x1, y1 = field.boxes[field.classes == white][0].astype(int)
        window = (slice(y0, y1), slice(x0, x1))
        try:
            full = change(field.pixels)[window]
            emptied = change(_emptied(field, window, kept))[window]
        except StainsRefused:
            refused += 1
            continue
        distances.append(delta_e(_mean_lab(full), _mean_lab(emptied)))
    return ColourShift(
        float(np.mean(distances)), max(distances), len(distances), refused
    )


def _emptied(field: Field, window: tuple[slice, slice], kept: float) -> _Image:
    """Fill a field with plasma, but for the left share `kept` and the cell."""
    image: _Image = field.pixels.copy()
    start = round(kept * image.shape[1])
    image[:, start:] = np.rint(plasma_colour(field.pixels)).astype(np.uint8)
    image[window] = field.pixels[window]
    return image


def _mean_lab(pixels: _Image) -> NDArray[np.float64]:
    """Mean CIELAB (3,) of pixels."""
    return np.asarray(to_lab(pixels).reshape(-1, 3).mean(axis=0))
