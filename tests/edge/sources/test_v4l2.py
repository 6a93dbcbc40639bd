"""Locking through the kernel, played by a driver that answers byte by byte."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import cv2
import pytest

from edge.errors import HemascopeError
from edge.frames import Exposure, SourceLost
from edge.schema.results import Controls
from edge.settings.sources import (
    AS_FOUND,
    ControlSettings,
    GStreamerSettings,
    OpenCVSettings,
)
from edge.sources import v4l2
from edge.sources.camera_controls import (
    ControlNotApplied,
    ControlRefused,
    Readback,
    lock,
    read,
)
from edge.sources.control_values import differences
from edge.sources.gstreamer.source import GStreamerSource
from edge.sources.opencv.source import OpenCVSource
from tests.edge.sources.kernel import Control, Kernel
from tests.edge.sources.opencv.test_source import PIXELS, Camera

NODE = "/dev/null"  # a real character device, so that it can be opened


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel()
    monkeypatch.setattr(fcntl, "ioctl", kernel.ioctl)
    return kernel


@pytest.fixture
def driver(kernel: Kernel) -> Iterator[v4l2.V4L2Controls]:
    with closing(v4l2.V4L2Controls(NODE)) as opened:
        yield opened


_CHECK = r"""
#include <stdio.h>
#include <stddef.h>
#include <linux/videodev2.h>
int main(void) {
  printf("%zu %zu %zu\n", sizeof(struct v4l2_capability),
         sizeof(struct v4l2_queryctrl), sizeof(struct v4l2_control));
  printf("%zu %zu\n", offsetof(struct v4l2_queryctrl, minimum),
         offsetof(struct v4l2_queryctrl, flags));
  printf("%zu\n", offsetof(struct v4l2_capability, device_caps));
  printf("%u %u %u %u\n", (unsigned)VIDIOC_QUERYCAP, (unsigned)VIDIOC_QUERYCTRL,
         (unsigned)VIDIOC_G_CTRL, (unsigned)VIDIOC_S_CTRL);
  printf("%u %u %u %u %u %u %u %u %u %u\n", V4L2_CID_AUTO_WHITE_BALANCE,
         V4L2_CID_RED_BALANCE, V4L2_CID_BLUE_BALANCE, V4L2_CID_GAMMA,
         V4L2_CID_AUTOGAIN, V4L2_CID_GAIN, V4L2_CID_WHITE_BALANCE_TEMPERATURE,
         V4L2_CID_EXPOSURE_AUTO, V4L2_CID_EXPOSURE_ABSOLUTE, V4L2_CID_ANALOGUE_GAIN);
  printf("%u %u %u %u\n", V4L2_CTRL_FLAG_DISABLED, V4L2_CTRL_FLAG_READ_ONLY,
         V4L2_CAP_VIDEO_CAPTURE, V4L2_CAP_DEVICE_CAPS);
  printf("%d %d %d %d\n", V4L2_EXPOSURE_MANUAL, V4L2_EXPOSURE_SHUTTER_PRIORITY,
         V4L2_EXPOSURE_AUTO, V4L2_EXPOSURE_APERTURE_PRIORITY);
  return 0;
}
"""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
@pytest.mark.skipif(
    not Path("/usr/include/linux/videodev2.h").exists(), reason="needs linux-libc-dev"
)
def test_numbers_and_layouts_are_those_of_the_kernels_headers(tmp_path: Path) -> None:
    (tmp_path / "check.c").write_text(_CHECK)
    subprocess.run(
        ["gcc", "check.c", "-o", "check"], cwd=tmp_path, check=True, timeout=60
    )
    text = subprocess.run([tmp_path / "check"], capture_output=True, check=True).stdout

    flags = v4l2.QUERY.size - 8 - 4  # two reserved words follow
    assert text.decode().split("\n")[:-1] == [
        f"{v4l2.CAPABILITY.size} {v4l2.QUERY.size} {v4l2.CONTROL.size}",
        f"40 {flags}",
        "88",
        f"{v4l2.QUERYCAP} {v4l2.QUERYCTRL} {v4l2.G_CTRL} {v4l2.S_CTRL}",
        f"{v4l2.AUTO_WHITE_BALANCE} {v4l2.RED_BALANCE} {v4l2.BLUE_BALANCE} "
        f"{v4l2.GAMMA} {v4l2.AUTOGAIN} {v4l2.GAIN} {v4l2.WHITE_BALANCE_TEMPERATURE} "
        f"{v4l2.EXPOSURE_AUTO} {v4l2.EXPOSURE_ABSOLUTE} {v4l2.ANALOGUE_GAIN}",
        f"{v4l2.DISABLED} {v4l2.READ_ONLY} {v4l2.VIDEO_CAPTURE} {v4l2.DEVICE_CAPS}",
        "1 2 0 3",
    ]


def test_what_is_automatic_is_locked_and_keeps_its_value(
    driver: v4l2.V4L2Controls, kernel: Kernel
) -> None:
    controls = lock(driver, AS_FOUND, "cam")

    assert kernel.controls[v4l2.EXPOSURE_AUTO].value == 1
    assert kernel.controls[v4l2.AUTO_WHITE_BALANCE].value == 0
    assert controls == Controls(
        exposure_ms=15.7, gain=64, white_balance_k=4000, gamma=100
    )


def test_wanted_values_are_set_and_read_back(
    driver: v4l2.V4L2Controls, kernel: Kernel
) -> None:
    wanted = ControlSettings(exposure_ms=8.04, gain=12, white_balance_k=5204, gamma=100)

    controls = lock(driver, wanted, "cam")

    assert kernel.controls[v4l2.EXPOSURE_ABSOLUTE].value == 80
    assert controls.exposure_ms == 8.0  # the nearest step
    assert controls.gain == 12
    assert controls.white_balance_k == 5200
    assert controls.automatic == ()


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (
            ControlSettings(exposure_ms=500),
            "exposure_ms 500 ms cannot be had; it takes 0.3 ms to 204.7 ms",
        ),
        (ControlSettings(balance={"red": 3}), "has no balance of red"),
        (ControlSettings(automatic=("gamma",)), "gamma cannot be automatic"),
    ],
)
def test_a_control_that_cannot_be_had_is_refused_with_what_can(
    driver: v4l2.V4L2Controls, wanted: ControlSettings, says: str
) -> None:
    with pytest.raises(ControlRefused, match=says) as refused:
        lock(driver, wanted, "cam")
    assert refused.value.exit_code == 78
    assert isinstance(refused.value, SourceLost)  # tried again when it comes back


def test_a_driver_that_takes_a_value_and_does_another_is_refused(
    driver: v4l2.V4L2Controls, kernel: Kernel
) -> None:
    kernel.controls[v4l2.EXPOSURE_ABSOLUTE].ignores_writes = True

    with pytest.raises(ControlRefused, match=r"is 15\.7 ms, asked for 8 ms; it takes"):
        lock(driver, ControlSettings(exposure_ms=8), "cam")
    kernel.controls[v4l2.EXPOSURE_AUTO] = Control(3, 0, 3, ignores_writes=True)
    with pytest.raises(ControlRefused, match=r"is 15\.7 ms while it is automatic"):
        lock(driver, ControlSettings(exposure_ms=8), "cam")


def test_an_automatic_that_stays_on_is_said_in_every_result(
    kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    kernel.controls[v4l2.EXPOSURE_AUTO].modes = (3,)
    kernel.controls[v4l2.AUTO_WHITE_BALANCE].ignores_writes = True
    with closing(v4l2.V4L2Controls(NODE)) as driver:
        controls = lock(driver, AS_FOUND, "cam")

    assert controls.automatic == ("exposure", "white_balance")
    assert "automatic exposure cannot be turned off: Invalid argument" in caplog.text
    assert "automatic white_balance cannot be turned off: the driver" in caplog.text


def test_what_shall_be_automatic_is_left_so(
    driver: v4l2.V4L2Controls, kernel: Kernel
) -> None:
    kernel.controls[v4l2.EXPOSURE_AUTO].value = 1

    controls = lock(driver, ControlSettings(automatic=("exposure",)), "cam")

    assert kernel.controls[v4l2.EXPOSURE_AUTO].value == 3
    assert controls.automatic == ("exposure",)


def test_one_control_that_cannot_be_read_hides_no_other(kernel: Kernel) -> None:
    with closing(v4l2.V4L2Controls(NODE)) as driver:
        del kernel.controls[v4l2.GAIN]
        controls = read(driver)
        assert controls.gain is None
        assert controls.exposure_ms == 15.7

        kernel.is_plugged_in = False
        with pytest.raises(ControlNotApplied, match="does not tell"):
            read(driver)


def test_controls_that_are_read_only_or_disabled_are_not_offered(
    kernel: Kernel,
) -> None:
    kernel.controls[v4l2.GAIN] = Control(5, 0, 9, flags=v4l2.READ_ONLY)
    kernel.controls[v4l2.GAMMA] = Control(5, 0, 9, flags=v4l2.DISABLED)
    with closing(v4l2.V4L2Controls(NODE)) as driver:
        assert driver.span("gain") is None
        assert driver.span("gamma") is None


def test_controls_are_read_once_a_second_and_are_the_same_object_while_unchanged(
    driver: v4l2.V4L2Controls, kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    now_s = [0.0]
    first = lock(driver, AS_FOUND, "cam")
    readback = Readback(driver, first, lambda: now_s[0])
    kernel.controls[v4l2.EXPOSURE_ABSOLUTE].value = 300

    now_s[0] = 0.9
    assert readback.now() is first
    now_s[0] = 1.0
    changed = readback.now()
    assert changed is not None
    assert changed.exposure_ms == 30.0
    now_s[0] = 2.0
    assert readback.now() is changed
    kernel.is_plugged_in = False
    now_s[0] = 3.0
    assert readback.now() is None
    assert "cannot be read" in caplog.text


def test_results_carry_how_the_camera_is_set(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    camera = Camera(PIXELS)
    monkeypatch.setattr(cv2, "VideoCapture", lambda *arguments: camera)
    settings = OpenCVSettings(NODE, controls=ControlSettings(exposure_ms=10))
    with closing(OpenCVSource(settings)) as source:
        exposure = source.read(1)

    assert isinstance(exposure, Exposure)
    assert exposure.shot.controls == Controls(
        exposure_ms=10, gain=64, white_balance_k=4000, gamma=100
    )


def test_a_camera_that_refuses_a_control_is_released(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    camera = Camera(PIXELS)
    monkeypatch.setattr(cv2, "VideoCapture", lambda *arguments: camera)
    before = len(list(Path("/proc/self/fd").iterdir()))

    with pytest.raises(ControlRefused):
        OpenCVSource(OpenCVSettings(NODE, controls=ControlSettings(exposure_ms=5e5)))
    assert camera.is_released
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_the_v4l2_camera_of_a_pipeline_is_locked_too(kernel: Kernel) -> None:
    pytest.importorskip("gi")
    pipeline, far = f"v4l2src device={NODE}", ControlSettings(exposure_ms=5e5)

    with pytest.raises(ControlRefused, match="cannot be had"):
        GStreamerSource(GStreamerSettings(pipeline, controls=far))
    with pytest.raises(SourceLost, match="v4l2src"):  # the device is no camera
        GStreamerSource(
            GStreamerSettings(pipeline, controls=ControlSettings(exposure_ms=10))
        ).read(3.0)
    assert kernel.controls[v4l2.EXPOSURE_AUTO].value == 1
    assert kernel.controls[v4l2.EXPOSURE_ABSOLUTE].value == 100
    with pytest.raises(ControlRefused, match="only v4l2src can be locked"):
        GStreamerSource(GStreamerSettings("videotestsrc", controls=far))


def test_a_network_camera_cannot_be_locked_and_says_so() -> None:
    settings = OpenCVSettings(
        "http://127.0.0.1:9/x", stall_s=1.0, controls=ControlSettings(gain=1)
    )
    with pytest.raises(HemascopeError, match="only a V4L2 camera"):
        OpenCVSource(settings)


def test_a_camera_is_known_by_its_serial_wherever_it_is_plugged_in(
    tmp_path: Path,
) -> None:
    by_id, by_path = tmp_path / "by-id", tmp_path / "by-path"
    link, place = by_id / "usb-Maker_A17_SN123-video-index0", by_path / "pci-0-video0"
    for udev in (link, place):
        udev.parent.mkdir()
        udev.symlink_to(NODE)

    assert v4l2.identity(NODE, by_id) == str(link)
    assert v4l2.identity(str(link), by_id) == str(link)
    assert v4l2.identity(str(place), by_id) == str(place)
    assert v4l2.identity("/dev/zero", by_id) == "/dev/zero"
    assert v4l2.identity(NODE, tmp_path / "none") == NODE


def test_only_what_matters_counts_as_a_difference() -> None:
    before = Controls(exposure_ms=8.0, gain=2.0, balance={"red": 1.5})

    rounded = Controls(exposure_ms=8.05, gain=2.0, balance={"red": 1.5})
    assert differences(before, rounded) == []
    assert differences(before, Controls(exposure_ms=8.05, gain=2)) == [
        "balance of red is unknown, was 1.5"
    ]
    now = Controls(exposure_ms=9, gain=2, balance={"red": 1.5}, automatic=("exposure",))
    assert differences(before, now) == [
        "exposure is 9 ms, was 8 ms",
        "exposure is automatic, was locked",
    ]
    assert differences(before, now, ["exposure"]) == []
