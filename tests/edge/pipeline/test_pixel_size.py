"""Which pixel size a frame is examined with, and when that is doubted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from msgspec import UNSET
from numpy.typing import NDArray

from edge.errors import FrameRejected
from edge.pipeline.parts import Parts
from edge.pipeline.pipeline import Pipeline
from edge.pipeline.pixel_size import PixelSize, Scale
from edge.pipeline.scale_reading import CellsAtScale, Reading
from edge.schema.results import FrameResult
from edge.settings.sources import SimulatedSettings
from edge.simulation.microscope import SimulatedMicroscope
from tests.conftest import exposure_of

TOLD = PixelSize(0.1, "source")


def reading(um: float | None, cells: int = 40) -> Reading | None:
    return None if um is None else Reading(um, cells, 0.1 / cells**0.5)


def says(um: float | None) -> Callable[[], Reading | None]:
    return lambda: reading(um)


def red_cells(
    ratio: float, count: int = 20, seed: int = 0, score: float = 0.8
) -> Callable[[], CellsAtScale]:
    """Return red cells so many times as wide as expected."""
    chance = np.random.default_rng(seed).normal(0, 0.1, count)
    return lambda: CellsAtScale(ratio * np.exp(chance), score)


def no_cells() -> CellsAtScale:
    return CellsAtScale(np.zeros(0), None)


def never() -> Reading | None:
    raise AssertionError("the costly estimate was asked")


def test_what_the_profile_says_goes_before_the_source_and_both_before_a_guess() -> None:
    assert Scale(0.1).of(0.2, says(0.3)) == PixelSize(0.1, "profile")
    assert Scale(None).of(0.2, says(0.3)) == PixelSize(0.2, "source")
    assert Scale(None).of(None, says(0.3)).origin == "estimated"


def test_a_source_whose_objective_is_changed_is_believed_frame_by_frame() -> None:
    scale = Scale(None)

    told = [scale.of(um, says(0.3)).um for um in (0.1, 0.1, 0.25, 0.1)]

    assert told == [0.1, 0.1, 0.25, 0.1]


@pytest.mark.parametrize("um", [0.0, 1e-9, -0.1, float("nan"), float("inf"), 12.0])
def test_a_frame_with_a_pixel_size_that_no_microscope_has_is_rejected(
    um: float,
) -> None:
    with pytest.raises(FrameRejected, match=r"expected 0\.01 to 2 µm"):
        Scale(None).of(um, says(0.3))


def test_a_session_has_one_scale_once_three_frames_agree() -> None:
    guesses = iter([None, 0.07, 0.03, 0.070, 0.072, 0.071])
    scale = Scale(None)

    told = [scale.of(None, lambda: reading(next(guesses))) for _ in range(8)]

    assert [size.um for size in told[:5]] == [None, 0.07, 0.03, 0.070, 0.072]
    assert all(size.doubt for size in told[:5])
    assert {(size.um, size.doubt) for size in told[5:]} == {(0.071, None)}
    assert told[5].cells == 120


def test_of_a_single_image_its_own_estimate_is_good_enough() -> None:
    result = Scale(None, agreeing=1).of(None, says(0.07))

    assert (result.um, result.origin, result.doubt) == (0.07, "estimated", None)
    assert result.cells == 40
    assert result.range_um == pytest.approx((0.0655, 0.0748), abs=0.0003)


def test_of_a_single_image_with_two_cells_it_is_uncertain() -> None:
    result = Scale(None, agreeing=1).of(None, lambda: reading(0.07, cells=2))

    assert result.um == 0.07
    assert result.doubt is not None
    assert "uncertain: 0.07 µm (" in result.doubt
    assert "2 cells" in result.doubt


def test_a_told_scale_that_the_red_cells_confirm_costs_no_estimate() -> None:
    scale = Scale(None)

    for frame in range(50):
        assert scale.check(TOLD, red_cells(1.08, seed=frame), never) == TOLD


def test_a_told_scale_more_than_fifteen_percent_off_is_doubted() -> None:
    result = Scale(None).check(TOLD, red_cells(1.3), says(0.077))

    assert result.um == 0.1
    assert result.doubt == (
        "pixel size doubtful: the source says 0.1 µm, the red cells 0.077 µm (0.0719 "
        "to 0.0824, 40 cells); 1.30 times apart, expected at most 1.15; give the pixel "
        "size of the objective in use"
    )


def test_the_profile_is_doubted_like_the_source() -> None:
    told = Scale(0.1).of(None, never)

    result = Scale(0.1).check(told, red_cells(0.6), says(0.16))

    assert result.doubt is not None
    assert "the profile says 0.1 µm" in result.doubt
    assert "calibrate the scale" in result.doubt


def test_a_suspicion_that_the_estimate_does_not_share_is_dropped() -> None:
    assert Scale(None).check(TOLD, red_cells(1.3), says(0.09)) == TOLD


def test_where_no_red_cell_is_found_the_estimate_decides() -> None:
    """At a quarter of the true scale hardly a cell is found."""
    result = Scale(None).check(TOLD, no_cells, says(0.4))

    assert result.doubt is not None
    assert "4.00 times" in result.doubt


def test_where_finds_are_unlikely_the_estimate_decides() -> None:
    """Far from the true scale chance finds may be as wide as red cells should be."""
    result = Scale(None).check(TOLD, red_cells(1.0, score=0.5), says(0.4))

    assert result.doubt is not None
    assert Scale(None).check(TOLD, red_cells(1.0, score=0.5), says(0.1)) == TOLD


def test_the_costly_estimate_is_asked_ever_more_rarely() -> None:
    asked: list[int] = []
    scale = Scale(None)

    def nothing_at(frame: int) -> Callable[[], None]:
        return lambda: asked.append(frame)

    for frame in range(1, 1001):
        scale.check(TOLD, no_cells, nothing_at(frame))

    assert asked == [1, 3, 8, 25, 90, 347, 604, 861]


def test_a_lasting_doubt_is_estimated_once_and_ends_when_cells_agree_again() -> None:
    asked: list[int] = []
    scale = Scale(None)

    def estimate() -> Reading | None:
        asked.append(frame)
        return reading(0.06)

    ratios = [1.0] * 20 + [1.7] * 200 + [1.0] * 80
    doubted = []
    for frame, ratio in enumerate(ratios):
        size = scale.check(TOLD, red_cells(ratio, seed=frame), estimate)
        doubted.append(size.doubt is not None)

    assert len(asked) == 1
    assert not any(doubted[:20])
    assert all(doubted[50:220])  # thirty frames after the objective was changed
    assert not any(doubted[270:])


def test_another_told_scale_begins_anew() -> None:
    scale = Scale(None)
    assert scale.check(TOLD, red_cells(1.7), says(0.06)).doubt

    corrected = scale.check(PixelSize(0.06, "source"), red_cells(1.02), never)

    assert corrected.doubt is None


def test_an_estimated_scale_is_not_compared_with_itself() -> None:
    estimated = PixelSize(0.1, "estimated")

    assert Scale(None).check(estimated, red_cells(2.0), never) == estimated


@pytest.fixture(scope="module")
def field() -> NDArray[np.uint8]:
    """A simulated field of 0.1 µm per pixel."""
    settings = SimulatedSettings(
        width_px=640, height_px=480, rate_hz=0, pixel_size_um=0.1, seed=9
    )
    return SimulatedMicroscope(settings).render(0)


@pytest.fixture(scope="module")
def pipeline(parts: Parts) -> Iterator[Pipeline]:
    opened = parts.open_pipeline()
    yield opened
    opened.close()


def examine(
    pipeline: Pipeline, field: NDArray[np.uint8], told_um: float | None
) -> FrameResult:
    alone = replace(pipeline, scale=Scale(None, agreeing=1))
    return alone.examine(exposure_of(field, pixel_size_um=told_um)).result


@pytest.mark.parametrize("times", [0.5, 0.75, 1.35, 2.6])
def test_a_field_examined_at_a_wrong_scale_is_degraded(
    times: float, pipeline: Pipeline, field: NDArray[np.uint8]
) -> None:
    result = examine(pipeline, field, 0.1 * times)

    assert result.status == "degraded"
    assert result.reason is not None
    assert f"the source says {0.1 * times:.3g} µm, the red cells 0." in result.reason


def test_a_field_examined_at_its_scale_is_not(
    pipeline: Pipeline, field: NDArray[np.uint8]
) -> None:
    result = examine(pipeline, field, 0.1)

    assert (result.status, result.pixel_size_range_um) == ("ok", UNSET)


def test_a_row_says_how_sure_an_estimated_scale_is(
    pipeline: Pipeline, field: NDArray[np.uint8]
) -> None:
    result = examine(pipeline, field, None)

    assert result.status == "ok"
    assert isinstance(result.pixel_size_range_um, tuple)
    assert result.pixel_size_range_um[0] < 0.1 < result.pixel_size_range_um[1]
    assert isinstance(result.pixel_size_cells, int)
    assert result.pixel_size_cells > 10
