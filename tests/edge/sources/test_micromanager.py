"""Micro-Manager for real: its core, and the demonstration camera of its adapters."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge.errors import ConfigurationInvalid, FrameRejected
from edge.frames import Exposure, Gap, Source, SourceLost
from edge.settings.sources import AS_FOUND, ControlSettings, MicroManagerSettings
from edge.sources.bit_depth import over_16_bits
from edge.sources.camera_controls import ControlRefused, lock
from edge.sources.micromanager.controls import MicroManagerControls, serial_of
from edge.sources.micromanager.source import MicroManagerSource, to_rgb
from edge.sources.opening import open_source
from tests.edge.sources.demo import demo_settings


def demo(pixel_type: str = "32bitRGB", **others: object) -> MicroManagerSettings:
    return msgspec.structs.replace(demo_settings(pixel_type), **others)


@pytest.fixture
def source() -> Iterator[Source]:
    with closing(open_source(demo())) as opened:
        yield opened


def first_exposure(source: Source) -> Exposure:
    item = source.read(5.0)
    assert isinstance(item, Exposure)
    return item


@pytest.mark.parametrize(
    ("pixel_type", "depth", "dtype", "is_grey"),
    [
        ("8bit", None, np.uint8, True),
        ("16bit", "12", np.uint16, True),
        ("32bitRGB", None, np.uint8, False),
        ("64bitRGB", None, np.uint16, False),
    ],
)
def test_every_kind_of_pixel_becomes_rgb(
    pixel_type: str, depth: str | None, dtype: type, is_grey: bool
) -> None:
    settings = demo(pixel_type)
    if depth is not None:
        settings.properties["Camera"]["BitDepth"] = depth
    with closing(MicroManagerSource(settings)) as source:
        pixels = first_exposure(source).develop().pixels

    assert pixels.shape == (512, 512, 3)
    assert pixels.dtype == dtype
    same = (pixels[..., 0] == pixels[..., 1]) & (pixels[..., 0] == pixels[..., 2])
    assert bool(same.all()) == is_grey
    if depth is not None:  # 12 bits over 16: the lowest nibble repeats the highest
        assert (pixels & 15 == pixels >> 12).all()


def test_colours_are_in_their_order() -> None:
    blue_green_red = np.array([[0x00C80A01]], np.uint32)  # as bytes: 1, 10, 200, 0

    assert to_rgb(blue_green_red, 4, 8).tolist() == [[[200, 10, 1]]]
    with pytest.raises(FrameRejected, match="set the camera's PixelType"):
        to_rgb(np.zeros((2, 2), np.float32), 1, 32)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_full_scale_is_full_scale_with_any_bits(bits: int) -> None:
    highest = 2**bits - 1

    spread = over_16_bits(np.array([0, highest // 2, highest], np.uint16), bits)

    assert spread[[0, 2]].tolist() == [0, 65535]
    assert abs(int(spread[1]) - 65535 * (highest // 2) / highest) < 1


def test_results_know_camera_exposure_and_scale(source: Source) -> None:
    shot = first_exposure(source).shot

    assert shot.camera == "DemoCamera/DCam V1.0"
    assert shot.controls is not None
    assert shot.controls.exposure_ms == 10.0
    assert shot.controls.gain == 0.0
    assert shot.pixel_size_um == 1.0  # the configuration's
    assert shot.source_id == "micromanager:Camera"


def test_controls_are_set_and_what_is_refused_is_named() -> None:
    wanted = ControlSettings(exposure_ms=4, gain=3)
    with closing(MicroManagerSource(demo(controls=wanted))) as source:
        controls = first_exposure(source).shot.controls
    assert controls is not None
    assert (controls.exposure_ms, controls.gain) == (4.0, 3.0)

    for refused, says in [
        (ControlSettings(gain=20), "takes -5 to 8"),
        (ControlSettings(gamma=2), "has no gamma"),
        (ControlSettings(white_balance_k=5000), "has no white balance"),
    ]:
        with pytest.raises(ControlRefused, match=says):
            MicroManagerSource(demo(controls=refused))


def test_a_control_that_is_changed_by_another_hand_is_doubted(source: Source) -> None:
    first_exposure(source)
    inner = source._source  # type: ignore[attr-defined]
    inner._core.setExposure(25.0)
    inner._readback._read_s -= 1.0

    doubts = [first_exposure(source).shot.doubt for _ in range(3)]

    assert "exposure is 25 ms, was 10 ms" in str(doubts[-1])


def test_a_buffer_that_overflows_is_a_gap_of_as_many_frames_as_were_lost() -> None:
    with closing(open_source(demo("8bit", buffer_mb=1))) as source:  # four frames
        numbers = [first_exposure(source).shot.sequence]
        time.sleep(0.4)  # nobody fetches what comes
        missed = 0
        while len(numbers) < 8:
            item = source.read(1.0)
            if isinstance(item, Gap):
                assert "skipped by the camera" in item.reason
                assert item.missed is not None
                missed += item.missed
            elif item is not None:
                numbers.append(item.shot.sequence)

    assert missed >= 4
    assert numbers[-1] - numbers[0] + 1 == len(numbers) + missed


def test_a_camera_that_stops_is_lost_and_comes_back(source: Source) -> None:
    before = first_exposure(source).shot.sequence
    inner = source._source  # type: ignore[attr-defined]
    inner._core.stopSequenceAcquisition()
    inner._core.clearCircularBuffer()

    items = [item for _ in range(20) if (item := source.read(0.5)) is not None]

    lost, back, *after = items
    assert isinstance(lost, Gap)
    assert "has ended its sequence by itself" in lost.reason
    assert isinstance(back, Gap)
    assert "camera back after" in back.reason
    assert isinstance(after[-1], Exposure)
    assert after[-1].shot.sequence > before


def test_a_camera_that_gives_nothing_is_lost_within_its_time() -> None:
    settings = demo(stall_s=0.3, controls=ControlSettings(exposure_ms=900))
    with closing(MicroManagerSource(settings)) as source:
        assert source.read(0.1) is None
        with pytest.raises(SourceLost, match="longer than the exposure"):
            source.read(2.0)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"config": Path("/none.cfg")}, "/none.cfg"),
        ({"camera": "Nikon"}, "holds no device 'Nikon', it holds DHub, Camera"),
        ({"presets": {"Objective": "1000X"}}, "preset Objective '1000X' is refused"),
        ({"properties": {"Camera": {"Colour": "1"}}}, "Colour = '1' is refused"),
        ({"properties": {"Lamp": {"On": "1"}}}, "Lamp.On = '1' is refused"),
        ({"adapters": Path("/nowhere")}, "its adapters: .*, in /nowhere"),
    ],
)
def test_what_is_written_wrongly_is_named(
    changes: dict[str, object], says: str
) -> None:
    with pytest.raises(SourceLost, match=says):
        MicroManagerSource(demo(**changes))


def test_without_the_package_the_command_that_installs_it_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = demo()
    monkeypatch.setitem(sys.modules, "pymmcore_plus", None)

    with pytest.raises(ConfigurationInvalid, match=r"pip install '\.\[microm"):
        MicroManagerSource(settings)


_LOGS = """
import logging
logging.basicConfig(level=logging.INFO)
from edge.sources.micromanager.core import new_core
new_core()
print(logging.root.level, logging.getLogger("pymmcore-plus").handlers)
"""


def test_our_log_stays_as_it_was_and_nothing_is_written_at_home(tmp_path: Path) -> None:
    demo()
    place = {**os.environ, "HOME": str(tmp_path), "XDG_DATA_HOME": ""}
    text = subprocess.run(
        [sys.executable, "-c", _LOGS], env=place, capture_output=True, check=True
    )

    assert text.stdout.decode().split() == [str(logging.INFO), "[]"]
    assert list(tmp_path.iterdir()) == []


class OtherAdapter:
    """A core whose camera names its properties otherwise, as vendors do."""

    def __init__(self) -> None:
        self.properties = {
            "Exposure Auto": "Continuous",
            "GainAuto": "Off",
            "White Balance Auto": "Always",
            "Gamma": "1.2",
            "Gain": "high",
            "Serial Number": "SN42",
        }
        self.allowed = {
            "Exposure Auto": ("Off", "Once", "Continuous"),
            "GainAuto": ("Off", "Continuous"),
            "White Balance Auto": ("Always",),
        }

    def getDevicePropertyNames(self, label: str) -> tuple[str, ...]:
        return tuple(self.properties)

    def getProperty(self, label: str, name: str) -> str:
        return self.properties[name]

    def setProperty(self, label: str, name: str, value: str) -> None:
        self.properties[name] = value

    def getAllowedPropertyValues(self, label: str, name: str) -> tuple[str, ...]:
        return self.allowed[name]

    def isPropertyReadOnly(self, label: str, name: str) -> bool:
        return False

    def hasProperty(self, label: str, name: str) -> bool:
        return name in self.properties

    def hasPropertyLimits(self, label: str, name: str) -> bool:
        return False

    def getExposure(self, label: str) -> float:
        return 7.0


def test_the_usual_names_of_what_is_automatic_are_known(
    caplog: pytest.LogCaptureFixture,
) -> None:
    core = OtherAdapter()
    driver = MicroManagerControls(core, "Camera")

    controls = lock(driver, AS_FOUND, "Camera")

    assert core.properties["Exposure Auto"] == "Off"
    assert controls.automatic == ("white_balance",)
    assert "white_balance cannot be turned off: property" in caplog.text
    assert (controls.exposure_ms, controls.gain, controls.gamma) == (7.0, None, 1.2)
    assert serial_of(core, "Camera") == "SN42"
