from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge.artifacts.profile import (
    IDENTITY_PROFILE,
    Profile,
    ProfileMismatch,
    ProfileRecord,
    load_profile,
    save_profile,
)
from edge.stages.colour_correction import correct, correct_crops, prepare
from edge.stages.crops import cut_crops

SIZE = (160, 120)  # width, height
MATRIX = ((1.10, 0.05, 0.00, 0.03), (0.02, 0.95, -0.04, 0.02), (0.00, 0.03, 1.05, 0.01))


def counts(dtype: type, low: int, high: int) -> NDArray[np.generic]:
    random = np.random.default_rng(1)
    return random.integers(low, high, (SIZE[1], SIZE[0], 3)).astype(dtype)


def flat_field() -> NDArray[np.float32]:
    y, x = np.mgrid[0:9, 0:12]
    even = 1 - 0.4 * ((x / 11 - 0.5) ** 2 + (y / 8 - 0.4) ** 2)
    return (even[..., None] * np.array([1.0, 0.97, 0.93])).astype(np.float32)


@pytest.fixture
def profile(tmp_path: Path) -> Profile:
    record = ProfileRecord(
        black_level=4.0, white_point=(210.0, 205.0, 190.0), matrix=MATRIX
    )
    return save_profile(tmp_path, record, flat_field())


