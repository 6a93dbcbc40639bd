from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge.simulation.microscope import SimulatedMicroscope
from edge.stages.detection import reduce
from edge.stages.image_quality import measure_quality


@pytest.fixture(scope="module")
def field(microscope: SimulatedMicroscope) -> NDArray[np.uint8]:
    """A reduced frame whose red cells are 24 px wide."""
    return reduce(microscope.render(0), 24 * 0.07 / 7.5)


def test_focus_falls_with_blur(field: NDArray[np.uint8]) -> None:
    figures = [
        measure_quality(blurred, blurred, None).focus
        for blurred in (
            field,
            cv2.GaussianBlur(field, (0, 0), 1.5),
            cv2.GaussianBlur(field, (0, 0), 3),
        )
    ]

    assert figures[0] > 2 * figures[1]
    assert figures[1] > 1.5 * figures[2]


def test_noise_does_not_pass_for_sharpness(field: NDArray[np.uint8]) -> None:
    blurred = cv2.GaussianBlur(field, (0, 0), 3)
    noise = np.random.default_rng(0).normal(0, 3, field.shape)
    noisy = np.clip(blurred + noise, 0, 255).astype(np.uint8)

    sharp = measure_quality(field, field, None).focus

    assert measure_quality(noisy, noisy, None).focus < 0.35 * sharp


@pytest.mark.parametrize("degrees", [0, 30, 90, 135])
def test_motion_shows_in_whichever_direction(
    field: NDArray[np.uint8], degrees: float
) -> None:
    moved = field.astype(np.float32)
    step = np.deg2rad(degrees)
    moved = np.mean(
        [_shifted(field, t * np.cos(step), t * np.sin(step)) for t in range(-6, 7)],
        axis=0,
    ).astype(np.uint8)

    assert measure_quality(field, field, None).motion < 0.3  # type: ignore[operator]
    assert measure_quality(moved, moved, None).motion > 0.5  # type: ignore[operator]


def _shifted(field: NDArray[np.uint8], x_px: float, y_px: float) -> NDArray[np.uint8]:
    matrix = np.array([[1, 0, x_px], [0, 1, y_px]], np.float32)
    size = (field.shape[1], field.shape[0])
    return np.asarray(
        cv2.warpAffine(field, matrix, size, borderMode=cv2.BORDER_REFLECT), np.uint8
    )


def test_covered_is_the_share_inside_boxes_counted_once() -> None:
    frame = np.full((40, 50, 3), 200, np.uint8)
    boxes = np.array([[0, 0, 25, 20], [0, 0, 25, 20], [20, 0, 30, 20]], np.float32)

    assert measure_quality(frame, frame, None, boxes).covered == 0.3
    assert measure_quality(frame, frame, None).covered == 0


def test_an_empty_field_has_no_texture_whatever_its_shading() -> None:
    shading = np.linspace(120, 220, 200).astype(np.uint8)
    frame = np.repeat(np.repeat(shading[None, :, None], 120, axis=0), 3, axis=2)

    quality = measure_quality(frame, frame, None)

    assert quality.texture is not None
    assert quality.texture < 0.006


def test_saturation_is_the_share_of_values_at_full_scale() -> None:
    frame = np.full((40, 40, 3), 100, np.uint8)
    frame[:10] = 255

    assert measure_quality(frame, frame, None).saturated == 0.25


@pytest.mark.parametrize("white", [(240, 240, 240), (225, 235, 250), (250, 230, 220)])
def test_the_background_is_compared_with_the_calibrated_white(
    white: tuple[int, int, int],
) -> None:
    frame = np.full((40, 40, 3), (240, 238, 236), np.uint8)
    frame[:20] = (180, 90, 100)

    color = pytest.importorskip("skimage.color")
    quality = measure_quality(frame, frame, np.array(white, np.uint8))

    lab = color.rgb2lab(np.array([[(240, 238, 236), white]]) / 255)[0]
    expected = color.deltaE_cie76(lab[0], lab[1])
    assert quality.background == (240.0, 238.0, 236.0)
    assert quality.background_delta_e == pytest.approx(expected, abs=0.1)


def test_without_a_calibration_there_is_nothing_to_compare_with() -> None:
    frame = np.full((8, 8, 3), 200, np.uint8)

    assert measure_quality(frame, frame, None).background_delta_e is None
