"""GenICam for real: Aravis, its camera in memory and its GigE camera on loopback."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge.errors import ConfigurationInvalid, FrameRejected
from edge.frames import Exposure, Gap, Source, SourceLost
from edge.schema.results import Controls
from edge.settings.sources import ControlSettings, GenICamSettings
from edge.sources.camera_controls import ControlRefused
from edge.sources.discovery import FoundCamera
from edge.sources.frame_numbers import number_by_id
from edge.sources.genicam.discovery import genicam_cameras
from edge.sources.genicam.pixel_formats import PIXEL_FORMATS, to_rgb
from edge.sources.genicam.source import GenICamSource
from edge.sources.opening import open_source
from tests.edge.sources.gige import (
    ADDRESS,
    FAKE,
    gige_camera,
    needs_aravis,
    write_features,
)

GIGE = msgspec.structs.replace(FAKE, camera=ADDRESS, stall_s=0.5)


def with_settings(base: GenICamSettings, **changes: object) -> GenICamSettings:
    return msgspec.structs.replace(base, **changes)


def first_exposure(source: Source) -> Exposure:
    item = source.read(5.0)
    assert isinstance(item, Exposure)
    return item


@pytest.mark.parametrize(
    ("pixel_format", "dtype"),
    [
        ("RGB8", np.uint8),
        ("BayerGB8", np.uint8),
        ("Mono8", np.uint8),
        ("Mono16", np.uint16),
    ],
)
def test_every_kind_of_pixel_becomes_rgb(pixel_format: str, dtype: type) -> None:
    needs_aravis()
    settings = with_settings(FAKE, pixel_format=pixel_format)
    with closing(GenICamSource(settings)) as source:
        shot = first_exposure(source).shot
        pixels = first_exposure(source).develop().pixels

    assert pixels.shape == (240, 320, 3)
    assert pixels.dtype == dtype
    assert shot.camera == "Aravis-Fake-1"
    assert shot.source_id == "genicam:Aravis-Fake-1"


def code_of(name: str) -> int:
    return next(code for code, known in PIXEL_FORMATS.items() if known.name == name)


def test_codes_are_those_that_aravis_has() -> None:
    needs_aravis()
    from gi.repository import Aravis

    for name in ("Mono8", "Mono10", "Mono12", "Mono14", "Mono16"):
        assert code_of(name) == getattr(Aravis, f"PIXEL_FORMAT_MONO_{name[4:]}")
    for order in ("GR", "RG", "GB", "BG"):
        for bits in (8, 10, 12, 16):
            theirs = getattr(Aravis, f"PIXEL_FORMAT_BAYER_{order}_{bits}")
            assert code_of(f"Bayer{order}{bits}") == theirs
    assert code_of("RGB8") == Aravis.PIXEL_FORMAT_RGB_8_PACKED
    assert code_of("BGR8") == Aravis.PIXEL_FORMAT_BGR_8_PACKED


@pytest.mark.parametrize("order", ["RGGB", "GRBG", "GBRG", "BGGR"])
@pytest.mark.parametrize("bits", [8, 12])
def test_a_mosaic_of_one_colour_is_that_colour(order: str, bits: int) -> None:
    scale = 2**bits - 1
    colour = {"R": scale, "G": scale // 2, "B": 0}
    cell = [[colour[order[0]], colour[order[1]]], [colour[order[2]], colour[order[3]]]]
    mosaic = np.tile(np.array(cell, "<u1" if bits == 8 else "<u2"), (8, 8))

    rgb = to_rgb(mosaic.tobytes(), 16, 16, code_of(f"Bayer{order[:2]}{bits}"))

    full = 255 if bits == 8 else 65535
    middle = rgb[4:-4, 4:-4].reshape(-1, 3)
    assert (middle[:, 0] == full).all()
    assert (np.abs(middle[:, 1].astype(int) - full // 2) <= full // 200).all()
    assert (middle[:, 2] == 0).all()


def test_red_stays_red_and_what_follows_the_rows_is_ignored() -> None:
    red = bytes([200, 10, 1])

    assert to_rgb(red * 6 + b"chunk", 3, 2, code_of("RGB8"))[1, 2].tolist() == [
        200,
        10,
        1,
    ]
    assert to_rgb(red * 6, 3, 2, code_of("BGR8"))[1, 2].tolist() == [1, 10, 200]


@pytest.mark.parametrize(
    ("data", "code", "says"),
    [
        (b"\0" * 17, 0x02180014, "buffer of 17 bytes for 3x2 px of RGB8"),
        (b"\0" * 18, 0x010C0047, "0x010c0047 cannot be read here"),  # Mono12p
    ],
)
def test_what_cannot_be_a_frame_is_rejected(data: bytes, code: int, says: str) -> None:
    with pytest.raises(FrameRejected, match=says):
        to_rgb(data, 3, 2, code)


@pytest.mark.parametrize(
    ("ids", "numbers"),
    [
        ([65534, 65535, 1, 2], [0, 1, 2, 3]),  # GigE Vision leaves 0 out
        ([65535, 0, 1], [0, 1, 2]),  # some cameras do not
        ([65533, 3, 4], [0, 5, 6]),  # frames missing where the ids begin again
        ([70000, 70001, 70005], [0, 1, 5]),  # 64 bits
        ([5, 5, 2, 3], [0, 1, 2, 3]),  # the camera began again
    ],
)
def test_ids_become_numbers_that_rise_and_jump_where_frames_are_missing(
    ids: list[int], numbers: list[int]
) -> None:
    last, seen = None, []
    for frame_id in ids:
        last = number_by_id(last, frame_id)
        seen.append(last[0])

    assert seen == numbers


def test_a_gige_camera_is_locked_and_read_back(tmp_path: Path) -> None:
    needs_aravis()
    features = write_features(tmp_path / "features.xml")
    with gige_camera("GV07", features):
        with closing(GenICamSource(GIGE)) as source:
            found = first_exposure(source).shot
        wanted = ControlSettings(
            exposure_ms=3, gain=2, balance={"red": 1.2, "blue": 2.0}, gamma=1.25
        )
        with closing(GenICamSource(with_settings(GIGE, controls=wanted))) as source:
            made = first_exposure(source).shot.controls
        free = ControlSettings(automatic=("exposure", "white_balance"))
        with closing(GenICamSource(with_settings(GIGE, controls=free))) as source:
            left = first_exposure(source).shot.controls
        for refused, says in [
            (ControlSettings(gamma=9), "it takes 0.25 to 4"),
            (ControlSettings(gain=11), "it takes 0 to 10"),
            (ControlSettings(balance={"green": 1}), "has no balance of green"),
            (ControlSettings(white_balance_k=5000), "has no white balance"),
        ]:
            with pytest.raises(ControlRefused, match=says):
                GenICamSource(with_settings(GIGE, controls=refused))

    assert found.camera == "Aravis-Fake-GV07"
    assert found.controls == Controls(
        exposure_ms=10.0, gain=0.0, balance={"red": 1.5, "blue": 2.5}, gamma=1.0
    )  # gamma 0.7 is not in force
    assert made == Controls(
        exposure_ms=3.0, gain=2.0, balance={"red": 1.2, "blue": 2.0}, gamma=1.25
    )
    assert left is not None
    assert left.automatic == ("exposure", "white_balance")


def test_a_frame_with_missing_packets_is_rejected_and_whole_ones_come() -> None:
    needs_aravis()
    text: list[str] = []
    numbers: list[int] = []
    with gige_camera("GV08", lost=0.004), closing(GenICamSource(GIGE)) as source:
        while len(text) < 60 or (len(text) < 500 and "whole" not in text):
            exposure = first_exposure(source)
            numbers.append(exposure.shot.sequence)
            try:
                exposure.develop()
                text.append("whole")
            except FrameRejected as error:
                text.append(str(error))

    assert "whole" in text
    assert any("incomplete: missing packets" in reason for reason in text)
    assert numbers == sorted(set(numbers))
    assert numbers[-1] < 1000  # also where the packet with the id is missing


def test_a_camera_whose_power_fails_is_a_gap_and_comes_back() -> None:
    needs_aravis()
    with gige_camera("GV09") as camera, closing(open_source(GIGE)) as source:
        before = first_exposure(source).shot.sequence
        camera.kill()
        camera.wait()
        lost = _next(source, Gap)
        with gige_camera("GV10"):
            back, another = _next(source, Gap), _next(source, Gap)
            after = _next(source, Exposure)
            source.close()  # while there is a camera to say good-bye to

    assert isinstance(lost, Gap)
    assert isinstance(back, Gap)
    assert isinstance(another, Gap)
    assert isinstance(after, Exposure)
    assert "no frame for 0.5 s" in lost.reason
    assert "camera back after" in back.reason
    assert another.reason == (
        "another camera: Aravis-Fake-GV10, it was Aravis-Fake-GV09; calibrate it"
    )
    assert after.shot.sequence > before


def _next(source: Source, kind: type) -> Exposure | Gap:
    for _ in range(100):
        item = source.read(0.2)
        if isinstance(item, kind):
            assert isinstance(item, (Exposure, Gap))
            return item
    raise AssertionError(f"no {kind.__name__}")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"pixel_format": "Mono12p"}, "set pixel_format to one of .*RGB8"),
        ({"width_px": 4096}, "4096x240 px cannot be had, .* at most 2048x"),
        ({"camera": "Fake_9"}, "Fake_9: .*not found"),
    ],
)
def test_what_the_camera_has_not_is_named(
    changes: dict[str, object], says: str
) -> None:
    needs_aravis()
    with pytest.raises(SourceLost, match=says):
        GenICamSource(with_settings(FAKE, **changes))


def test_without_the_bindings_what_installs_them_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "gi", None)

    with pytest.raises(ConfigurationInvalid, match=r"gir1.2-aravis-0\.8"):
        GenICamSource(FAKE)


def test_a_network_camera_is_listed_with_serial_and_address() -> None:
    needs_aravis()
    with gige_camera("GV11"):
        found = [c for c in genicam_cameras() if "GigE" in str(c)]

    assert found == [
        FoundCamera(
            "genicam",
            'camera = "Aravis-Fake-GV11"',
            "GigEVision, serial GV11, 127.0.0.1",
        )
    ]
