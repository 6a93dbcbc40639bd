"""Fit a slide's colours to the reference look: once, accepted, then frozen.

A common white leaves the stain: laboratories with the same plasma still differ by a
factor of four in how dense their red cells are. Two more colours, those of red cells
and of nuclei, fix the rest. They are medians over hundreds of located cells of a slide,
never of one frame, and the map that brings them to the reference is the affine map in
optical density that the device applies anyway.
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
from edge.pipeline.pixel_size import read_pixel_size
from edge.stages.colour_correction import correct, prepare
from edge.stages.colour_statistics import Colours, read_colours
from edge.stages.detection import locate_at, locator_spec

# Medians over BCCD, PBC and Raabin-WBC, each at a white of 255 * 10**-PLASMA_DENSITY,
# averaged in optical density and rounded.
RED_CELL_DENSITY: Density = (0.10, 0.16, 0.09)
NUCLEUS_DENSITY: Density = (0.30, 0.58, 0.11)

LEAST_CELLS = 200
_LEAST_NUCLEI = 10
_LEAST_DENSITY = 0.02  # of the red cells: less is no stain
_GAINS = 0.25, 4.0  # singular values of a map that still shows the same slide
_BRIGHT = 70  # percentile of brightness above which a smear is mostly plasma
_STEP_PX = 3


class ReferenceRefused(HemascopeError):
    """The cells do not tell how this slide should be brought to the reference."""


@dataclass(frozen=True, slots=True, eq=False)
class SlideColours:
    """Optical densities (base 10, above plasma) of cells of a slide.

    `red_cells` (N, 3) and `nuclei` (M, 3); `frames` were looked at.
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


def bare(profile: Profile) -> Profile:
    """Return the profile without its slide reference: light and white alone."""
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
        What finds cells.
    pixel_size_um
        Read off the cells where neither it nor the profile knows.
    """
    own = bare(profile)
    known = pixel_size_um or profile.record.pixel_size_um
    seen: list[Colours] = []
    for counts in frames:
        height, width = counts.shape[:2]
        field = correct(counts, prepare(own, width, height, counts.dtype))
        colours = _colours(field, locator, engine, known)
        if colours is not None:
            seen.append(colours)
    offset = _plasma_density(profile)
    empty = np.zeros((0, 3))
    return SlideColours(
        _density(np.concatenate([empty, *(c.red_cells for c in seen)]), offset),
        _density(np.concatenate([empty, *(c.nuclei for c in seen)]), offset),
        len(seen),
    )


def _colours(
    field: NDArray[np.uint8], locator: Bundle, engine: Engine, known_um: float | None
) -> Colours | None:
    um = known_um or read_pixel_size(field, locator, engine)
    if um is None:
        return None
    small, regions = locate_at(um, field, engine, locator_spec(locator))
    frame_px = (field.shape[1], field.shape[0])
    return read_colours(small, regions, locator.labels, frame_px)


def _density(rgb: NDArray[np.float64], offset: float) -> NDArray[np.float64]:
    return np.asarray(-np.log10(np.maximum(rgb, 1.0) / 255) - offset)


def fit_reference(slide: SlideColours) -> ReferenceRecord:
    """Fit the map that brings a slide's red cells and nuclei to the reference.

    The map is the one nearest to the identity (least Frobenius norm of the difference)
    that leaves plasma where it is and takes both medians where they belong. With fewer
    than ten nuclei only the red cells are.

    Raises
    ------
    ReferenceRefused
        There are fewer than 200 cells, they are hardly stained, or the map would
        change the colours beyond belief.
    """
    cells = len(slide.red_cells) + len(slide.nuclei)
    if cells < LEAST_CELLS or len(slide.red_cells) < LEAST_CELLS // 2:
        raise ReferenceRefused(
            f"{cells} whole cells on {slide.frames} frames, {len(slide.red_cells)} of "
            f"them red, expected at least {LEAST_CELLS}; show more places of the slide"
        )
    red = np.median(slide.red_cells, axis=0)
    if float(red.max()) < _LEAST_DENSITY:
        raise ReferenceRefused(
            f"red cells have an optical density of {red.max():.3f} above plasma, "
            f"expected at least {_LEAST_DENSITY}; is the slide stained, and the white "
            "point that of this slide?"
        )
    ours, wanted = [red], [np.array(RED_CELL_DENSITY)]
    nucleus = None
    if len(slide.nuclei) >= _LEAST_NUCLEI:
        nucleus = np.median(slide.nuclei, axis=0)
        ours, wanted = [*ours, nucleus], [*wanted, np.array(NUCLEUS_DENSITY)]
    here, there = np.stack(ours, axis=1), np.stack(wanted, axis=1)
    matrix = np.eye(3) + (there - here) @ np.linalg.pinv(here)
    gains = np.linalg.svd(matrix, compute_uv=False)
    if gains[-1] < _GAINS[0] or gains[0] > _GAINS[1]:
        raise ReferenceRefused(
            f"the map would change densities by {gains[-1]:.2f} to {gains[0]:.2f} "
            f"times, expected {_GAINS[0]} to {_GAINS[1]}; red cells are at "
            f"{np.round(red, 3).tolist()}, check white point, stain and focus"
        )
    return ReferenceRecord(
        red_cell_density=_three(red),
        nucleus_density=None if nucleus is None else _three(nucleus),
        cells=cells,
        nuclei=len(slide.nuclei),
        matrix=tuple(_three(row) for row in matrix),  # type: ignore[arg-type]
    )


def with_reference(profile: Profile, reference: ReferenceRecord) -> Profile:
    """Return the profile as it would be with this reference; it has no id yet.

    A site's confidence was fitted to the colours before, so it goes.
    """
    own = bare(profile).record
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
