"""Video files that lost bytes: what is refused, and what is only counted."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.errors import FrameRejected
from edge.frames import Gap, SourceEnded
from edge.settings.sources import VideoSettings
from edge.sources.opening import open_source

FRAMES = 8
SOFT = cv2.GaussianBlur(
    np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8), (9, 9), 0
)


def film(path: Path, coding: str = "MJPG") -> bytes:
    """Write a short film, and return its bytes."""
    code = cv2.VideoWriter.fourcc(*coding)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, 10, (160, 120))
    for number in range(FRAMES):
        writer.write(np.roll(SOFT, 8 * number, axis=1))
    writer.release()
    return path.read_bytes()


def read_all(path: Path) -> list[str]:
    """Return what became of each frame, and the gaps."""
    found = []
    with closing(open_source(VideoSettings(path))) as source:
        while True:
            try:
                item = source.read(1.0)
            except SourceEnded:
                return found
            assert item is not None
            if isinstance(item, Gap):
                found.append(f"{item.missed} missed: {item.reason}")
                continue
            try:
                item.develop()
            except FrameRejected as error:
                found.append(str(error))
            else:
                found.append("read")


def start_of(data: bytes, number: int) -> int:
    """Return where a frame of an AVI begins."""
    frames = data.index(b"movi")
    return [found.start() for found in re.finditer(b"00dc", data[frames:])][
        number
    ] + frames


@pytest.mark.parametrize("suffix", [".avi", ".mov", ".mkv"])
def test_a_whole_video_has_all_its_frames(tmp_path: Path, suffix: str) -> None:
    film(tmp_path / f"x{suffix}")

    assert read_all(tmp_path / f"x{suffix}") == ["read"] * FRAMES


def test_a_damaged_packet_is_refused_and_the_others_are_read(tmp_path: Path) -> None:
    pytest.importorskip("simplejpeg", reason="simplejpeg sees the damage")
    data = bytearray(film(tmp_path / "x.avi"))
    middle = (start_of(data, 3) + start_of(data, 4)) // 2
    data[middle : middle + 300] = data[:300]
    (tmp_path / "x.avi").write_bytes(data)

    found = read_all(tmp_path / "x.avi")

    assert "the JPEG is damaged" in found.pop(3)
    assert found == ["read"] * (FRAMES - 1)


@pytest.mark.parametrize("coding", ["MJPG", "XVID"])
def test_a_video_that_is_cut_short_says_how_many_frames_are_missing(
    tmp_path: Path, coding: str
) -> None:
    data = film(tmp_path / "x.avi", coding)
    (tmp_path / "x.avi").write_bytes(data[: start_of(data, 5)])

    *found, gap = read_all(tmp_path / "x.avi")

    assert found == ["read"] * 5
    assert gap.startswith("3 missed: ")
    assert "its header announces 8 frames, 5 could be read" in gap


def test_half_of_an_interlaced_frame_is_refused(tmp_path: Path) -> None:
    data = film(tmp_path / "x.avi")
    field = cv2.imencode(".jpg", SOFT[::2], [cv2.IMWRITE_JPEG_QUALITY, 50])[1].tobytes()
    begin = start_of(data, 2) + 8
    size = int.from_bytes(data[begin - 4 : begin], "little")
    assert len(field) <= size
    packet = field + bytes(size - len(field))
    (tmp_path / "x.avi").write_bytes(data[:begin] + packet + data[begin + size :])

    assert "is interlaced" in read_all(tmp_path / "x.avi")[2]
