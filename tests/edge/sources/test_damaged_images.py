from __future__ import annotations

import logging
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.errors import FrameRejected
from edge.frames import Exposure
from edge.settings.sources import FolderSettings, SimulatedSettings
from edge.simulation.microscope import SimulatedMicroscope
from edge.sources.folder import FolderSource
from edge.sources.image_files import decode_image, decode_picture, read_picture

SMALL = np.full((8, 8, 3), 200, np.uint8)


@pytest.fixture(scope="module")
def jpeg() -> bytes:
    settings = SimulatedSettings(width_px=640, height_px=480, rate_hz=0, seed=3)
    field = SimulatedMicroscope(settings).render(0)
    return bytes(cv2.imencode(".jpg", field[..., ::-1])[1].tobytes())


def test_a_jpeg_that_lost_a_packet_is_refused(jpeg: bytes) -> None:
    pytest.importorskip("simplejpeg", reason="simplejpeg sees the damage")
    rng = np.random.default_rng(0)
    for at in rng.integers(len(jpeg) // 4, len(jpeg) * 3 // 4, 40):
        with pytest.raises(FrameRejected, match="damaged"):
            decode_image(jpeg[:at] + jpeg[at + 512 :], "x")


def test_a_whole_jpeg_with_bytes_after_its_end_is_read(jpeg: bytes) -> None:
    pytest.importorskip("simplejpeg", reason="simplejpeg sees the damage")
    whole = decode_image(jpeg, "x")

    np.testing.assert_array_equal(decode_image(jpeg + b"maker's note" * 99, "x"), whole)


def test_bytes_that_a_camera_fills_up_with_are_let_through(jpeg: bytes) -> None:
    pytest.importorskip("simplejpeg", reason="simplejpeg sees the damage")
    filled = decode_picture(jpeg[:-2] + b"\x55" * 16 + jpeg[-2:], "x")

    np.testing.assert_array_equal(filled.pixels, decode_image(jpeg, "x"))
    assert filled.filler_bytes > 0
    assert filled.notes == ()


def test_more_pixels_than_the_limit_are_refused_by_the_header() -> None:
    data = bytearray(cv2.imencode(".png", SMALL)[1].tobytes())
    data[16:24] = struct.pack(">II", 20_000, 20_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))

    with pytest.raises(FrameRejected, match="400 megapixels, expected at most 200"):
        decode_image(bytes(data), "x")


def test_a_named_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")

    with pytest.raises(FrameRejected, match="is a named pipe, expected a regular file"):
        read_picture(tmp_path / "a.png")


def test_a_sparse_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(cv2.imencode(".png", SMALL)[1].tobytes())
    os.truncate(path, 2**40)

    with pytest.raises(FrameRejected, match="bytes for 8x8 px"):
        read_picture(path)


def test_files_that_are_passed_over_are_counted_by_kind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), SMALL)
    for name in ("notes.txt", "more.txt", ".hidden.png", "video"):
        (tmp_path / name).touch()

    with caplog.at_level(logging.WARNING):
        FolderSource(FolderSettings(tmp_path)).close()

    assert "passed_over=4" in caplog.text
    assert "'.txt': 2" in caplog.text


def test_what_was_not_looked_at_goes_with_the_frame(tmp_path: Path) -> None:
    pages = [SMALL, SMALL]
    cv2.imwritemulti(str(tmp_path / "a.tif"), pages)

    exposure = FolderSource(FolderSettings(tmp_path)).read(1)

    assert isinstance(exposure, Exposure)
    assert exposure.develop().notes[0].startswith("page 1 of 2 was read")


def test_filler_bytes_go_with_the_frame(tmp_path: Path, jpeg: bytes) -> None:
    pytest.importorskip("simplejpeg", reason="simplejpeg sees them")
    (tmp_path / "a.jpg").write_bytes(jpeg[:-2] + b"\x55" * 16 + jpeg[-2:])

    exposure = FolderSource(FolderSettings(tmp_path)).read(1)

    assert isinstance(exposure, Exposure)
    assert exposure.develop().filler_bytes > 0
