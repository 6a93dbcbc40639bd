"""One suite for everything that behaves like a camera."""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest
from msgspec import structs
from numpy.typing import NDArray

from edge.demo.broker import free_port
from edge.errors import FrameRejected, HemascopeError
from edge.frames import Counts, Exposure, Gap, Source, SourceEnded
from edge.settings.sources import (
    ControlSettings,
    FolderSettings,
    GStreamerSettings,
    OpenCVSettings,
    SimulatedSettings,
    SourceSettings,
    VideoSettings,
)
from edge.sources.kinds import KINDS
from edge.sources.opening import open_source
from tests.edge.sources.demo import demo_settings
from tests.edge.sources.gige import FAKE, needs_aravis

FRAMES = 12
SIZE = (320, 240)


def moving_pattern(number: int) -> NDArray[np.uint8]:
    """A red field with a blue bar that moves: shows channel order and progress."""
    picture = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    picture[..., 0] = 200
    picture[:, 20 * number : 20 * number + 20] = (0, 0, 200)
    return picture


def write_images(folder: Path) -> None:
    folder.mkdir()
    for number in range(FRAMES):
        bgr = cv2.cvtColor(moving_pattern(number), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(folder / f"{number:03d}.png"), bgr)


def write_video(path: Path) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, SIZE)
    for number in range(FRAMES):
        writer.write(cv2.cvtColor(moving_pattern(number), cv2.COLOR_RGB2BGR))
    writer.release()


