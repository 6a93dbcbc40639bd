from __future__ import annotations

import os
import struct
import zlib
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from edge.errors import FrameRejected
from edge.sources.image_files import decode_image, printable, read_image

PICTURE = np.random.default_rng(0).integers(0, 255, (60, 80, 3)).astype(np.uint8)


def encoded(suffix: str, pixels: np.ndarray = PICTURE) -> bytes:
    _, data = cv2.imencode(suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    return bytes(data.tobytes())


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff"])
def test_lossless_images_come_back_as_they_were(suffix: str) -> None:
    np.testing.assert_array_equal(decode_image(encoded(suffix), "x"), PICTURE)


def test_a_jpeg_is_read_in_rgb() -> None:
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 250

    pixels = decode_image(encoded(".jpg", red), "x")

    assert pixels[..., 0].mean() > 240
    assert pixels[..., 2].mean() < 10


def test_sixteen_bits_stay_sixteen_bits() -> None:
    deep = PICTURE.astype(np.uint16) * 257

    pixels = decode_image(encoded(".png", deep), "x")

    assert pixels.dtype == np.uint16
    np.testing.assert_array_equal(pixels, deep)


def test_a_grey_image_becomes_three_equal_channels() -> None:
    _, data = cv2.imencode(".png", PICTURE[..., 0])

    pixels = decode_image(data.tobytes(), "x")

    assert pixels.shape == (60, 80, 3)
    assert (pixels[..., 0] == pixels[..., 2]).all()


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_an_image_cut_short_is_refused_not_filled_with_grey(
    suffix: str, share: float
) -> None:
    data = encoded(suffix)

    with pytest.raises(FrameRejected, match="copy it again"):
        decode_image(data[: int(len(data) * share)], "x")


@pytest.mark.parametrize("data", [b"", b"\x00" * 500, b"BM" + b"\x01" * 60, b"text"])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(FrameRejected, match="not an image"):
        decode_image(data, "x")


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_buffer_padded_with_zeros_is_whole(suffix: str) -> None:
    padded = encoded(suffix) + b"\0" * 4096

    assert decode_image(padded, "x").shape == (60, 80, 3)


def test_an_image_with_more_pixels_than_opencv_reads_is_refused() -> None:
    size = struct.pack(">II", 60_000, 60_000)
    data = bytearray(encoded(".png"))
    data[16:24] = size
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))

    with pytest.raises(FrameRejected, match="x: "):
        decode_image(bytes(data), "x")


def test_a_file_name_of_any_bytes_can_be_printed(tmp_path: Path) -> None:
    odd = Path(os.fsdecode(b"cell-\xff.png"))

    assert printable(odd) == "cell-\\xff.png"
    with pytest.raises(FrameRejected, match="No such file"):
        read_image(tmp_path / odd)


def test_floating_point_images_are_refused() -> None:
    data = BytesIO()
    tifffile.imwrite(data, np.full((8, 8, 3), np.nan, np.float32), photometric="rgb")

    with pytest.raises(FrameRejected, match="NaN"):
        decode_image(data.getvalue(), "x")


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(FrameRejected, match="No such file"):
        read_image(tmp_path / "none.png")
