"""How a cell's colour changes while the field around it empties, by method.

A frozen calibration changes nothing. Methods that take their statistics from the frame
do, which is why they are not used live.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.reference import plasma_colour
from calibration.stains import METHODS, Method, StainsRefused, gather, normalise
from edge.artifacts.profile import Profile
from edge.stages.colour_correction import correct, prepare
from edge.stages.colour_statistics import delta_e, to_lab
from training.data.rows import Field

FILLED = ("half empty", "only the cell")
_Image = NDArray[np.uint8]
_Correct = Callable[[_Image], _Image]


@dataclass(frozen=True, slots=True)
class ColourShift:
    """CIE76 shift of a white cell: mean and largest over `fields`; some `refused`."""

    mean: float
    most: float
    fields: int
    refused: int


def shifts(
    fields: Sequence[Field], frozen: Profile, white: int
) -> dict[str, dict[str, ColourShift]]:
    """Shift by method and by how far the field is emptied.

    Parameters
    ----------
    fields
        With at least one cell of class `white` each; the first is watched.
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

    methods: dict[str, _Correct] = {"frozen calibration": calibrated}
    for method in METHODS:
        methods[f"{method}, per frame"] = _per_frame(own[0].pixels, method)
    return {
        name: {
            filled: _shift(own, change, white, keeps)
            for filled, keeps in zip(FILLED, (0.5, 0.0), strict=True)
        }
        for name, change in methods.items()
    }


def _per_frame(reference: _Image, method: Method) -> _Correct:
    wanted = gather([reference], plasma_colour(reference))

    def change(image: _Image) -> _Image:
        return normalise(image, method, gather([image], plasma_colour(image)), wanted)

    return change


def _shift(
    fields: Sequence[Field], change: _Correct, white: int, keeps: float
) -> ColourShift:
    found, refused = [], 0
    for field in fields:
        x0, y0, x1, y1 = field.boxes[field.classes == white][0].astype(int)
        place = (slice(y0, y1), slice(x0, x1))
        try:
            full = change(field.pixels)[place]
            less = change(_emptied(field, place, keeps))[place]
        except StainsRefused:
            refused += 1
            continue
        found.append(delta_e(_mean_lab(full), _mean_lab(less)))
    return ColourShift(float(np.mean(found)), max(found), len(found), refused)


def _emptied(field: Field, place: tuple[slice, slice], keeps: float) -> _Image:
    """Fill all but the left share of the field, and the cell, with plasma."""
    image: _Image = field.pixels.copy()
    start = round(keeps * image.shape[1])
    image[:, start:] = np.rint(plasma_colour(field.pixels)).astype(np.uint8)
    image[place] = field.pixels[place]
    return image


def _mean_lab(pixels: _Image) -> NDArray[np.float64]:
    """Mean CIELAB (3,) of pixels."""
    return np.asarray(to_lab(pixels).reshape(-1, 3).mean(axis=0))
