from __future__ import annotations

import msgspec
import numpy as np
import pytest

from calibration.field import PLASMA_DENSITY
from calibration.reference import (
    NUCLEUS_DENSITY,
    RED_CELL_DENSITY,
    ReferenceRefused,
    SlideColours,
    fit_reference,
    measure_slide,
    with_reference,
)
from edge.artifacts.profile import Profile, ProfileRecord
from edge.engines.opening import open_engine
from edge.pipeline.parts import Parts
from edge.settings.sources import SimulatedSettings
from edge.simulation.microscope import SimulatedMicroscope
from edge.stages.colour_correction import correct, prepare

RED, NUCLEUS = (0.05, 0.10, 0.07), (0.17, 0.29, 0.02)
BENCH = SimulatedSettings(
    width_px=640, height_px=480, rate_hz=0, pixel_size_um=0.14, vignetting=0.0
)


def slide(cells: int = 300, nuclei: int = 20) -> SlideColours:
    random = np.random.default_rng(0)
    return SlideColours(
        np.array(RED) + random.normal(0, 0.01, (cells, 3)),
        np.array(NUCLEUS) + random.normal(0, 0.02, (nuclei, 3)),
        9,
    )


def test_both_medians_are_brought_where_they_belong() -> None:
    colours = slide()
    fitted = fit_reference(colours)

    matrix = np.array(fitted.matrix)
    red, nucleus = np.median(colours.red_cells, 0), np.median(colours.nuclei, 0)
    np.testing.assert_allclose(matrix @ red, RED_CELL_DENSITY, atol=1e-5)
    np.testing.assert_allclose(matrix @ nucleus, NUCLEUS_DENSITY, atol=1e-5)
    beside = np.cross(red, nucleus)  # what neither colour speaks of stays
    np.testing.assert_allclose(matrix @ beside, beside, atol=1e-6)


def test_without_white_cells_red_ones_alone_decide() -> None:
    fitted = fit_reference(slide(nuclei=3))

    red = np.array(fitted.red_cell_density)
    np.testing.assert_allclose(np.array(fitted.matrix) @ red, RED_CELL_DENSITY, 1e-3)
    assert fitted.nucleus_density is None


@pytest.mark.parametrize(
    ("colours", "says"),
    [
        (slide(cells=120), "140 whole cells"),
        (SlideColours(np.zeros((300, 3)), np.zeros((0, 3)), 4),
         "is the slide stained"),
        (SlideColours(np.full((300, 3), 0.021), np.full((20, 3), 0.022), 4),
         "change densities"),
    ],
)  # fmt: skip
def test_a_slide_that_tells_nothing_is_refused(
    colours: SlideColours, says: str
) -> None:
    with pytest.raises(ReferenceRefused, match=says):
        fit_reference(colours)


def measured(parts: Parts, stain: str, profile: Profile) -> SlideColours:
    assert parts.locator is not None
    settings = msgspec.structs.replace(BENCH, stain=stain)
    bench = SimulatedMicroscope(settings)
    frames = [bench.render(90 * n) for n in range(6)]
    engine = open_engine(parts.locator)
    return measure_slide(frames, profile, parts.locator, engine, 0.14)


def test_two_stains_look_alike_once_each_has_its_reference(parts: Parts) -> None:
    white = tuple(255 * share for share in BENCH.lamp)
    record = ProfileRecord(white_point=white, matrix=offset_only())
    bare = Profile(record, None, None)
    before, after = [], []
    for stain in ("may-grunwald-giemsa", "wright"):
        colours = measured(parts, stain, bare)
        fitted = fit_reference(colours)
        before.append(np.median(colours.red_cells, 0))
        matrix = np.array(fitted.matrix)
        after.append(np.median(colours.red_cells, 0) @ matrix.T)

    assert np.abs(before[0] - before[1]).max() > 0.01
    np.testing.assert_allclose(after[0], after[1], atol=1e-4)


def test_plasma_stays_where_the_white_point_put_it() -> None:
    record = ProfileRecord(white_point=(200.0, 190.0, 180.0), matrix=offset_only())
    profile = with_reference(Profile(record, None, None), fit_reference(slide()))
    field = np.full((32, 32, 3), (200, 190, 180), np.uint8)

    after = correct(field, prepare(profile, 32, 32, field.dtype))

    np.testing.assert_allclose(after, 255 * 10**-PLASMA_DENSITY, atol=1)


def offset_only() -> tuple[tuple[float, ...], ...]:
    return (
        (1.0, 0.0, 0.0, PLASMA_DENSITY),
        (0.0, 1.0, 0.0, PLASMA_DENSITY),
        (0.0, 0.0, 1.0, PLASMA_DENSITY),
    )
