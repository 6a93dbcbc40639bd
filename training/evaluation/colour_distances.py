"""Measure how far the colours of laboratories differ: plasma, red cells, nuclei."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from calibration.field import PLASMA_DENSITY
from calibration.reference import SlideColours, fit_reference
from edge.artifacts.profile import IDENTITY_PROFILE
from edge.stages.colour_statistics import delta_e, to_lab
from training.choices import COLOURS, Colour
from training.data.colour_normalisation import (
    measure_colours,
    sample_images,
    white_profile,
)
from training.data.rows import Row

PARTS = ("plasma", "red cells", "nuclei")
_Densities = dict[str, NDArray[np.float64]]  # median (3,), base 10, of each part


def colour_distances(
    rows: Iterable[Row],
) -> dict[Colour, dict[str, tuple[float, float]]]:
    """Compute the mean and largest CIE76 distance between laboratories.

    Returns them by colour treatment and part of the image.
    """
    images = sample_images(rows)
    whites = {domain: white_profile(own) for domain, own in images.items()}
    slides = measure_colours(images, whites)
    as_they_are = measure_colours(images, dict.fromkeys(images, IDENTITY_PROFILE))
    plasma = {d: np.array(white.record.white_point) for d, white in whites.items()}
    raw = {d: _densities(s, -np.log10(plasma[d] / 255)) for d, s in as_they_are.items()}
    offset = np.full(3, PLASMA_DENSITY)
    treated: dict[Colour, dict[str, _Densities]] = {
        "as-is": raw,
        "white-point": {d: _densities(s, offset, offset) for d, s in slides.items()},
        "slide-reference": {
            d: _densities(s, offset, offset, np.array(fit_reference(s).matrix))
            for d, s in slides.items()
        },
    }
    return {colour: _distances(treated[colour]) for colour in COLOURS}


def _densities(
    slide: SlideColours,
    plasma: NDArray[np.float64],
    offset: NDArray[np.float64] | float = 0.0,
    matrix: NDArray[np.float64] | None = None,
) -> _Densities:
    """Return the median density of each part of a slide.

    `plasma` (3,) and `offset` (3,) are densities, `matrix` (3, 3) the slide's map.
    """
    mapping = np.eye(3) if matrix is None else matrix
    return {
        "plasma": plasma,
        "red cells": np.median(slide.red_cells, axis=0) @ mapping.T + offset,
        "nuclei": np.median(slide.nuclei, axis=0) @ mapping.T + offset,
    }


def _distances(by_domain: Mapping[str, _Densities]) -> dict[str, tuple[float, float]]:
    """Mean and largest distance of each part, over all pairs of laboratories."""
    distances = {}
    for part in PARTS:
        colours = [to_lab(255 * 10 ** -own[part]) for own in by_domain.values()]
        pairs = [delta_e(a, b) for a, b in combinations(colours, 2)]
        distances[part] = (float(np.mean(pairs)), max(pairs))
    return distances
