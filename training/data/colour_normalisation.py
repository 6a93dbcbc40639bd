"""Bring all laboratories to one look: a common white, or the reference look as well.

The white is a light grey, so that pixels brighter than most plasma are not clipped:
pale platelets would disappear. Everything is measured once per laboratory, over all its
images, and then frozen; an image is never corrected by its own statistics. No label is
used: the cells are those that the shipped locator finds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from calibration.field import PLASMA_DENSITY
from calibration.reference import (
    SlideColours,
    fit_reference,
    measure_slide,
    plasma_colour,
    with_reference,
)
from edge.artifacts.bundle import LOCATOR, load_bundle
from edge.artifacts.profile import Profile, ProfileRecord, offset_alone
from edge.engines.opening import open_engine
from training.choices import Colour
from training.data.rows import Row, read_counts

_IMAGES = 60  # per laboratory; with more the profiles do not change


def colour_profiles(rows: Iterable[Row], colour: Colour) -> dict[str, Profile]:
    """Return a profile per laboratory that brings its images to a common look.

    Raises
    ------
    ReferenceRefused
        A laboratory shows too few cells for a slide reference.
    """
    if colour == "as-is":
        return {}
    images = sample_images(rows)
    whites = {domain: white_profile(own) for domain, own in images.items()}
    if colour == "white-point":
        return whites
    slides = measure_colours(images, whites)
    return {
        domain: with_reference(whites[domain], fit_reference(slide))
        for domain, slide in slides.items()
    }


def measure_colours(
    images: dict[str, list[Row]], profiles: Mapping[str, Profile]
) -> dict[str, SlideColours]:
    """Measure the cells that the shipped locator finds, by laboratory."""
    locator = load_bundle(LOCATOR, task="location")
    engine = open_engine(locator)
    return {
        domain: measure_slide(map(read_counts, own), profiles[domain], locator, engine)
        for domain, own in images.items()
    }


def sample_images(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Choose up to about 60 images of each laboratory, evenly over the rows."""
    images: dict[str, dict[tuple[str, str, int], Row]] = {}
    for row in rows:
        images.setdefault(row.domain, {}).setdefault(row.image, row)
    every = {domain: max(1, len(own) // _IMAGES) for domain, own in images.items()}
    return {d: list(own.values())[:: every[d]] for d, own in images.items()}


def white_profile(rows: Sequence[Row]) -> Profile:
    """Return the profile that gives a laboratory's plasma the reference colour.

    The plasma's colour is the median over images of the median of their brightest part.
    """
    white = np.median([plasma_colour(read_counts(row)) for row in rows], axis=0)
    red, green, blue = white.tolist()
    matrix = offset_alone(PLASMA_DENSITY)
    record = ProfileRecord(white_point=(red, green, blue), matrix=matrix)
    return Profile(record, None, None)
