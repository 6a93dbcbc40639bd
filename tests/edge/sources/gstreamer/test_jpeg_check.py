"""Damaged JPEGs in pipelines whose own decoder would fill them up, or lose them."""

from __future__ import annotations

import re
import time
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.errors import FrameRejected
from edge.frames import Exposure, SourceEnded
from edge.settings.sources import GStreamerSettings
from edge.sources.opening import open_source

pytest.importorskip("gi", reason="PyGObject is not installed")
pytest.importorskip("simplejpeg", reason="simplejpeg sees the damage")

SOFT = cv2.GaussianBlur(
    np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8), (9, 9), 0
)
JPEG = cv2.imencode(".jpg", SOFT)[1].tobytes()
HALF = len(JPEG) // 2
FRAMES = {
    0: JPEG,
    1: JPEG[:HALF],  # the camera's last packets are missing
    2: JPEG[:-2] + bytes(7) + JPEG[-2:],  # filled up
    3: JPEG[:HALF] + JPEG[HALF + 512 :],
    4: JPEG[:90],  # no picture is in it
    5: JPEG[:HALF] + JPEG[:400] + JPEG[HALF + 400 :],
    6: JPEG,
}
DAMAGED = {1, 3, 4, 5}


def read_all(pipeline: str) -> dict[int, str | int]:
    """Return why a frame was refused, or how many filler bytes it had, by number."""
    found: dict[int, str | int] = {}
    with closing(open_source(GStreamerSettings(pipeline, is_live=False))) as source:
        while True:
            try:
                item = source.read(2.0)
            except SourceEnded:
                return found
            assert isinstance(item, Exposure)
            try:
                raw = item.develop()
            except FrameRejected as error:
                found[item.shot.sequence] = str(error)
            else:
                assert raw.pixels.shape == SOFT.shape
                found[item.shot.sequence] = raw.filler_bytes or "; ".join(raw.notes)


@pytest.fixture
def camera(tmp_path: Path) -> str:
    for number, data in FRAMES.items():
        (tmp_path / f"{number:02d}.jpg").write_bytes(data)
    caps = "image/jpeg,framerate=10/1"
    return f"multifilesrc location={tmp_path}/%02d.jpg caps={caps}"


@pytest.mark.parametrize(
    "decoder", ["jpegdec", "jpegparse ! jpegdec", "queue ! jpegdec ! queue"]
)
def test_damaged_frames_are_refused_one_by_one(camera: str, decoder: str) -> None:
    found = read_all(f"{camera} ! {decoder}")

    assert list(found) == list(FRAMES)
    refused = {n for n, why in found.items() if isinstance(why, str) and why}
    assert refused == DAMAGED
    assert isinstance(found[2], int)


def test_decoders_that_a_pipeline_adds_by_itself_are_watched(camera: str) -> None:
    found = read_all(f"{camera} ! decodebin")

    assert {n for n, why in found.items() if isinstance(why, str) and why} == DAMAGED


def test_a_file_in_pieces_is_looked_at_where_it_is_put_together(
    tmp_path: Path,
) -> None:
    (tmp_path / "x.mjpg").write_bytes(JPEG * 3)
    read = f"filesrc location={tmp_path}/x.mjpg blocksize=1000 ! typefind"

    parsed = read_all(f"{read} ! jpegparse ! jpegdec")
    pieces = read_all(f"{read} ! jpegdec")

    assert list(parsed.values()) == [""] * 3
    assert [
        str(why) for why in pieces.values() if "put jpegparse" not in str(why)
    ] == []
    assert len(pieces) == 3


def test_a_damaged_frame_of_a_video_keeps_its_place(tmp_path: Path) -> None:
    path = tmp_path / "x.avi"
    writer = cv2.VideoWriter(
        str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 10, (160, 120)
    )
    for _ in range(5):
        writer.write(SOFT)
    writer.release()
    data = bytearray(path.read_bytes())
    frames = data.index(b"movi")
    third, fourth = [
        found.start() + frames for found in re.finditer(b"00dc", data[frames:])
    ][2:4]
    middle = (third + fourth) // 2
    data[middle : middle + 300] = JPEG[:300]
    path.write_bytes(data)

    found = read_all(f"filesrc location={path} ! avidemux ! jpegdec")

    assert [n for n, why in found.items() if why] == [2]
    assert list(found) == [0, 1, 2, 3, 4]


def test_a_recording_that_is_read_slowly_has_no_gaps(tmp_path: Path) -> None:
    path = tmp_path / "x.avi"
    writer = cv2.VideoWriter(
        str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 50, (160, 120)
    )
    for _ in range(4):
        writer.write(SOFT)
    writer.release()
    pipeline = f"filesrc location={path} ! avidemux ! jpegdec"
    with closing(open_source(GStreamerSettings(pipeline, is_live=False))) as source:
        items = []
        for _ in range(4):
            items.append(source.read(2.0))
            time.sleep(0.1)  # five frames' time

    assert [i.shot.sequence for i in items if isinstance(i, Exposure)] == [0, 1, 2, 3]
