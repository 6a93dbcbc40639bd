from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge.engines import Engine
from edge.engines.opening import open_engine
from edge.pipeline.known_colours import load_known_colours
from edge.pipeline.parts import Parts
from edge.settings.models import ON_CPU
from edge.simulation.microscope import SimulatedMicroscope
from edge.stages.detection import Regions, locate_at, locator_spec
from edge.stages.field_check import (
    FieldDoubt,
    judge_field,
    measure_field,
    with_red_and_blue_exchanged,
)
from edge.stages.image_quality import measure_quality

Field = NDArray[np.uint8]
UM = 0.07


@pytest.fixture(scope="module")
def engine(parts: Parts) -> Engine:
    assert parts.locator is not None
    return open_engine(parts.locator, ON_CPU)


@pytest.fixture(scope="module")
def field(microscope: SimulatedMicroscope) -> Field:
    return np.asarray(microscope.render(0), np.uint8)


def doubts(field: Field, parts: Parts, engine: Engine) -> list[FieldDoubt]:
    assert parts.locator is not None
    small, regions = locate_at(UM, field, engine, locator_spec(parts.locator))
    boxes = regions.boxes * np.float32(small.shape[1] / field.shape[1])
    figures = measure_field(small, boxes, regions)
    quality = measure_quality(small, small, None, boxes)
    return judge_field(figures, small, quality, load_known_colours())


def test_a_field_of_cells_is_believed(
    field: Field, parts: Parts, engine: Engine
) -> None:
    assert doubts(field, parts, engine) == []


def checkerboard(side: int) -> Field:
    y, x = np.mgrid[:480, :640]
    grey = ((x // side + y // side) % 2 * 200 + 30).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def discs(seed: int) -> Field:
    """Coloured discs on a coloured table, such as sweets or coins."""
    random = np.random.default_rng(seed)
    picture = np.full((480, 640, 3), random.integers(0, 120, 3), np.uint8)
    for _ in range(60):
        centre = (int(random.integers(640)), int(random.integers(480)))
        colour = [int(v) for v in random.integers(0, 255, 3)]
        cv2.circle(picture, centre, int(random.integers(20, 50)), colour, cv2.FILLED)
    return picture


def grass(seed: int) -> Field:
    random = np.random.default_rng(seed)
    grain = cv2.GaussianBlur(random.normal(0, 1, (480, 640)), (0, 0), 2)
    shade = np.clip(0.5 + 0.8 * grain / grain.std() / 3, 0, 1)[..., None]
    return np.asarray(shade * np.array([60, 160, 40]), np.uint8)


def bricks() -> Field:
    picture = np.full((480, 640, 3), (150, 70, 50), np.uint8)
    picture[::40], picture[1::40], picture[2::40] = 180, 180, 180
    for row in range(12):
        picture[row * 40 : row * 40 + 40, row % 2 * 40 :: 80] = 180
    return picture


def text() -> Field:
    page = np.full((480, 640, 3), 250, np.uint8)
    for row in range(16):
        words = "expected at most the limit 0123456789"
        font = cv2.FONT_HERSHEY_SIMPLEX
        cv2.putText(page, words, (5, 30 + 28 * row), font, 0.8, (20, 20, 20), 2)
    return page


@pytest.mark.parametrize(
    "picture",
    [
        *(checkerboard(side) for side in (12, 24, 40)),
        *(discs(seed) for seed in range(3)),
        bricks(),
        text(),
    ],
)
def test_a_picture_of_something_else_is_no_smear(
    picture: Field, parts: Parts, engine: Engine
) -> None:
    first, *_ = doubts(picture, parts, engine)

    assert first.fault == "no smear"
    assert first.reason.startswith("no smear: ")
    assert "expected at" in first.reason
    assert "show a stained smear" in first.reason


@pytest.mark.parametrize("seed", range(2))
def test_a_texture_without_cells_is_doubted(
    seed: int, parts: Parts, engine: Engine
) -> None:
    reasons = [doubt.reason for doubt in doubts(grass(seed), parts, engine)]

    assert any(reason.startswith(("hardly a cell", "no smear")) for reason in reasons)


def test_a_smear_without_colour_is_no_smear(
    field: Field, parts: Parts, engine: Engine
) -> None:
    grey = np.repeat(field[..., 1:2], 3, axis=2)

    first, *_ = doubts(grey, parts, engine)

    assert first.fault == "no smear"
    assert "colour 0.00, expected at least 10.0" in first.reason


def test_exchanged_channels_are_named(
    field: Field, parts: Parts, engine: Engine
) -> None:
    (doubt,) = doubts(np.ascontiguousarray(field[..., ::-1]), parts, engine)

    assert doubt.fault is None
    assert doubt.reason.startswith("red and blue seem exchanged")
    assert doubt.reason.endswith("give RGB, not BGR")


def test_half_the_light_is_named(field: Field, parts: Parts, engine: Engine) -> None:
    (doubt,) = doubts(np.asarray(field // 2, np.uint8), parts, engine)

    assert doubt.fault is None
    assert doubt.reason.startswith("dim: brightness 0.4")


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_unused_bits_are_named(field: Field, bits: int) -> None:
    counts = field.astype(np.uint16) << (bits - 8)
    nothing = Regions(
        np.zeros((0, 4), np.float32),
        np.zeros(0, np.float32),
        np.zeros(0, np.intp),
        np.zeros((0, 3), np.float32),
    )
    figures = measure_field(field, nothing.boxes, nothing)
    quality = measure_quality(counts, field, None)

    (doubt,) = judge_field(figures, counts, quality)

    assert doubt.fault == "dark"
    assert f"bits = {bits}" in doubt.reason
    assert f"{16 - bits} of 16 bits are not used" in doubt.reason


def test_exchanging_twice_changes_nothing() -> None:
    point = np.random.default_rng(0).normal(size=8)

    twice = with_red_and_blue_exchanged(with_red_and_blue_exchanged(point))

    np.testing.assert_allclose(twice, point)
