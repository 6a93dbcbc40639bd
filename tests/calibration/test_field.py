from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import msgspec
import numpy as np
import pytest

from calibration.field import EmptyField, FieldRefused, measure_field
from edge.frames import RawFrame
from edge.schema.results import Controls
from edge.settings.sources import SimulatedSettings
from edge.simulation.microscope import SimulatedMicroscope
from tests.conftest import shot

EMPTY = SimulatedSettings(
    width_px=960,
    height_px=600,
    rate_hz=0,
    cells_per_mm2=0,
    pixel_size_um=0.14,
    hand_move_every_s=1.0,  # the operator moves on, from empty place to empty place
    seed=1,
)


def frames(settings: SimulatedSettings, count: int = 16) -> list[RawFrame]:
    bench = SimulatedMicroscope(settings)
    return [RawFrame(shot(n), bench.render(30 * n)) for n in range(count)]


@pytest.fixture(scope="module")
def empty() -> list[RawFrame]:
    return frames(EMPTY)


def gain_of(settings: SimulatedSettings) -> np.ndarray:
    """The light that the simulation puts on each pixel, as a share of full scale."""
    height, width = settings.height_px, settings.width_px
    y, x = np.mgrid[0:height, 0:width]
    off = np.hypot((x - 0.53 * width) / width, (y - 0.48 * height) / width)
    even = 1 - settings.vignetting * (off / 0.6) ** 2
    return even[..., None] * np.array(settings.lamp)


def shape_error(field: EmptyField, truth: np.ndarray) -> float:
    """Largest relative error of the flat field, spread over the frame as it is read."""
    height, width = truth.shape[:2]
    flat = cv2.resize(field.flat_field, (width, height))
    ratio = flat / truth
    return float(np.abs(ratio / np.median(ratio, axis=(0, 1)) - 1).max())


@pytest.mark.parametrize("vignetting", [0.0, 0.25, 0.4])
@pytest.mark.parametrize("lamp", [(0.95, 0.95, 0.95), (0.9, 0.8, 0.6)])
def test_a_known_vignetting_is_recovered(
    vignetting: float, lamp: tuple[float, float, float]
) -> None:
    settings = msgspec.structs.replace(EMPTY, vignetting=vignetting, lamp=lamp)

    field = measure_field(frames(settings))

    assert shape_error(field, gain_of(settings)) < 0.01


def test_the_white_point_is_that_of_the_lamp(empty: list[RawFrame]) -> None:
    """What the plasma takes away belongs to the white point, its colour to the lamp."""
    field = measure_field(empty)

    brightest = np.percentile(
        np.mean([f.pixels for f in empty], axis=0).reshape(-1, 3), 99.5, axis=0
    )
    np.testing.assert_allclose(field.white_point, brightest, rtol=0.01)


def test_a_black_level_is_measured_and_taken_away(empty: list[RawFrame]) -> None:
    lifted = [
        replace(f, pixels=(f.pixels.astype(int) * 220 // 255 + 24).astype(np.uint8))
        for f in empty
    ]
    dark = [RawFrame(shot(n), np.full_like(empty[0].pixels, 24)) for n in range(4)]

    field = measure_field(lifted, dark)

    assert field.black_level == pytest.approx(24)
    assert measure_field(lifted).black_level is None
    assert shape_error(field, gain_of(EMPTY)) < 0.01
    assert shape_error(measure_field(lifted), gain_of(EMPTY)) > 0.01


def test_sixteen_bits_are_measured_as_well_as_eight(empty: list[RawFrame]) -> None:
    deep = [replace(f, pixels=f.pixels.astype(np.uint16) * 257) for f in empty]

    field = measure_field(deep)

    assert field.full_scale == 65535
    assert shape_error(field, gain_of(EMPTY)) < 0.01


def test_a_speck_of_dust_does_not_bend_the_field(empty: list[RawFrame]) -> None:
    def dusty(frame: RawFrame) -> RawFrame:
        pixels = frame.pixels.copy()
        pixels[100:130, 200:240] //= 2
        return replace(frame, pixels=pixels)

    field = measure_field([dusty(f) for f in empty])

    assert shape_error(field, gain_of(EMPTY)) < 0.01


def with_cells(_: list[RawFrame]) -> list[RawFrame]:
    settings = SimulatedSettings(
        width_px=960, height_px=600, rate_hz=0, pixel_size_um=0.14, seed=1,
        drift_um_per_s=0.0, hand_move_every_s=0.0,
    )  # fmt: skip
    return frames(settings)


def a_few_cells(_: list[RawFrame]) -> list[RawFrame]:
    settings = SimulatedSettings(
        width_px=960, height_px=600, rate_hz=0, pixel_size_um=0.14, seed=1,
        cells_per_mm2=600.0, drift_um_per_s=0.0, hand_move_every_s=0.0,
    )  # fmt: skip
    return frames(settings)


def brighter(factor: float) -> Callable[[list[RawFrame]], list[RawFrame]]:
    def change(empty: list[RawFrame]) -> list[RawFrame]:
        return [
            replace(f, pixels=np.clip(f.pixels * factor, 0, 255).astype(np.uint8))
            for f in empty
        ]

    return change


def one_exposed_otherwise(empty: list[RawFrame]) -> list[RawFrame]:
    at_5_ms, at_8_ms = (
        replace(shot(), controls=Controls(exposure_ms=ms)) for ms in (5.0, 8.0)
    )
    exposed = [replace(f, shot=at_5_ms) for f in empty]
    return [*exposed[:-1], replace(exposed[-1], shot=at_8_ms)]


def lamp_warms_up(empty: list[RawFrame]) -> list[RawFrame]:
    return [
        replace(f, pixels=(f.pixels * (0.9 + 0.005 * n)).astype(np.uint8))
        for n, f in enumerate(empty)
    ]


def one_smaller(empty: list[RawFrame]) -> list[RawFrame]:
    return [*empty[:-1], replace(empty[-1], pixels=empty[-1].pixels[:-8])]


REFUSED: dict[str, tuple[Callable[[list[RawFrame]], list[RawFrame]], str]] = {
    "cells": (with_cells, "not smooth"),
    "a few cells": (a_few_cells, "not smooth"),
    "too few": (lambda empty: empty[:9], "9 frames, expected at least 16"),
    "saturated": (brighter(1.4), "saturated at 255"),
    "too dark": (brighter(0.2), "lengthen the exposure"),
    "mixed exposures": (one_exposed_otherwise, "exposure is 8 ms, was 5 ms"),
    "lamp warms up": (lamp_warms_up, "let the lamp warm up"),
    "mixed sizes": (one_smaller, "expected one kind"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_is_no_empty_field_is_refused_with_the_remedy(
    empty: list[RawFrame], why: str
) -> None:
    change, says = REFUSED[why]

    with pytest.raises(FieldRefused, match=says):
        measure_field(change(empty))


def test_dark_frames_that_are_lit_are_refused(empty: list[RawFrame]) -> None:
    with pytest.raises(FieldRefused, match="cover the light"):
        measure_field(empty, empty[:4])
