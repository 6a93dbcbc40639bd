"""The pixel size that cells show, on simulated and on made-up fields."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.engines import Engine
from edge.engines.opening import open_engine
from edge.pipeline.parts import Parts
from edge.pipeline.scale_reading import (
    Reading,
    cells_at_scale,
    estimate_pixel_size,
    reading_of,
)
from edge.settings.sources import SimulatedSettings
from edge.simulation.microscope import SimulatedMicroscope
from edge.stages.detection import (
    RED_CELL_UM,
    Regions,
    find_regions,
    locator_spec,
    reduce,
    reduction,
)


@pytest.fixture(scope="module")
def locator(parts: Parts) -> Iterator[Engine]:
    assert parts.locator is not None
    engine = open_engine(parts.locator)
    yield engine
    engine.close()


def locate_on(
    frame: NDArray[np.uint8], parts: Parts, locator: Engine
) -> Callable[[float], Regions]:
    assert parts.locator is not None
    spec, size = locator_spec(parts.locator), (frame.shape[1], frame.shape[0])
    return lambda um: find_regions(
        reduce(frame, reduction(um, spec)), locator, spec, size
    )


def simulated(pixel_um: float, seed: int = 9) -> NDArray[np.uint8]:
    return SimulatedMicroscope(
        SimulatedSettings(
            width_px=960, height_px=720, rate_hz=0, pixel_size_um=pixel_um, seed=seed
        )
    ).render(0)


@pytest.mark.parametrize("pixel_um", [0.05, 0.1, 0.2])
def test_the_scale_is_read_off_the_red_cells(
    pixel_um: float, parts: Parts, locator: Engine
) -> None:
    assert parts.locator is not None
    locate = locate_on(simulated(pixel_um), parts, locator)

    reading = estimate_pixel_size((960, 720), parts.locator, locate)

    assert reading is not None
    assert reading.um == pytest.approx(pixel_um, rel=0.12)
    assert reading.range_um[0] < pixel_um < reading.range_um[1]
    assert reading.is_sure


@pytest.mark.parametrize("times", [0.6, 0.8, 1.0, 1.3, 1.8])
def test_widths_follow_the_true_scale_when_another_is_told(
    times: float, parts: Parts, locator: Engine
) -> None:
    assert parts.locator is not None
    regions = locate_on(simulated(0.1), parts, locator)(0.1 * times)

    cells = cells_at_scale(regions, parts.locator.labels, 0.1 * times, (960, 720))

    assert np.median(cells.ratios) == pytest.approx(times, rel=0.12)


def test_far_from_the_true_scale_finds_are_unlikely(
    parts: Parts, locator: Engine
) -> None:
    assert parts.locator is not None
    locate, labels = locate_on(simulated(0.1), parts, locator), parts.locator.labels
    score = {
        times: cells_at_scale(
            locate(0.1 * times), labels, 0.1 * times, (960, 720)
        ).score
        for times in (0.3, 1.0, 3.0)
    }

    assert (score[1.0] or 0) > 0.6
    assert (score[0.3] or 0) < 0.6
    assert (score[3.0] or 0) < 0.6


def test_a_field_without_red_cells_has_no_scale(parts: Parts, locator: Engine) -> None:
    assert parts.locator is not None
    empty = np.full((480, 640, 3), 230, np.uint8)

    locate = locate_on(empty, parts, locator)

    assert estimate_pixel_size((640, 480), parts.locator, locate) is None


def test_a_frame_taken_for_a_single_cell_is_refused(parts: Parts) -> None:
    """As a dark frame with a strong cast was: 0.0136 for 0.09 µm per pixel."""
    assert parts.locator is not None

    def locate(pixel_size_um: float) -> Regions:
        whole = np.array([[0.0, 0, 640, 480]])
        return regions_of(whole if RED_CELL_UM / pixel_size_um > 150 else whole[:0], 1)

    assert estimate_pixel_size((640, 480), parts.locator, locate) is None


def test_one_chance_find_does_not_outweigh_a_field_of_cells(parts: Parts) -> None:
    assert parts.locator is not None
    corners = np.stack(np.meshgrid(np.arange(8), np.arange(5)), axis=-1).reshape(-1, 2)
    cells = np.hstack([corners * 75.0 + 20, corners * 75.0 + 64])  # 44 px wide

    def locate(pixel_size_um: float) -> Regions:
        diameter = RED_CELL_UM / pixel_size_um
        if diameter > 150:  # seen so coarsely, half of the field is one white cell
            return regions_of(np.array([[10.0, 10, 430, 370]]), kind=1)
        boxes = cells if 25 < diameter < 75 else cells[:0]
        return regions_of(boxes, kind=0)

    reading = estimate_pixel_size((640, 480), parts.locator, locate)

    assert reading is not None
    assert reading.um == pytest.approx(RED_CELL_UM / 44, rel=0.01)
    assert reading.cells == 40


def test_the_limits_hold_the_true_scale_nineteen_times_in_twenty() -> None:
    """Without the 6 % by which people differ, which are not chance."""
    random = np.random.default_rng(5)
    held = 0
    for _ in range(1000):
        cells = int(random.integers(4, 40))
        reading = reading_of(np.exp(random.normal(0, 0.12, cells)), 0.1)
        assert reading is not None
        held += not reading.is_apart(0.1, times=1.0)
    assert 930 <= held <= 980


def test_few_cells_give_wide_limits_and_one_is_never_sure() -> None:
    one, many = reading_of(np.ones(1), 0.1), reading_of(np.ones(50), 0.1)

    assert one is not None
    assert many is not None
    assert one.um == many.um == pytest.approx(0.1)
    assert not one.is_sure
    assert many.is_sure
    assert many.range_um == pytest.approx((0.094, 0.1065), abs=0.002)
    assert one.range_um[0] < many.range_um[0]
    assert str(many) == "0.1 µm (0.0937 to 0.107, 50 cells)"
    assert reading_of(np.zeros(0), 0.1) is None


def test_a_scale_is_apart_only_beyond_chance() -> None:
    assert Reading(0.1, 40, 0.02).is_apart(0.12, 1.15)
    assert not Reading(0.1, 40, 0.02).is_apart(0.112, 1.15)
    assert not Reading(0.1, 4, 0.1).is_apart(0.12, 1.15)
    assert not Reading(0.1, 2, 0.01).is_apart(0.2, 1.15)


def regions_of(boxes: NDArray[np.float64], kind: int) -> Regions:
    count = len(boxes)
    return Regions(
        boxes=boxes.astype(np.float32),
        scores=np.full(count, 0.95, np.float32),
        kinds=np.full(count, kind),
        evidence=np.zeros((count, 3), np.float32),
    )
