"""What cameras do, played by a scripted `cv2.VideoCapture`: none is at hand here."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge.errors import FrameRejected
from edge.frames import Exposure, SourceLost
from edge.settings.sources import OpenCVSettings
from edge.sources.opencv.source import OpenCVSource

PIXELS = np.zeros((48, 64, 3), np.uint8)
PIXELS[..., 2] = 250  # red, in OpenCV's order


class Camera:
    """A V4L2 camera that takes any setting but the size it does not have."""

    def __init__(self, *frames: NDArray[np.uint8]) -> None:
        self.frames = list(frames)
        self.settings: dict[int, float] = {cv2.CAP_PROP_FPS: 30}
        self.size = (64, 48)
        self.is_released = False

    def isOpened(self) -> bool:
        return True

    def set(self, key: int, value: float) -> bool:
        self.settings[key] = value
        return True

    def get(self, key: int) -> float:
        if key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT):
            return self.size[key == cv2.CAP_PROP_FRAME_HEIGHT]
        return self.settings.get(key, 0)

    def read(self) -> tuple[bool, NDArray[np.uint8] | None]:
        return (True, self.frames.pop(0)) if self.frames else (False, None)

    def release(self) -> None:
        self.is_released = True


def open_with(
    camera: Camera, monkeypatch: pytest.MonkeyPatch, **settings: object
) -> OpenCVSource:
    monkeypatch.setattr("edge.sources.opencv.source._is_device", lambda device: True)
    monkeypatch.setattr(cv2, "VideoCapture", lambda *arguments: camera)
    return OpenCVSource(OpenCVSettings("/dev/video0", **settings))  # type: ignore[arg-type]


def jpeg(tail: bytes = b"") -> NDArray[np.uint8]:
    _, data = cv2.imencode(".jpg", PIXELS)
    return np.frombuffer(data.tobytes() + tail, np.uint8)[None]


def test_motion_jpeg_is_decoded_only_when_somebody_looks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    camera = Camera(jpeg(), jpeg(b"\0" * 500))
    source = open_with(camera, monkeypatch, fourcc="MJPG", width_px=64, height_px=48)
    assert camera.settings[cv2.CAP_PROP_CONVERT_RGB] == 0

    for _ in range(2):  # the second as a driver pads its buffers
        exposure = source.read(1)
        assert isinstance(exposure, Exposure)
        assert exposure.shot.camera == "/dev/video0"
        pixels = exposure.develop().pixels
        assert pixels.shape == (48, 64, 3)
        assert pixels[..., 0].min() > 200
        assert pixels[..., 2].max() < 60


@pytest.mark.parametrize("fourcc", ["MJPG", None])
def test_motion_jpeg_that_is_cut_short_is_rejected(
    monkeypatch: pytest.MonkeyPatch, fourcc: str | None
) -> None:
    """Also where OpenCV agreed on Motion JPEG by itself."""
    camera = Camera(jpeg()[:, :-80])
    camera.settings[cv2.CAP_PROP_FOURCC] = cv2.VideoWriter.fourcc(*"MJPG")
    source = open_with(camera, monkeypatch, fourcc=fourcc)
    assert camera.settings[cv2.CAP_PROP_CONVERT_RGB] == 0

    exposure = source.read(1)

    assert isinstance(exposure, Exposure)
    with pytest.raises(FrameRejected, match="copy it again"):
        exposure.develop()


def test_jpegs_that_opencv_insists_to_decode_are_doubted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    camera = Camera(PIXELS)
    camera.settings[cv2.CAP_PROP_CONVERT_RGB] = 1
    monkeypatch.setattr(
        camera,
        "set",
        lambda key, value: (
            key == cv2.CAP_PROP_FOURCC and Camera.set(camera, key, value)
        ),
    )
    exposure = open_with(camera, monkeypatch, fourcc="MJPG").read(1)

    assert isinstance(exposure, Exposure)
    assert "could not be looked for" in exposure.develop().notes[0]


def test_a_camera_that_refuses_motion_jpeg_is_read_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    camera = Camera(PIXELS)
    monkeypatch.setattr(camera, "set", lambda key, value: False)
    exposure = open_with(camera, monkeypatch, fourcc="MJPG").read(1)

    assert isinstance(exposure, Exposure)
    assert exposure.develop().pixels[..., 0].min() == 250
    assert "asked for 'MJPG'" in caplog.text


def test_another_size_than_the_one_asked_for_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    camera = Camera(PIXELS)

    with pytest.raises(SourceLost, match="delivers 64x48 px, asked for 640x480"):
        open_with(camera, monkeypatch, width_px=640, height_px=480)
    assert camera.is_released


def test_a_grey_camera_is_rejected_frame_by_frame(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = open_with(Camera(PIXELS[..., 0]), monkeypatch)

    exposure = source.read(1)

    assert isinstance(exposure, Exposure)
    with pytest.raises(FrameRejected, match="expected colour"):
        exposure.develop()


def test_a_camera_that_gives_nothing_is_lost_within_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = open_with(Camera(), monkeypatch, stall_s=2.5)

    with pytest.raises(SourceLost, match="no frame for"):
        source.read(1)
    assert os.environ["OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT"] == "3"


def test_a_password_is_never_shown(tmp_path: Path) -> None:
    settings = OpenCVSettings("rtsp://admin:secret@127.0.0.1:9/x", stall_s=1.0)

    with pytest.raises(SourceLost, match=r"rtsp://\*\*\*@127") as lost:
        OpenCVSource(settings)
    assert "secret" not in str(lost.value)