class NetworkCamera(http.server.ThreadingHTTPServer):
    """A network camera: Motion JPEG over HTTP, until it is switched off."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _MotionJpeg)
        self.is_on = True
        self.cuts_frames = False
        self.port = self.server_address[1]
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def switch_off(self) -> None:
        self.is_on = False
        self.shutdown()
        self.server_close()


class _MotionJpeg(http.server.BaseHTTPRequestHandler):
    server: NetworkCamera

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        number = 0
        while self.server.is_on:
            bgr = cv2.cvtColor(moving_pattern(number % FRAMES), cv2.COLOR_RGB2BGR)
            data = cv2.imencode(".jpg", bgr)[1].tobytes()
            if self.server.cuts_frames and number % 3 == 2:
                data = data[: len(data) // 2]
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}"
            try:
                self.wfile.write(head.encode() + b"\r\n\r\n" + data + b"\r\n")
            except OSError:
                return
            number += 1
            time.sleep(0.04)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def network_camera() -> Iterator[str]:
    camera = NetworkCamera()
    yield f"http://127.0.0.1:{camera.port}/stream.mjpg"
    camera.switch_off()


_RTSP_SERVER = """
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
server = GstRtspServer.RTSPServer(service="{port}", address="127.0.0.1")
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(
    "( videotestsrc is-live=true ! video/x-raw,format=I420,width=320,height=240,"
    "framerate=25/1 ! jpegenc ! rtpjpegpay name=pay0 pt=26 )"
)
server.get_mount_points().add_factory("/camera", factory)
server.attach(None)
print("ready", flush=True)
GLib.MainLoop().run()
"""


@pytest.fixture
def rtsp_camera(tmp_path: Path) -> Iterator[str]:
    pytest.importorskip("gi")
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-c", _RTSP_SERVER.format(port=port)], stdout=subprocess.PIPE
    )
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n", "install gir1.2-gst-rtsp-server-1.0"
    yield f"rtsp://127.0.0.1:{port}/camera"
    server.kill()
    server.wait()
    server.stdout.close()


def _pictures(tmp_path: Path) -> Path:
    write_images(tmp_path / "images")
    return tmp_path / "images"


def _film(tmp_path: Path) -> Path:
    write_video(tmp_path / "x.avi")
    return tmp_path / "x.avi"


def _pipeline(caps: str) -> GStreamerSettings:
    pytest.importorskip("gi")
    caps = f"video/x-raw,{caps}"
    return GStreamerSettings(f"videotestsrc is-live=true pattern=ball ! {caps}")


def _recorded_pipeline(tmp_path: Path) -> GStreamerSettings:
    pytest.importorskip("gi")
    pipeline = f"filesrc location={_film(tmp_path)} ! avidemux ! jpegdec"
    return GStreamerSettings(pipeline, is_live=False)


def _genicam(rate_hz: float) -> SourceSettings:
    needs_aravis()
    return structs.replace(FAKE, rate_hz=rate_hz)


def _micromanager(pixel_type: str, exposure_ms: float) -> SourceSettings:
    controls = ControlSettings(exposure_ms=exposure_ms)
    return structs.replace(demo_settings(pixel_type), controls=controls)


# One line per kind of source, more where it has several ways. A kind without a line
# fails below. A case may skip where what it needs is not installed.
Case = Callable[[Path, pytest.FixtureRequest], SourceSettings]
CASES: dict[str, Case] = {
    "simulated": lambda *_: SimulatedSettings(width_px=320, height_px=240, rate_hz=0),
    "simulated-live": lambda *_: SimulatedSettings(
        width_px=320, height_px=240, rate_hz=60
    ),
    "folder": lambda path, _: FolderSettings(_pictures(path)),
    "folder-paced": lambda path, _: FolderSettings(_pictures(path), rate_hz=50),
    "video": lambda path, _: VideoSettings(_film(path)),
    "opencv-http": lambda _, request: OpenCVSettings(
        request.getfixturevalue("network_camera")
    ),
    "opencv-rtsp": lambda _, request: OpenCVSettings(
        request.getfixturevalue("rtsp_camera")
    ),
    # 322 pixels: 966 bytes per row, so that GStreamer fills rows up
    "gstreamer": lambda *_: _pipeline("width=322,height=240,framerate=50/1"),
    "gstreamer-file": lambda path, _: _recorded_pipeline(path),
    "genicam": lambda *_: _genicam(rate_hz=50),
    "micromanager": lambda *_: _micromanager("32bitRGB", exposure_ms=10),
}

# The same for sources that can be slower than a read waits.
SLOW_CASES: dict[str, Case] = {
    "simulated": lambda *_: SimulatedSettings(width_px=64, height_px=64, rate_hz=0.1),
    "folder": lambda path, _: FolderSettings(_pictures(path), rate_hz=0.1),
    "gstreamer": lambda *_: _pipeline("width=64,height=64,framerate=1/9"),
    "genicam": lambda *_: _genicam(rate_hz=1),
    "micromanager": lambda *_: _micromanager("8bit", exposure_ms=800),
}


def test_every_kind_takes_part() -> None:
    assert {name.partition("-")[0] for name in CASES} == {*KINDS}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Source]:
    with closing(open_source(request.param(tmp_path, request))) as opened:
        yield opened


def next_exposures(
    source: Source, count: int, within_s: float = 15.0
) -> list[Exposure]:
    """The next exposures; gaps are passed over, they are tested below."""
    taken: list[Exposure] = []
    deadline = time.monotonic() + within_s
    while len(taken) < count and time.monotonic() < deadline:
        item = source.read(0.5)
        if isinstance(item, Exposure):
            taken.append(item)
    return taken


def test_frames_are_colour_counts_with_rising_numbers_and_times(source: Source) -> None:
    exposures = next_exposures(source, 8)

    frames = [exposure.develop() for exposure in exposures]
    assert len(frames) == 8
    for frame in frames:
        assert frame.pixels.dtype == np.uint8
        assert frame.pixels.ndim == 3
        assert frame.pixels.shape[2] == 3
        assert frame.pixels.flags.c_contiguous
    numbers = [frame.shot.sequence for frame in frames]
    assert numbers == sorted(set(numbers))
    times = [frame.shot.monotonic_ns for frame in frames]
    assert times == sorted(times)
    assert times[-1] <= time.monotonic_ns()
    for frame in frames:
        assert frame.shot.utc.tzinfo is not None
        assert frame.shot.source_id
    assert len({frame.pixels.tobytes() for frame in frames}) > 1


def test_an_exposure_may_be_developed_in_another_thread_and_later(
    source: Source,
) -> None:
    first, *_ = next_exposures(source, 6)
    developed: list[int] = []

    worker = threading.Thread(
        target=lambda: developed.append(first.develop().shot.sequence)
    )
    worker.start()
    worker.join()

    assert developed == [first.shot.sequence]


def test_a_read_returns_within_its_time(source: Source) -> None:
    next_exposures(source, 1)
    start = time.monotonic()

    source.read(0.2)

    assert time.monotonic() - start < 1.5


@pytest.mark.parametrize("case", SLOW_CASES.values(), ids=SLOW_CASES.keys())
def test_a_read_without_a_frame_returns_nothing_within_its_time(
    case: Case, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with closing(open_source(case(tmp_path, request))) as source:
        next_exposures(source, 1, within_s=1.0)
        start = time.monotonic()
        item = source.read(0.2)
        spent_s = time.monotonic() - start

    assert item is None
    assert 0.15 < spent_s < 1.0


def test_a_live_pipeline_that_ends_is_a_lost_camera_and_a_recorded_one_is_over() -> (
    None
):
    pytest.importorskip("gi")
    short = "videotestsrc num-buffers=3 {} ! video/x-raw,width=64,height=64"
    with closing(open_source(GStreamerSettings(short.format("is-live=true")))) as live:
        items = _read_until(live, lambda item: isinstance(item, Gap), 5.0)
    assert isinstance(items[-1], Gap)
    assert "camera ended the stream" in items[-1].reason

    recorded = GStreamerSettings(short.format(""), is_live=False)
    with closing(open_source(recorded)) as source:
        next_exposures(source, 3)
        with pytest.raises(SourceEnded):
            source.read(1.0)


def test_secrets_in_a_pipeline_are_not_shown() -> None:
    pytest.importorskip("gi")
    pipeline = "rtspsrc location=rtsp://u:secret@127.0.0.1:9/x user-pw=secret ! nothing"

    with pytest.raises(HemascopeError, match="gst-launch") as refused:
        open_source(GStreamerSettings(pipeline))

    assert "secret" not in str(refused.value)


def test_closing_twice_is_safe(source: Source) -> None:
    source.close()
    source.close()


def test_a_recording_ends_and_says_so(tmp_path: Path) -> None:
    write_images(tmp_path / "images")
    write_video(tmp_path / "x.avi")
    recordings: list[SourceSettings] = [
        FolderSettings(tmp_path / "images"),
        VideoSettings(tmp_path / "x.avi"),
    ]
    for settings in recordings:
        with closing(open_source(settings)) as source:
            assert not source.is_live
            assert len(next_exposures(source, FRAMES)) == FRAMES
            with pytest.raises(SourceEnded):
                source.read(0.5)


def test_frames_that_a_network_camera_cuts_are_refused() -> None:
    pytest.importorskip("simplejpeg", reason="simplejpeg sees the damage")
    camera = NetworkCamera()
    camera.cuts_frames = True
    address = f"http://127.0.0.1:{camera.port}/stream.mjpg"
    found = Counter[str]()
    with closing(open_source(OpenCVSettings(address))) as source:
        for exposure in next_exposures(source, 9):
            try:
                found["read"] += exposure.develop().pixels.shape == (240, 320, 3)
            except FrameRejected as error:
                found["refused"] += "damaged" in str(error)
    camera.switch_off()

    assert found == {"read": 6, "refused": 3}


@pytest.mark.parametrize("kind", ["folder", "video", "http"])
def test_red_stays_red(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    write_images(tmp_path / "images")
    write_video(tmp_path / "x.avi")
    settings: SourceSettings = FolderSettings(tmp_path / "images")
    if kind == "video":
        settings = VideoSettings(tmp_path / "x.avi")
    elif kind == "http":
        settings = OpenCVSettings(request.getfixturevalue("network_camera"))
    with closing(open_source(settings)) as source:
        pixels = next_exposures(source, 1)[0].develop().pixels
    red, green, blue = pixels[:, 260:].reshape(-1, 3).mean(axis=0)

    assert red > 150
    assert green < 60
    assert blue < 60


MISSING: list[tuple[Callable[[Path], SourceSettings], str]] = [
    (lambda p: OpenCVSettings("/dev/video99"), "no such camera"),
    (lambda p: VideoSettings(p / "none.avi"), "no such camera or file"),
    (lambda p: OpenCVSettings("rtsp://127.0.0.1:9/x", stall_s=1.0), "cannot be opened"),
    (lambda p: FolderSettings(p / "none"), "name a folder"),
    (lambda p: FolderSettings(p), "holds no image"),
    (lambda p: GStreamerSettings("nosuchelement"), "gst-launch"),
    (lambda p: GStreamerSettings("v4l2src device=/dev/video99"), "video99"),
]


@pytest.mark.parametrize(("settings", "says"), MISSING)
def test_a_source_that_is_not_there_is_said_at_once(
    tmp_path: Path, settings: Callable[[Path], SourceSettings], says: str
) -> None:
    chosen = settings(tmp_path)
    if isinstance(chosen, GStreamerSettings):
        pytest.importorskip("gi")
    with pytest.raises(HemascopeError, match=says):
        open_source(chosen).read(3.0)


def test_a_damaged_image_is_rejected_and_the_next_one_comes(tmp_path: Path) -> None:
    write_images(tmp_path / "images")
    path = tmp_path / "images" / "001.png"
    path.write_bytes(path.read_bytes()[:-200])
    with closing(open_source(FolderSettings(tmp_path / "images"))) as source:
        exposures = next_exposures(source, 3)

    with pytest.raises(HemascopeError, match="copy it again"):
        exposures[1].develop()
    assert exposures[2].develop().pixels.shape == (SIZE[1], SIZE[0], 3)


def test_counts_of_12_bits_fill_the_scale_and_others_are_refused(
    tmp_path: Path,
) -> None:
    counts = np.full((6, 8, 3), 4095, np.uint16)
    counts[0, 0] = 0
    cv2.imwrite(str(tmp_path / "a.png"), counts)

    def develop(bits: int) -> Counts:
        with closing(open_source(FolderSettings(tmp_path, bits=bits))) as source:
            return next_exposures(source, 1)[0].develop().pixels

    assert np.unique(develop(12)).tolist() == [0, 65535]
    assert np.unique(develop(16)).tolist() == [0, 4095]
    with pytest.raises(HemascopeError, match=r"4095, expected at most 1023 .* 12 bits"):
        develop(10)

    (tmp_path / "a.png").rename(tmp_path / os.fsdecode(b"\xff.png"))
    with pytest.raises(HemascopeError, match="4095") as refused:
        develop(10)
    assert str(refused.value).isprintable()


def test_a_network_camera_that_goes_away_is_a_gap_and_comes_back() -> None:
    camera = NetworkCamera()
    address = f"http://127.0.0.1:{camera.port}/stream.mjpg"
    with closing(open_source(OpenCVSettings(address, stall_s=1.0))) as source:
        before = next_exposures(source, 3)
        camera.switch_off()
        lost = _read_until(source, lambda item: isinstance(item, Gap), 10.0)[-1]
        assert isinstance(lost, Gap)
        assert "camera lost" in lost.reason
        camera = NetworkCamera(camera.port)
        items = _read_until(source, lambda item: isinstance(item, Exposure), 20.0)
        back, after = items[-2:]
        assert isinstance(back, Gap)
        assert "camera back after" in back.reason
        assert isinstance(after, Exposure)
        assert after.shot.sequence > before[-1].shot.sequence
    camera.switch_off()


def _read_until(
    source: Source, found: Callable[[object], bool], within_s: float
) -> list[Exposure | Gap]:
    items: list[Exposure | Gap] = []
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        item = source.read(0.3)
        if item is not None:
            items.append(item)
            if found(item):
                break
    return items


def _is_back(item: object) -> bool:
    return isinstance(item, Gap) and "camera back" in item.reason


def test_losing_a_source_is_no_error_of_a_watched_one(tmp_path: Path) -> None:
    settings = SimulatedSettings(
        width_px=320, height_px=240, rate_hz=50, unplug_every_s=1.5, unplug_for_s=0.3
    )
    with closing(open_source(settings)) as source:
        items = _read_until(source, _is_back, 10.0)
        items += next_exposures(source, 3)

    reasons = [item.reason for item in items if isinstance(item, Gap)]
    assert any("camera lost" in reason for reason in reasons)
    assert any("camera back after" in reason for reason in reasons)
    numbers = [item.shot.sequence for item in items if isinstance(item, Exposure)]
    assert numbers == sorted(set(numbers))
