"""How far laboratories lie apart in the colour of plasma, red cells and nuclei."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations

import cv2
import numpy as np
from numpy.typing import NDArray

from calibration.field import PLASMA_DENSITY
from calibration.reference import (
    SlideColours,
    fit_reference,
    measure_slide,
    plasma_colour,
)
from edge.bundle import LOCATOR, load_bundle
from edge.engines.opening import open_engine
from edge.profile import IDENTITY_PROFILE
from training.colour import COLOURS, Colour, drawn_images, measured, white_profile
from training.data import Row, read_counts

PARTS = ("plasma", "red cells", "nuclei")
_Looks = dict[str, NDArray[np.float64]]  # median optical density (3,) of each part


def apart(rows: Iterable[Row]) -> dict[Colour, dict[str, tuple[float, float]]]:
    """Mean and largest CIE76 distance between laboratories, by treatment and part."""
    drawn = drawn_images(rows)
    whites = {domain: white_profile(own) for domain, own in drawn.items()}
    slides = measured(drawn, whites)
    locator = load_bundle(LOCATOR, task="location")
    engine = open_engine(locator)
    raw: dict[str, _Looks] = {}
    for domain, own in drawn.items():
        images = [read_counts(row) for row in own]
        plasma = np.median([plasma_colour(image) for image in images], axis=0)
        as_is = measure_slide(images, IDENTITY_PROFILE, locator, engine)
        raw[domain] = _looks(as_is, -np.log10(plasma / 255))
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
        colours = [_lab(255 * 10 ** -look[part]) for look in looks.values()]
        pairs = [float(np.linalg.norm(a - b)) for a, b in combinations(colours, 2)]
        found[part] = (float(np.mean(pairs)), max(pairs))
    return found


def _lab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    pixel = np.clip(rgb, 0, 255).astype(np.float32).reshape(1, 1, 3) / 255
    return np.asarray(cv2.cvtColor(pixel, cv2.COLOR_RGB2Lab)[0, 0], np.float64)
