from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.monitoring.systemd import Notifier, notifier_from_environment
from tests.systemd.ear import Ear


@pytest.fixture(params=["path", "abstract"])
def ear(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ear]:
    name = str(tmp_path / "notify")
    if request.param == "abstract":
        name = f"@hemascope-test-{uuid.uuid4()}"
    opened = Ear(name)
    yield opened
    opened.close()


def test_readiness_is_said_once(ear: Ear) -> None:
    notifier = Notifier(ear.address)

    notifier.ready()
    notifier.ready()
    notifier.stopping()

    assert ear.heard() == ["READY=1", "STOPPING=1"]


def test_progress_is_passed_on_four_times_per_interval_and_no_more(ear: Ear) -> None:
    now_s = [100.0]
    notifier = Notifier(ear.address, 8.0, monotonic=lambda: now_s[0])
    notifier.progress("too early")
    notifier.ready()
    assert ear.heard() == ["READY=1"]

    for step in range(160):
        now_s[0] = 100.0 + step / 10  # 16 s, two intervals
        notifier.progress(f"row {step}")

    heard = ear.heard()
    assert len(heard) == 8
    assert heard[0] == "WATCHDOG=1\nSTATUS=row 0"
    assert heard[-1] == "WATCHDOG=1\nSTATUS=row 140"


def test_without_progress_the_watchdog_starves(ear: Ear) -> None:
    now_s = [0.0]
    notifier = Notifier(ear.address, 8.0, monotonic=lambda: now_s[0])
    notifier.ready()
    notifier.progress()
    assert ear.heard() == ["READY=1", "WATCHDOG=1\nSTATUS="]

    now_s[0] = 1000.0
    notifier.status("still here")

    assert ear.heard() == ["STATUS=still here"]


def test_a_status_cannot_smuggle_another_message_in(ear: Ear) -> None:
    Notifier(ear.address).status("camera lost\nWATCHDOG=1\r\nREADY=1")

    assert ear.heard() == ["STATUS=camera lost WATCHDOG=1 READY=1"]


def test_the_environment_names_the_socket_and_no_child_inherits_it(ear: Ear) -> None:
    environment = {
        "NOTIFY_SOCKET": ear.address,
        "WATCHDOG_USEC": "60000000",
        "WATCHDOG_PID": str(os.getpid()),
        "HOME": "/",
    }

    notifier = notifier_from_environment(environment)
    notifier.ready()

    assert notifier.watchdog_s == 60.0
    assert environment == {"HOME": "/"}
    assert ear.heard() == ["READY=1"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "-5"},
        {"WATCHDOG_USEC": "1e6"},
        {"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"},
        {"NOTIFY_SOCKET": "vsock:2:1234"},
        {},
    ],
)
def test_a_watchdog_that_is_not_ours_is_left_out(wrong: dict[str, str]) -> None:
    notifier = notifier_from_environment(wrong)

    notifier.ready()
    notifier.progress("row 1")

    assert notifier.watchdog_s is None


def test_a_service_manager_that_is_gone_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier(str(tmp_path / "nobody"), 1.0)

    with caplog.at_level(logging.WARNING):
        notifier.ready()
        notifier.progress("row 1")

    assert "was not reached" in caplog.text