def reference(profile: Profile, pixels: NDArray[np.generic]) -> NDArray[np.float64]:
    """The formula of the module, in float64, bilinear between the grid's logarithms."""
    height, width = pixels.shape[:2]
    grid = np.log(profile.flat_field.astype(np.float64))

    def places(size: int, cells: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        at = np.clip((np.arange(size) + 0.5) * cells / size - 0.5, 0, cells - 1)
        low = np.minimum(at.astype(int), cells - 2)
        return low, at - low

    (y, v), (x, u) = places(height, grid.shape[0]), places(width, grid.shape[1])
    v, u = v[:, None, None], u[None, :, None]
    top = grid[y][:, x] * (1 - u) + grid[y][:, x + 1] * u
    bottom = grid[y + 1][:, x] * (1 - u) + grid[y + 1][:, x + 1] * u
    flat = np.exp(top * (1 - v) + bottom * v)
    record = profile.record
    light = np.maximum(pixels.astype(np.float64) - record.black_level, 0.5)
    transmittance = light / (np.array(record.white_point) * flat)
    matrix = np.array(record.matrix)
    density = -np.log10(transmittance) @ matrix[:, :3].T + matrix[:, 3]
    return np.clip(255 * 10**-density, 0, 255)


@pytest.mark.parametrize(("dtype", "scale"), [(np.uint8, 1), (np.uint16, 16)])
def test_every_pixel_is_within_one_grey_level_of_the_formula(
    tmp_path: Path, dtype: type, scale: int
) -> None:
    record = ProfileRecord(
        black_level=4.0 * scale,
        white_point=(210.0 * scale, 205.0 * scale, 190.0 * scale),
        matrix=MATRIX,
    )
    profile = save_profile(tmp_path, record, flat_field())
    pixels = counts(dtype, 3 * scale, 250 * scale)

    out = correct(pixels, prepare(profile, *SIZE, pixels.dtype))

    assert out.dtype == np.uint8
    error = np.abs(out - reference(profile, pixels))
    assert error.max() <= 1.0
    assert error.mean() < 0.3  # rounding alone costs 0.25


def test_an_empty_field_becomes_uniform_white(profile: Profile) -> None:
    colours = prepare(profile, *SIZE, np.dtype(np.uint8))
    flat = np.exp(colours.log_flat)
    empty = np.rint(flat * profile.record.white_point + 4).astype(np.uint8)

    out = correct(empty, colours)

    white = 255 * 10 ** -np.array(MATRIX)[:, 3]
    assert np.abs(out - white).max() <= 2.0


def test_the_identity_changes_nothing() -> None:
    pixels = counts(np.uint8, 0, 256)

    out = correct(pixels, prepare(IDENTITY_PROFILE, *SIZE, pixels.dtype))

    np.testing.assert_array_equal(out, pixels)


def test_sixteen_bits_come_out_as_their_upper_eight() -> None:
    pixels = counts(np.uint16, 256, 65536)

    out = correct(pixels, prepare(IDENTITY_PROFILE, *SIZE, pixels.dtype))

    assert np.abs(out - pixels / 257).max() <= 0.51


@pytest.mark.parametrize(("dust", "step"), [(False, 4), (True, 1)])
def test_crops_are_corrected_by_the_map_of_the_frame(
    tmp_path: Path, dust: bool, step: int
) -> None:
    width, height = 1281, 959
    flat = cv2.resize(flat_field(), (width, height))
    if dust:
        flat[400:410, 600:610] *= 0.7
    record = ProfileRecord(white_point=(210.0, 205.0, 190.0), matrix=MATRIX)
    colours = prepare(
        save_profile(tmp_path, record, flat), width, height, np.dtype(np.uint8)
    )
    random = np.random.default_rng(5)
    pixels = random.integers(20, 240, (height, width, 3)).astype(np.uint8)
    places = np.array(
        [[0, 0, 64, 64], [571, 377, 635, 441], [1217, 895, 1281, 959]], np.int32
    )

    crops = correct_crops(cut_crops(pixels, places, 64), places, colours)

    assert colours.coarse_log_flat is not None
    assert colours.coarse_log_flat.shape[1] == -(-width // step)
    whole = correct(pixels, colours).astype(int)
    for crop, (x0, y0, x1, y1) in zip(crops, places, strict=True):
        assert np.abs(crop - whole[y0:y1, x0:x1]).max() <= 1


def test_a_crop_at_the_very_border_is_corrected_too(tmp_path: Path) -> None:
    record = ProfileRecord(white_point=(210.0, 205.0, 190.0))
    flat = np.ones((3, 4, 3), np.float32)
    profile = save_profile(tmp_path, record, flat)
    colours = prepare(profile, 1280, 960, np.dtype(np.uint8))
    pixels = np.full((960, 1280, 3), 180, np.uint8)
    places = np.array(
        [[1279, 959, 1290, 970], [1280, 960, 1290, 970], [-9, -9, 0, 0]], np.int32
    )

    crops = correct_crops(cut_crops(pixels, places, 16), places, colours)

    assert (crops == crops[0, 0, 0]).all()


def test_what_is_far_too_bright_is_clipped_not_black(tmp_path: Path) -> None:
    steep = tuple((*(3.0 * (i == j) for j in range(3)), 0.0) for i in range(3))
    record = ProfileRecord(white_point=(100.0,) * 3, matrix=steep)
    profile = save_profile(tmp_path, record, None)
    pixels = np.full((4, 4, 3), 65535, np.uint16)

    out = correct(pixels, prepare(profile, 4, 4, pixels.dtype))

    assert (out == 255).all()


def test_a_cell_keeps_its_colour_while_the_field_around_it_empties(
    profile: Profile,
) -> None:
    colours = prepare(profile, *SIZE, np.dtype(np.uint8))
    crowded = counts(np.uint8, 60, 120)
    alone = np.full_like(crowded, 205)
    alone[40:80, 50:90] = crowded[40:80, 50:90]

    before, after = correct(crowded, colours), correct(alone, colours)

    np.testing.assert_array_equal(before[40:80, 50:90], after[40:80, 50:90])


def test_a_profile_survives_saving(profile: Profile, tmp_path: Path) -> None:
    again = load_profile(tmp_path)

    assert again.calibration_id == profile.calibration_id
    assert again.record == profile.record
    np.testing.assert_array_equal(again.flat_field, profile.flat_field)


def test_any_change_of_a_profile_changes_its_id(
    profile: Profile, tmp_path: Path
) -> None:
    other = save_profile(tmp_path / "b", profile.record, flat_field() * 0.99)

    assert other.calibration_id != profile.calibration_id


def test_an_altered_flat_field_is_refused(profile: Profile, tmp_path: Path) -> None:
    data = bytearray((tmp_path / "flat_field.npy").read_bytes())
    data[-1] ^= 1
    (tmp_path / "flat_field.npy").write_bytes(data)

    with pytest.raises(ProfileMismatch, match="altered or damaged"):
        load_profile(tmp_path)


@pytest.mark.parametrize("value", [np.nan, 0.0])
def test_a_flat_field_that_no_light_can_make_is_refused(
    tmp_path: Path, value: float
) -> None:
    flat = flat_field()
    flat[0, 0, 0] = value

    with pytest.raises(ProfileMismatch):
        save_profile(tmp_path, ProfileRecord(), flat)


def test_a_pickle_in_place_of_the_flat_field_is_not_opened(tmp_path: Path) -> None:
    save_profile(tmp_path, ProfileRecord(), flat_field())
    np.save(
        tmp_path / "flat_field.npy", np.array([{}], dtype=object), allow_pickle=True
    )
    record = json.loads((tmp_path / "profile.json").read_text())
    data = (tmp_path / "flat_field.npy").read_bytes()
    record["flat_field_sha256"] = hashlib.sha256(data).hexdigest()
    (tmp_path / "profile.json").write_text(json.dumps(record))

    with pytest.raises(ProfileMismatch, match="not an array"):
        load_profile(tmp_path)


def test_a_profile_of_another_frame_size_or_camera_is_refused() -> None:
    record = ProfileRecord(width_px=640, height_px=480, camera_serial="A17")
    profile = Profile(record, None, "x")

    profile.check(640, 480, "usb-A17")
    with pytest.raises(ProfileMismatch, match="1920x1200"):
        profile.check(1920, 1200, "usb-A17")
    with pytest.raises(ProfileMismatch, match="B2"):
        profile.check(640, 480, "usb-B2")
