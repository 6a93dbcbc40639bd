from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.artifacts.bundle import LocationSpec
from edge.engines import Engine, Outputs
from edge.engines.opening import open_engine
from edge.pipeline.parts import Parts
from edge.settings.sources import SimulatedSettings
from edge.simulation.microscope import SimulatedMicroscope
from edge.stages.detection import (
    RED_CELL_UM,
    Regions,
    find_regions,
    locator_spec,
    reduce,
    reduction,
    whole_field,
)

SPEC = LocationSpec(
    diameter_px=24,
    stride_px=4,
    thresholds=(0.4, 0.2),
    overlap=0.5,
    fill=(0, 0, 0),
    trust=1.0,
)


class Told:
    """An engine that says what it was told, on the locator's grid."""

    def __init__(self, *cells: tuple[int, int, int, float, float]) -> None:
        """Take (row, column, class, probability, half width in px) per cell."""
        self.cells = cells
        self.seen: list[NDArray[np.uint8]] = []

    def infer(
        self, batch: NDArray[np.uint8], state: NDArray[np.float32] | None = None
    ) -> Outputs:
        self.seen.append(batch)
        shape = (1, batch.shape[1] // 4, batch.shape[2] // 4)
        likely = np.zeros((*shape, 2), np.float32)
        sides = np.ones((*shape, 4), np.float32)
        for row, column, kind, probability, half_px in self.cells:
            likely[0, row, column, kind] = probability
            sides[0, row, column] = half_px
        return Outputs({"likely": likely, "sides": sides})

    def close(self) -> None:
        pass


def find(*cells: tuple[int, int, int, float, float], scale: int = 1) -> Regions:
    field = np.full((120, 160, 3), 7, np.uint8)
    return find_regions(field, Told(*cells), SPEC, (160 * scale, 120 * scale))


def test_a_peak_becomes_a_box_in_pixels_of_the_full_frame() -> None:
    regions = find((10, 20, 0, 0.9, 12.0), scale=3)

    x, y = 20 * 4 + 2, 10 * 4 + 2
    expected = np.array([[x - 12, y - 12, x + 12, y + 12]]) * 3
    np.testing.assert_allclose(regions.boxes, expected)
    assert regions.scores.tolist() == pytest.approx([0.9])
    assert regions.kinds.tolist() == [0]


def test_each_class_has_a_threshold_of_its_own() -> None:
    regions = find((5, 5, 0, 0.3, 8.0), (5, 25, 1, 0.3, 8.0), (20, 5, 1, 0.1, 8.0))

    assert regions.kinds.tolist() == [1]


def test_the_likelier_of_two_boxes_upon_each_other_stays() -> None:
    regions = find(
        (10, 10, 0, 0.6, 12.0), (10, 11, 0, 0.8, 12.0), (10, 20, 0, 0.5, 12.0)
    )

    assert regions.scores.tolist() == pytest.approx([0.8, 0.5])


def test_overlapping_cells_with_centres_of_their_own_stay_apart() -> None:
    regions = find((10, 10, 0, 0.6, 12.0), (10, 14, 0, 0.8, 12.0))

    assert len(regions.boxes) == 2


def test_boxes_end_at_the_frame_and_cells_beyond_it_do_not_count() -> None:
    """120 rows are filled up to 128: a peak in the filling is no cell."""
    regions = find((0, 0, 0, 0.9, 12.0), (31, 20, 0, 0.9, 12.0))

    np.testing.assert_allclose(regions.boxes, [[0, 0, 14, 14]])


def test_the_frame_is_filled_up_with_what_the_model_takes_for_nothing() -> None:
    told = Told()
    find_regions(np.full((120, 160, 3), 7, np.uint8), told, SPEC, (160, 120))

    (batch,) = told.seen
    assert batch.shape == (1, 128, 160, 3)
    assert (batch[0, 120:] == 0).all()


def test_an_empty_field_holds_no_cells() -> None:
    regions = find()

    assert regions.boxes.shape == (0, 4)
    assert len(regions.scores) == len(regions.kinds) == 0


def test_the_whole_field_is_one_region() -> None:
    assert whole_field(640, 480).boxes.tolist() == [[0, 0, 640, 480]]


@pytest.mark.parametrize("factor", [1.0, 0.6, 0.5, 0.3, 0.25, 0.1])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_reducing_keeps_brightness_and_geometry(factor: float, dtype: type) -> None:
    y, x = np.mgrid[0:300, 0:400]
    ramp = (x // 4 + y // 4)[..., None].repeat(3, 2).astype(dtype)

    small = reduce(ramp, factor)

    assert small.dtype == dtype
    assert small.shape == (round(300 * factor), round(400 * factor), 3)
    assert abs(float(small.mean()) - float(ramp.mean())) < 1.0
    across = small[small.shape[0] // 2, :, 0].astype(float)
    expected = ramp[150, :, 0].astype(float).mean()
    assert abs(across.mean() - expected) < 2.0


def test_the_reduction_brings_red_cells_to_the_locators_diameter() -> None:
    assert RED_CELL_UM / 0.05 * reduction(0.05, SPEC) == pytest.approx(24)


@pytest.fixture(scope="module")
def locator(parts: Parts) -> Engine:
    assert parts.locator is not None
    return open_engine(parts.locator)


@pytest.mark.parametrize("stain", ["may-grunwald-giemsa", "wright", "giemsa"])
def test_the_shipped_locator_finds_simulated_cells(
    stain: str, parts: Parts, locator: Engine
) -> None:
    bench = SimulatedMicroscope(
        SimulatedSettings(width_px=1200, height_px=900, rate_hz=0, stain=stain, seed=42)
    )
    assert parts.locator is not None
    spec = locator_spec(parts.locator)
    found = white = red = there = 0
    for sequence in (0, 300, 600):
        small = reduce(bench.render(sequence), reduction(0.07, spec))
        regions = find_regions(small, locator, spec, (1200, 900))
        found += len(regions.boxes)
        for cell in bench.truth(sequence, least_visible=0.6):
            seen = _is_found(cell.box, regions.boxes)
            there += cell.label == "RBC"
            red += cell.label == "RBC" and seen
            white += cell.label == "WBC" and not seen

    assert white == 0  # white cells must not be missed
    assert red / there > 0.95
    assert found < 1.35 * there


def _is_found(box: tuple[float, ...], boxes: NDArray[np.float32]) -> bool:
    low = np.maximum(boxes[:, :2], box[:2])
    high = np.minimum(boxes[:, 2:], box[2:])
    both = np.prod(np.clip(high - low, 0, None), axis=1)
    area = (box[2] - box[0]) * (box[3] - box[1])
    union = area + np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) - both
    return bool((both / union > 0.5).any())
