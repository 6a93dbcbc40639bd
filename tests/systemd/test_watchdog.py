"""Real processes under a watchdog: fed while they work, starved when a stage hangs."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge.demo.broker import free_port
from edge.frames import Exposure, Gap
from edge.ledger.preview_file import PreviewWriter
from edge.ledger.writer import Ledger
from edge.monitoring.systemd import Notifier
from edge.run.service import RunCollaborators, Service
from edge.schema.codec import write_toml
from edge.settings.delivery import BrokerSettings
from edge.settings.files import DeviceFile
from edge.settings.run import LedgerSettings, RunSettings
from edge.settings.sources import SimulatedSettings
from tests.conftest import frame_result
from tests.systemd.ear import Ear

INTERVAL_S = 1.6  # fed every 0.4 s
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[Ear]:
    opened = Ear(str(tmp_path / "notify"))
    yield opened
    opened.close()


@pytest.fixture
def start(tmp_path: Path, ear: Ear) -> Iterator[Start]:
    """Starts a command as systemd would, with these settings."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(command: str, **settings: object) -> subprocess.Popen[bytes]:
        write_toml(tmp_path / "device.toml", _settings(tmp_path, **settings))
        environment = os.environ | {
            "NOTIFY_SOCKET": ear.address,
            "WATCHDOG_USEC": str(int(INTERVAL_S * 1e6)),
        }
        words = [sys.executable, "-m", "edge", command]
        words += ["--config", str(tmp_path / "device.toml")]
        with (tmp_path / "log").open("wb") as log:
            started.append(subprocess.Popen(words, env=environment, stderr=log))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()


def _settings(folder: Path, **changes: object) -> DeviceFile:
    fields: dict[str, object] = {
        "device": "scope-01",
        "source": SimulatedSettings(width_px=320, height_px=240, rate_hz=10),
        "ledger": LedgerSettings(folder / "ledger"),
        "run": RunSettings(workers=1, most_frame_s=1.0),
        "broker": BrokerSettings(port=free_port()),
    }
    return DeviceFile(**(fields | changes))  # type: ignore[arg-type]


def test_run_is_ready_then_fed_and_starves_while_the_ledger_hangs(
    start: Start, ear: Ear, tmp_path: Path
) -> None:
    process = start("run")

    heard = ear.wait_for(lambda message: "WATCHDOG=1" in message)
    before = heard[: heard.index("READY=1")]
    assert before, "says nothing while it starts"
    assert all(message.startswith("STATUS=") for message in before)
    assert "row " in heard[-1]
    assert ear.pings_within(INTERVAL_S) >= 1

    lock = sqlite3.connect(tmp_path / "ledger" / "ledger.sqlite")
    lock.execute("BEGIN IMMEDIATE")  # SQLite in the process now waits for this one
    ear.pings_within(0.4)  # what was on its way
    assert ear.pings_within(INTERVAL_S) == 0
    assert process.poll() is None
    lock.rollback()
    lock.close()
    assert ear.pings_within(INTERVAL_S) >= 1

    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 0
    assert ear.heard()[-1] == "STOPPING=1"


def test_run_is_fed_while_its_camera_is_away(start: Start, ear: Ear) -> None:
    away = SimulatedSettings(
        width_px=320, height_px=240, rate_hz=10, unplug_every_s=0.5, unplug_for_s=999
    )
    start("run", source=away)

    ear.wait_for(lambda message: "camera lost" in message)

    assert ear.pings_within(INTERVAL_S) >= 1


def test_a_watchdog_shorter_than_a_frame_may_take_is_a_wrong_setting(
    start: Start, tmp_path: Path
) -> None:
    process = start("run", run=RunSettings(most_frame_s=30))

    assert process.wait(timeout=30) == 78
    assert "expected at least 45" in (tmp_path / "log").read_text()


def test_publish_is_ready_and_fed_without_a_broker(
    start: Start, ear: Ear, tmp_path: Path
) -> None:
    ledger = Ledger(tmp_path / "ledger", "scope-01")
    ledger.append(frame_result())
    ledger.close()
    start("publish")

    heard = ear.wait_for(lambda message: "WATCHDOG=1" in message)
    assert heard[0] == "READY=1"
    assert "is it running" in heard[-1]
    assert ear.pings_within(INTERVAL_S) >= 1


class Camera:
    """A live camera that has nothing to deliver, and hangs when told to."""

    is_live = True

    def __init__(self) -> None:
        self.may_answer = threading.Event()
        self.may_answer.set()

    def read(self, timeout_s: float) -> Exposure | Gap | None:
        time.sleep(0.05)
        self.may_answer.wait()
        return None

    def close(self) -> None:
        pass


class NoFrames:
    def close(self) -> None:
        pass


def test_a_camera_that_hangs_starves_the_watchdog_and_a_paused_one_does_not(
    ear: Ear, tmp_path: Path
) -> None:
    camera, stop = Camera(), threading.Event()
    ledger = Ledger(tmp_path / "ledger", "scope-01")
    service = Service(
        camera,
        NoFrames,  # type: ignore[arg-type]
        ledger,
        PreviewWriter(tmp_path / "ledger", 0),
        RunSettings(workers=1),
        keep_rows=10,
        collaborators=RunCollaborators(notifier=Notifier(ear.address, 0.4)),
    )

    def script() -> None:
        ear.wait_for(lambda message: "WATCHDOG=1" in message)
        pings.append(ear.pings_within(0.7))
        camera.may_answer.clear()
        time.sleep(0.3)
        pings.append(ear.pings_within(0.7))
        camera.may_answer.set()
        stop.set()

    pings: list[int] = []
    thread = threading.Thread(target=script)
    thread.start()
    service.run(stop)
    thread.join()
    ledger.close()

    assert pings[0] >= 1
    assert pings[1] == 0
