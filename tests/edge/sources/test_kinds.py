"""A kind of camera has one entry; everything that deals with kinds reads it there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from click.testing import CliRunner

from calibration.frames import read_frames
from edge.cli.cameras import cameras_command
from edge.doctor.checks.camera import check_camera
from edge.doctor.device import ExaminedDevice
from edge.frames import Exposure, Gap, RawFrame, Shot, SourceEnded, SourceLost
from edge.settings.run import LedgerSettings
from edge.settings.sources import FolderSettings, MicroManagerSettings, SourceSettings
from edge.sources.discovery import FoundCamera
from edge.sources.kinds import KINDS, Connect, SourceKind, connected_cameras, kind_of
from edge.sources.opening import open_source

PAGE = Path(__file__).parents[3] / "docs" / "cameras.md"
FRAMES = 3


class NoiseSettings(FolderSettings, frozen=True, tag_field="kind", tag="noise"):
    """A kind that nothing but its entry knows."""


class NoiseCamera:
    """A few bright frames, then the end."""

    is_live = False

    def __init__(self, settings: NoiseSettings) -> None:
        self._number = 0
        if settings.path.name == "away":
            raise SourceLost("the noise camera is away; switch it on")

    def read(self, timeout_s: float) -> Exposure | Gap | None:
        if self._number == FRAMES:
            raise SourceEnded("no more noise")
        when = datetime(2026, 1, 1, tzinfo=timezone.utc)
        shot = Shot(self._number, self._number, when, "noise:1", pixel_size_um=0.07)
        pixels = np.random.default_rng(self._number).integers(
            150, 220, (64, 64, 3), np.uint8
        )
        self._number += 1
        return Exposure(shot, lambda: RawFrame(shot, pixels))

    def close(self) -> None:
        pass


def noise_cameras() -> Iterator[FoundCamera | str]:
    yield FoundCamera("noise", 'path = "here"', "a noise camera")


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> NoiseSettings:
    def connector(settings: NoiseSettings) -> Connect:
        return lambda: NoiseCamera(settings)

    kind = SourceKind(
        settings=NoiseSettings,
        title="Noise",
        connector=connector,
        find_connected=noise_cameras,
        is_simulated=True,
    )
    monkeypatch.setitem(KINDS, kind.name, kind)
    return NoiseSettings(tmp_path)


def test_every_kind_of_the_settings_has_its_entry_and_its_word_in_the_docs() -> None:
    assert {kind.settings for kind in KINDS.values()} == {*get_args(SourceSettings)}
    page = PAGE.read_text(encoding="utf-8")
    for name, kind in KINDS.items():
        assert f"`{name}`" in page
        assert kind.name == name


def test_a_new_kind_is_opened_by_its_entry_alone(noise: NoiseSettings) -> None:
    with closing(open_source(noise)) as source:
        items = [source.read(0.1) for _ in range(FRAMES)]
        with pytest.raises(SourceEnded):
            source.read(0.1)

    assert kind_of(noise).title == "Noise"
    assert all(isinstance(item, Exposure) for item in items)


def test_a_new_kind_that_is_lost_is_refused_at_the_start(noise: NoiseSettings) -> None:
    away = NoiseSettings(noise.path / "away")

    with pytest.raises(SourceLost, match="switch it on"):
        open_source(away)


def test_a_new_kind_is_listed_by_its_entry_alone(
    noise: NoiseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in {*KINDS} - {"noise"}:  # asking the network takes a second
        monkeypatch.delitem(KINDS, name)

    shown = CliRunner().invoke(cameras_command, [], catch_exceptions=False)

    assert shown.output.splitlines() == [
        "Noise:",
        '  kind = "noise", path = "here"',
        "    a noise camera",
    ]


def test_a_new_kind_is_examined_by_its_entry_alone(
    noise: NoiseSettings, tmp_path: Path
) -> None:
    parts = {"device": "scope-01", "source": noise, "ledger": LedgerSettings(tmp_path)}

    made_up, seen = check_camera(ExaminedDevice(None, parts=parts))

    assert made_up.status == "warning"
    assert "simulated" in made_up.found
    assert seen.status == "ok"
    assert "noise:1: 64x64 px" in seen.found


def test_a_new_kind_is_read_by_the_calibration(noise: NoiseSettings) -> None:
    assert len(read_frames(noise, None, "frames")) == FRAMES


def test_what_needs_settings_is_listed_with_settings_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in {*KINDS} - {"micromanager"}:
        monkeypatch.delitem(KINDS, name)

    assert connected_cameras() == []
    given = [MicroManagerSettings(config=tmp_path)]
    assert [title for title, _ in connected_cameras(given)] == ["Micro-Manager"]


def test_no_driver_is_imported_before_its_kind_is_used() -> None:
    code = (
        "import sys; import edge.sources.kinds, edge.sources.opening; "
        "print(sorted({'gi', 'cv2', 'pymmcore_plus', 'pymmcore'} & set(sys.modules)))"
    )

    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert run.stdout == "[]\n"
