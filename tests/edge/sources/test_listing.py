"""What `hemascope cameras` says; each kind as the tests of its source have it."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge.cli.cameras import cameras_command
from edge.sources import v4l2
from edge.sources.discovery import FoundCamera
from edge.sources.v4l2_discovery import v4l2_cameras
from tests.edge.sources.demo import demo_settings
from tests.edge.sources.gige import needs_aravis
from tests.edge.sources.kernel import Kernel


def test_a_v4l2_camera_is_listed_by_its_id_with_what_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, by_id = Kernel(), tmp_path / "by-id"
    monkeypatch.setattr(fcntl, "ioctl", kernel.ioctl)
    by_id.mkdir()
    (tmp_path / "video0").symlink_to("/dev/null")
    (by_id / "usb-Maker_A17_SN1-video-index0").symlink_to("/dev/null")

    (found,) = v4l2_cameras(tmp_path, by_id)

    assert isinstance(found, FoundCamera)
    assert found.address == f'device = "{by_id}/usb-Maker_A17_SN1-video-index0"'
    assert found.about == "A17 (uvcvideo, usb-1)"
    assert "exposure_ms 15.7 ms (0.3 to 204.7), gain 64 (0 to 255)" in found.controls
    assert found.controls.endswith("automatic: exposure, white_balance")

    (unnamed,) = v4l2_cameras(tmp_path, tmp_path)
    assert isinstance(unnamed, FoundCamera)
    kernel.is_capture = False  # the second node of a UVC camera, which gives metadata
    assert list(v4l2_cameras(tmp_path, by_id)) == []


def test_a_camera_that_may_not_be_opened_is_said(tmp_path: Path) -> None:
    (tmp_path / "video0").mkdir()

    (text,) = v4l2_cameras(tmp_path, tmp_path)

    assert isinstance(text, str)
    assert "join the group video" in text


def test_the_command_lists_the_cameras_of_a_configuration() -> None:
    needs_aravis()
    demo = demo_settings("8bit")
    arguments = ["--micromanager", str(demo.config), "--adapters", str(demo.adapters)]

    text = CliRunner().invoke(cameras_command, arguments, catch_exceptions=False)

    assert text.exit_code == 0
    assert 'kind = "micromanager", camera = "Camera"' in text.output
    assert "DemoCamera/DCam V1.0" in text.output
    assert "exposure_ms 10 ms (0 to 10000), gain 0 (-5 to 8)" in text.output
    assert "PixelType" in text.output
    assert v4l2.BY_ID.exists() or "V4L2: no camera answers" in text.output
