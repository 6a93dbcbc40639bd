"""How far laboratories lie apart in the colour of plasma, red cells and nuclei."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from calibration.field import PLASMA_DENSITY
from calibration.reference import SlideColours, fit_reference
from edge.artifacts.profile import IDENTITY_PROFILE
from edge.stages.colour_statistics import delta_e, to_lab
from training.data.colour_normalisation import (
    COLOURS,
    Colour,
    drawn_images,
    measured,
    white_profile,
)
from training.data.rows import Row

PARTS = ("plasma", "red cells", "nuclei")
_Looks = dict[str, NDArray[np.float64]]  # median optical density (3,) of each part


def apart(rows: Iterable[Row]) -> dict[Colour, dict[str, tuple[float, float]]]:
    """Mean and largest CIE76 distance between laboratories, by treatment and part."""
    drawn = drawn_images(rows)
    whites = {domain: white_profile(own) for domain, own in drawn.items()}
    slides = measured(drawn, whites)
    as_they_are = measured(drawn, dict.fromkeys(drawn, IDENTITY_PROFILE))
    plasma = {d: np.array(white.record.white_point) for d, white in whites.items()}
    raw = {d: _looks(s, -np.log10(plasma[d] / 255)) for d, s in as_they_are.items()}
    offset = np.full(3, PLASMA_DENSITY)
    looks: dict[Colour, dict[str, _Looks]] = {
        "as-is": raw,
        "white-point": {d: _looks(s, offset, offset) for d, s in slides.items()},
        "slide-reference": {
            d: _looks(s, offset, offset, np.array(fit_reference(s).matrix))
            for d, s in slides.items()
        },
    }
    return {colour: _distances(looks[colour]) for colour in COLOURS}


def _looks(
    slide: SlideColours,
    plasma: NDArray[np.float64],
    offset: NDArray[np.float64] | float = 0.0,
    matrix: NDArray[np.float64] | None = None,
) -> _Looks:
    turned = np.eye(3) if matrix is None else matrix
    return {
        "plasma": plasma,
        "red cells": np.median(slide.red_cells, axis=0) @ turned.T + offset,
        "nuclei": np.median(slide.nuclei, axis=0) @ turned.T + offset,
    }


def _distances(looks: Mapping[str, _Looks]) -> dict[str, tuple[float, float]]:
    found = {}
    for part in PARTS:
        colours = [to_lab(255 * 10 ** -look[part]) for look in looks.values()]
        pairs = [delta_e(a, b) for a, b in combinations(colours, 2)]
        found[part] = (float(np.mean(pairs)), max(pairs))
    return found
