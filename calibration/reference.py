"""Fit a slide's colours to the reference look: once, accepted, then frozen.

A common white does not correct the stain: laboratories with the same plasma still
differ by a factor of four in the density of their red cells. Two more colours, those of
red cells and of nuclei, determine the rest. They are medians over hundreds of located
cells of a slide, never of one frame. The map that brings them to the reference is the
affine map in optical density that the device applies to every frame anyway.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from calibration.field import PLASMA_DENSITY
from edge.artifacts.bundle import Bundle
from edge.artifacts.profile import (
    Density,
    Matrix,
    Profile,
    ReferenceRecord,
    offset_alone,
)
from edge.engines import Engine
from edge.errors import HemascopeError
from edge.frames import Counts
from edge.pipeline.scale_reading import read_pixel_size
from edge.stages.colour_correction import correct, prepare
from edge.stages.colour_statistics import Colours, read_colours
from edge.stages.detection import locate_at, locator_spec

# Medians over BCCD, PBC and Raabin-WBC, each at a white of 255 * 10**-PLASMA_DENSITY,
# averaged in optical density and rounded.
RED_CELL_DENSITY: Density = (0.10, 0.16, 0.09)
NUCLEUS_DENSITY: Density = (0.30, 0.58, 0.11)

MIN_CELLS = 200
_MIN_NUCLEI = 10
_MIN_DENSITY = 0.02  # of red cells; with less they are not stained
_GAINS = 0.25, 4.0  # limits of the singular values of a map
_BRIGHT = 70  # percentile of brightness above which a smear is mostly plasma
_STEP_PX = 3  # every third pixel is enough for a median


class ReferenceRefused(HemascopeError):
    """The cells do not determine how to bring this slide to the reference."""


@dataclass(frozen=True, slots=True, eq=False)
class SlideColours:
    """Optical densities (base 10, above plasma) of cells of a slide.

    `red_cells` (N, 3) and `nuclei` (M, 3); `frames` counts the frames they come from.
    """

    red_cells: NDArray[np.float64]
    nuclei: NDArray[np.float64]
    frames: int


def plasma_colour(counts: NDArray[np.integer]) -> NDArray[np.float64]:
    """Median colour (3,) of the brightest part of an image (H, W, 3), in counts."""
    pixels = counts[::_STEP_PX, ::_STEP_PX].reshape(-1, 3).astype(np.float64)
    bright = pixels.sum(axis=1)
    colour: NDArray[np.float64] = np.median(
        pixels[bright >= np.percentile(bright, _BRIGHT)], axis=0
    )
    return colour


def without_reference(profile: Profile) -> Profile:
    """Return the profile with light and white alone, without its slide reference."""
    matrix = offset_alone(_plasma_density(profile))
    record = msgspec.structs.replace(profile.record, matrix=matrix, reference=None)
    return Profile(record, profile.flat_field, profile.calibration_id)


def _plasma_density(profile: Profile) -> float:
    return PLASMA_DENSITY if profile.record.white_point else 0.0


def measure_slide(
    frames: Iterable[Counts],
    profile: Profile,
    locator: Bundle,
    engine: Engine,
    pixel_size_um: float | None = None,
) -> SlideColours:
    """Locate the cells of frames and read their colours at a common white.

    Parameters
    ----------
    frames
        (H, W, 3) uint8 or uint16 RGB sensor counts of different places of one slide.
    profile
        Of the microscope; its slide reference, if any, is left out.
    locator, engine
        The locator and its engine.
    pixel_size_um
        Where neither it nor the profile has one, it is measured on the cells.
    """
    own = without_reference(profile)
    known = pixel_size_um or profile.record.pixel_size_um
    found: list[Colours] = []
    for counts in frames:
        height, width = counts.shape[:2]
        field = correct(counts, prepare(own, width, height, counts.dtype))
        colours = _colours(field, locator, engine, known)
        if colours is not None:
            found.append(colours)
    offset = _plasma_density(profile)
    empty = np.zeros((0, 3))
    return SlideColours(
        _density(np.concatenate([empty, *(c.red_cells for c in found)]), offset),
        _density(np.concatenate([empty, *(c.nuclei for c in found)]), offset),
        len(found),
    )


def _colours(
    field: NDArray[np.uint8], locator: Bundle, engine: Engine, known_um: float | None
) -> Colours | None:
    """Read the colours of the cells of a field (H, W, 3); None without a scale."""
    um = known_um or read_pixel_size(field, locator, engine)
    if um is None:
        return None
    small, regions = locate_at(um, field, engine, locator_spec(locator))
    frame_px = (field.shape[1], field.shape[0])
    return read_colours(small, regions, locator.labels, frame_px)


def _density(rgb: NDArray[np.float64], offset: float) -> NDArray[np.float64]:
    """Optical density (N, 3), base 10, above plasma, of colours (N, 3), 0 to 255."""
    return np.asarray(-np.log10(np.maximum(rgb, 1.0) / 255) - offset)


def fit_reference(slide: SlideColours) -> ReferenceRecord:
    """Fit the map that brings a slide's red cells and nuclei to the reference.

    The map leaves plasma unchanged and takes both medians to those of the reference.
    Of all such maps it is the one nearest to the identity, by the Frobenius norm of the
    difference. With fewer than ten nuclei it is fitted to the red cells alone.

    Raises
    ------
    ReferenceRefused
        There are fewer than 200 cells, they are hardly stained, or the map would
        change the colours too much to be right.
    """
    cells = len(slide.red_cells) + len(slide.nuclei)
    if cells < MIN_CELLS or len(slide.red_cells) < MIN_CELLS // 2:
        raise ReferenceRefused(
            f"{cells} whole cells on {slide.frames} frames, {len(slide.red_cells)} of "
            f"them red, expected at least {MIN_CELLS}; show more places of the slide"
        )
    red = np.median(slide.red_cells, axis=0)
    if float(red.max()) < _MIN_DENSITY:
        raise ReferenceRefused(
            f"red cells have an optical density of {red.max():.3f} above plasma, "
            f"expected at least {_MIN_DENSITY}; is the slide stained, and the white "
            "point that of this slide?"
        )
    nucleus = None
    if len(slide.nuclei) >= _MIN_NUCLEI:
        nucleus = np.median(slide.nuclei, axis=0)
    matrix = _nearest_map(red, nucleus)
    _refuse_strong(matrix, red)
    return ReferenceRecord(
        red_cell_density=_three(red),
        nucleus_density=None if nucleus is None else _three(nucleus),
        cells=cells,
        nuclei=len(slide.nuclei),
        matrix=tuple(_three(row) for row in matrix),  # type: ignore[arg-type]
    )


def _nearest_map(
    red: NDArray[np.float64], nucleus: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """Return the map (3, 3) that takes medians (3,) of a slide to the reference's.

    With the slide's medians as columns of A and the reference's as columns of B, it is
    I + (B - A) pinv(A), the least change of the identity for which M A = B.
    """
    slide, reference = [red], [np.array(RED_CELL_DENSITY)]
    if nucleus is not None:
        slide.append(nucleus)
        reference.append(np.array(NUCLEUS_DENSITY))
    here, there = np.stack(slide, axis=1), np.stack(reference, axis=1)
    return np.asarray(np.eye(3) + (there - here) @ np.linalg.pinv(here))


def _refuse_strong(matrix: NDArray[np.float64], red: NDArray[np.float64]) -> None:
    """Refuse a map (3, 3) that would hardly show the same slide.

    Raises
    ------
    ReferenceRefused
        It stretches a direction of colour by less than a quarter or more than four.
    """
    gains = np.linalg.svd(matrix, compute_uv=False)
    if gains[-1] < _GAINS[0] or gains[0] > _GAINS[1]:
        raise ReferenceRefused(
            f"the map would change densities by {gains[-1]:.2f} to {gains[0]:.2f} "
            f"times, expected {_GAINS[0]} to {_GAINS[1]}; red cells are at "
            f"{np.round(red, 3).tolist()}, check white point, stain and focus"
        )


def with_reference(profile: Profile, reference: ReferenceRecord) -> Profile:
    """Return the profile as it would be with this reference; it has no id yet.

    The site's confidence was fitted to other colours, so it is left out.
    """
    own = without_reference(profile).record
    rows = [
        (*line, whole[3])
        for line, whole in zip(reference.matrix, own.matrix, strict=True)
    ]
    matrix: Matrix = (rows[0], rows[1], rows[2])
    record = msgspec.structs.replace(
        own, matrix=matrix, reference=reference, confidence=None
    )
    return Profile(record, profile.flat_field, None)


def _three(values: NDArray[np.float64]) -> Density:
    red, green, blue = (round(float(v), 6) for v in values)
    return red, green, blue
