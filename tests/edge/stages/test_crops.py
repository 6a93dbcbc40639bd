from __future__ import annotations

import cv2
import numpy as np
import pytest

from edge.stages.crops import cut_crops, windows


def test_a_window_is_square_and_centred_on_the_box() -> None:
    box = np.array([[10, 20, 50, 40]], np.float32)

    (window,) = windows(box, 1.5).tolist()

    assert window == [0, 0, 60, 60]


def test_a_window_of_nothing_is_still_a_pixel() -> None:
    (window,) = windows(np.array([[5, 5, 5, 5]], np.float32), 1.0).tolist()

    assert window[2] - window[0] == 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_crop_at_its_own_size_is_cut_without_change(dtype: type) -> None:
    pixels = np.random.default_rng(0).integers(0, 200, (60, 80, 3)).astype(dtype)

    crops = cut_crops(pixels, np.array([[8, 4, 40, 36]], np.int32), 32)

    assert crops.dtype == dtype
    np.testing.assert_array_equal(crops[0], pixels[4:36, 8:40])


def test_beyond_the_border_the_frame_is_mirrored() -> None:
    pixels = np.arange(20 * 20 * 3, dtype=np.uint16).reshape(20, 20, 3)

    crops = cut_crops(
        pixels, np.array([[-4, -4, 12, 12], [10, 10, 26, 26]], np.int32), 16
    )

    mirrored = np.pad(pixels, ((4, 6), (4, 6), (0, 0)), mode="symmetric")
    np.testing.assert_array_equal(crops[0], mirrored[:16, :16])
    np.testing.assert_array_equal(crops[1], mirrored[14:30, 14:30])


@pytest.mark.parametrize("side_px", [20, 64, 100, 200, 300])
def test_resizing_keeps_the_mean_and_does_not_shift(side_px: int) -> None:
    y, x = np.mgrid[0:side_px, 0:side_px]
    ramp = (
        (x * 200 / side_px + y * 40 / side_px)[..., None]
        .repeat(3, 2)
        .astype(np.float32)
    )

    (crop,) = cut_crops(ramp, np.array([[0, 0, side_px, side_px]], np.int32), 80)

    np.testing.assert_allclose(crop.mean(), ramp.mean(), atol=0.5)
    np.testing.assert_allclose(
        crop[40, 10] + crop[40, 69], 2 * crop[40, 39:41].mean(), atol=2
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_wide_windows_show_what_averaging_each_would(dtype: type) -> None:
    """Also where they begin at odd pixels of an odd frame, and beyond its border."""
    random = np.random.default_rng(1)
    coarse = random.uniform(0, 250, (40, 50, 3)).astype(np.float32)
    pixels = cv2.resize(coarse, (501, 403), interpolation=cv2.INTER_CUBIC)
    pixels = np.clip(pixels, 0, 255).astype(dtype)
    places = np.array(
        [[31, 45, 131, 145], [101, 7, 274, 180], [-33, -51, 71, 53]], np.int32
    )

    crops = cut_crops(pixels, places, 24)

    for crop, (x0, y0, x1, y1) in zip(crops, places.tolist(), strict=True):
        padded = np.pad(pixels, ((60, 60), (60, 60), (0, 0)), mode="symmetric")
        window = padded[y0 + 60 : y1 + 60, x0 + 60 : x1 + 60]
        expected = cv2.resize(window, (24, 24), interpolation=cv2.INTER_AREA)
        off = crop.astype(float) - expected
        assert abs(off.mean()) < 0.6
        assert np.abs(off).mean() < 6
        assert np.corrcoef(crop.ravel(), expected.ravel())[0, 1] > 0.99


def test_no_places_give_no_crops() -> None:
    pixels = np.zeros((20, 20, 3), np.uint8)

    assert cut_crops(pixels, np.zeros((0, 4), np.int32), 16).shape == (0, 16, 16, 3)
