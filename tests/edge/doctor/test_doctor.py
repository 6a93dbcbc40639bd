"""Doctor names what is broken, and the one thing to do about it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path

import jsonschema
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement

from edge import clock
from edge.cli.doctor import doctor_command
from edge.contract.json_schemas import schema_text
from edge.doctor import runner
from edge.doctor.checks import delivery
from edge.doctor.checks.camera import judge_frames, nodes_of
from edge.doctor.checks.machine import (
    file_system_of,
    judge_clock,
    judge_mode,
    judge_supply,
    judge_temperature,
)
from edge.doctor.checks.permissions import may_write
from edge.doctor.checks.versions import judge_requirement
from edge.doctor.findings import Finding, Report, fault, ok, worst_status
from edge.doctor.registry import CHECKS, Check
from edge.doctor.report import table_of
from edge.doctor.runner import examine_device
from edge.frames import RawFrame, Shot
from edge.ledger.cursor import WRITER_LOCK, lock_holder, read_cursor
from edge.ledger.writer import Ledger
from edge.monitoring.metrics import Meter, write_metrics
from edge.schema.results import Controls
from edge.settings.run import AlarmSettings
from edge.settings.sources import GStreamerSettings
from tests.broken import (
    BROKEN,
    PAGE,
    SHOWN,
    Broken,
    Device,
    essence,
    shown,
    start_shipped,
    without_addresses,
)
from tests.conftest import frame_result
from tests.systemd.broker import ShippedBroker


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShippedBroker]:
    started = start_shipped(tmp_path_factory.mktemp("broker"))
    yield started
    started.close()


@pytest.fixture
def device(tmp_path: Path, shipped: ShippedBroker) -> Iterator[Device]:
    made = Device(tmp_path / "device", shipped)
    yield made
    made.close()


@pytest.mark.parametrize("broken", BROKEN, ids=lambda one: one.how.__name__)
def test_each_broken_part_is_found_with_its_remedy(
    device: Device, broken: Broken
) -> None:
    broken.how(device)

    found = device.check(broken.name)

    fitting = [
        f
        for f in found
        if f.status == broken.status
        and re.search(broken.found, f.found)
        and re.search(broken.remedy, f.remedy or "")
    ]
    assert fitting, found
    if broken.how in SHOWN:
        text = essence(shown(without_addresses(found, device)))
        assert text in essence(PAGE.read_text(encoding="utf-8")), (
            "run `python -m tests.broken`"
        )


def test_a_device_that_is_well_has_no_problem(device: Device) -> None:
    of_the_machine = {"clock", "temperature", "disk", "power"}

    found = [f for name in CHECKS for f in device.check(name)]

    wrong = [f for f in found if f.status != "ok" and f.name not in of_the_machine]
    assert wrong == []
    assert {f.name for f in found} == {*CHECKS, "archive"}


def test_one_wrong_line_does_not_hide_other_findings(device: Device) -> None:
    device.settings["run"] = {"worker": 2}
    device.settings["device"] = "scope-02"

    assert device.check("settings")[0].status == "fault"
    (other, *_) = device.check("ledger")
    assert "not of 'scope-02'" in other.found


def test_without_settings_the_machine_is_still_checked(device: Device) -> None:
    device.text = "[[["

    for name in ("camera", "ledger", "broker", "bundle"):
        (found,) = device.check(name)
        assert found.status == "unknown"
        assert found.remedy == "see to the finding on settings first"
    for name in ("power", "versions", "temperature"):
        assert "settings" not in device.check(name)[0].found


# -- beside a run that is at work ------------------------------------------------------


def test_a_run_at_work_keeps_its_camera_and_its_ledger(device: Device) -> None:
    """Opening the source would find a fault."""
    device.settings["source"] = {"kind": "opencv", "device": "/dev/video9"}
    folder = device.folder / "ledger"
    ledger, meter = Ledger(folder, "scope-01"), Meter()
    (before,) = device.check("camera")
    for _ in range(20):
        text = frame_result(utc=clock.utc_now(), monotonic_ns=time.monotonic_ns())
        ledger.append(text)
        meter.count(text)
    write_metrics(folder, meter.read(folder, queue=0, is_paused=False))

    (camera,) = device.check("camera")
    ledger_findings = device.check("ledger")
    ledger.append(frame_result())  # nobody holds it up
    write_metrics(folder, meter.read(folder, queue=0, is_paused=True))
    (paused,) = device.check("camera")
    ledger.close()

    assert before.status == "warning"
    assert "reports no figures" in before.found
    assert camera.status == "ok"
    assert f"run (process {os.getpid()}) uses it" in camera.found
    assert "2.0 results per second, 0 of 20 rejected" in camera.found
    assert any(f"process {os.getpid()} writes" in f.found for f in ledger_findings)
    assert "command start --device scope-01" in str(paused.remedy)
    (after,) = device.check("camera")
    assert "/dev/video9 does not exist" in after.found


def test_a_lock_is_seen_only_while_it_is_held(tmp_path: Path) -> None:
    path = tmp_path / WRITER_LOCK
    assert lock_holder(path) is None
    ledger = Ledger(tmp_path, "scope-01")
    assert lock_holder(path) == os.getpid()
    ledger.close()
    assert path.read_text() == str(os.getpid())  # what it says is not enough
    assert lock_holder(path) is None


def test_a_publisher_at_work_is_not_disconnected(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.doctor.checks.delivery._WATCH_S", 1.5)
    folder = device.folder / "ledger"
    command = [sys.executable, "-m", "edge", "publish", "--config", device.config()]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as publisher:
        deadline_s = time.monotonic() + 20
        while lock_holder(folder / "publish.lock") is None:
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        time.sleep(1.2)
        before = read_cursor(folder)

        found = device.check("broker")

        after = read_cursor(folder)
        publisher.send_signal(signal.SIGTERM)
    assert before is not None
    assert after is not None
    assert (before.connections, after.connections) == (2, 2)
    assert [f.status for f in found] == ["ok"] * 4
    assert f"publish (process {publisher.pid}) is connected" in found[2].found


def test_parts_that_a_user_may_not_see_are_unknown_and_not_opened(
    device: Device,
) -> None:
    """The camera is not opened where nobody can tell whether run has it."""
    device.settings["source"] = {"kind": "opencv", "device": "/dev/video9"}
    config = device.config()
    closed = device.folder / "ledger", device.folder / "password"
    for path in closed:
        path.chmod(0)
    without = "--bounding-set=-dac_override,-dac_read_search"  # root sees everything
    setpriv = ["setpriv", without] if os.geteuid() == 0 else []
    found = []
    for name in ("camera", "alarms", "broker", "disk"):
        words = [*setpriv, sys.executable, "-m", "edge.doctor", name, str(config)]
        text = subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout
        found += msgspec.json.decode(text, type=list[Finding])
    for path in closed:
        path.chmod(0o700)

    text = {f.name: (f.status, f.remedy) for f in found}
    for name in ("camera", "alarms", "broker"):
        assert text[name] == ("unknown", "run doctor with sudo")
    assert not [f for f in found if f.status == "fault"]


# -- a check that hangs, dies or breaks ------------------------------------------------


def test_a_check_that_hangs_is_killed(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    cursor = device.folder / "ledger" / "cursor.json"
    cursor.unlink()
    os.mkfifo(cursor)  # nobody ever writes
    monkeypatch.setitem(CHECKS, "ledger", Check("ledger", "ledger", 1.0))
    start_s = time.monotonic()

    report = examine_device(device.config(), ["ledger"])

    assert time.monotonic() - start_s < 4
    assert report.status == "fault"
    assert "no answer within 1 s" in report.findings[0].found


def test_an_interrupted_doctor_ends_at_once_and_leaves_no_process(
    device: Device,
) -> None:
    (device.folder / "bundle").mkdir()
    os.mkfifo(device.folder / "bundle" / "bundle.json")
    device.settings["model"] = {"bundle": "bundle"}
    code = (  # a shell that runs tests in the background has it ignored
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from edge.cli.doctor import doctor_command as d; d()"
    )
    words = [sys.executable, "-c", code, "--config", device.config()]
    config = str(device.config())
    with subprocess.Popen(
        [*words, "--only", "bundle"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as doctor:
        deadline_s = time.monotonic() + 20
        while not _checks_of(config):
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        time.sleep(0.3)
        doctor.send_signal(signal.SIGINT)
        doctor.communicate(timeout=10)

    assert doctor.returncode == 1
    assert _checks_of(config) == []


def _checks_of(config: str) -> list[str]:
    """Return the processes of checks of this device."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = path.read_bytes().decode().split("\0")
            if "edge.doctor" in words and config in words:
                found.append(path.parent.name)
    return found


def test_a_check_that_dies_is_a_finding_and_the_others_go_on(
    device: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A library that ends the process, as some do where their driver is missing."""
    (tmp_path / "onnxruntime.py").write_text("import os\nos.abort()\n")
    path = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{path}")

    report = examine_device(device.config(), ["settings", "bundle"])

    assert [f.status for f in report.findings] == ["ok", "fault"]
    assert "ended with signal SIGABRT" in report.findings[1].found


def test_a_check_that_breaks_is_a_finding(device: Device) -> None:
    read = runner.read_device(device.config())

    (found,) = runner.run_check(Check("nothing", "machine", 1), read)

    assert found.status == "fault"
    assert "the check itself broke" in found.found


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python has no safe path yet")
def test_files_in_the_current_folder_are_not_imported(
    device: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "msgspec.py").write_text("raise ImportError('of the laboratory')")
    monkeypatch.chdir(tmp_path)

    assert examine_device(device.config(), ["settings"]).status == "ok"


def test_a_library_that_prints_does_not_spoil_the_findings(
    device: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, os\natexit.register(os.write, 1, b'bye')\n"
    )
    path = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{path}")

    assert examine_device(device.config(), ["settings"]).status == "ok"


# -- the command -----------------------------------------------------------------------


def test_the_command_prints_a_table_or_json_and_has_an_exit_code(
    device: Device,
) -> None:
    config = str(device.config())
    runner = CliRunner()

    good = runner.invoke(doctor_command, ["--config", config, "--only", "settings"])
    device.settings["source"] = {"kind": "opencv", "device": "/dev/video9"}
    arguments = ["--config", str(device.config()), "--only", "camera", "--json"]
    bad = runner.invoke(doctor_command, arguments)

    assert good.exit_code == 0
    assert "all is well (1 ok)" in good.output
    assert "\x1b" not in good.output  # colour on a terminal alone
    assert bad.exit_code == 1
    report = json.loads(bad.output)
    jsonschema.validate(report, json.loads(schema_text("doctor-report")))
    assert msgspec.convert(report, Report).findings[0].name == "camera"


def test_a_finding_needs_a_remedy_unless_it_is_ok() -> None:
    with pytest.raises(ValueError, match="expected a remedy"):
        Finding(name="disk", status="fault", found="full")
    with pytest.raises(ValueError, match="none with ok"):
        Finding(name="disk", status="ok", found="empty", remedy="rejoice")
    assert worst_status([]) == "ok"
    assert worst_status([ok("a", "b"), fault("a", "b", "c"), ok("a", "b")]) == "fault"


def test_a_finding_cannot_control_the_terminal() -> None:
    assert "\x1b" not in shown((fault("camera", "\x1b[2Jgone", "\x1b[31m"),))
    assert table_of([]) is not None


# -- other machines than this one ------------------------------------------------------

NOW = datetime(2026, 6, 1, tzinfo=timezone.utc)


def test_a_clock_that_went_back_is_a_fault() -> None:
    def judged(now: datetime, *, is_synchronised: bool = True) -> Finding:
        before = {"the newest row of the ledger": NOW, "nothing": None}
        return judge_clock(now, is_synchronised=is_synchronised, not_before=before)

    assert judged(NOW).status == "ok"
    assert judged(NOW - timedelta(seconds=5)).status == "ok"
    assert judged(NOW, is_synchronised=False).status == "warning"
    back = judged(datetime(1970, 1, 1, tzinfo=timezone.utc))
    assert back.status == "fault"
    assert "before the newest row" in back.found


@pytest.mark.parametrize(
    ("hottest_c", "status"),
    [(None, "unknown"), (60.0, "ok"), (86.0, "warning"), (96.0, "fault")],
)
def test_heat_is_judged_by_the_limits_of_the_alarms(
    hottest_c: float | None, status: str
) -> None:
    assert judge_temperature(hottest_c, AlarmSettings()).status == status


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("NV Power Mode: MAXN\n0\n", "ok"),
        ("NV Fan Mode:quiet\nNV Power Mode: MAXN_SUPER\n2\n", "ok"),
        ("NV Power Mode: 15W\n1\n", "warning"),
        ("NVPM ERROR: Error opening /var/lib/nvpmodel/status\n", "unknown"),
        ("", "unknown"),
    ],
)
def test_the_power_mode_is_read_from_nvpmodel(text: str, status: str) -> None:
    assert judge_mode(text).status == status


def test_a_weak_supply_and_fixed_clocks_are_seen(tmp_path: Path) -> None:
    oc = tmp_path / "class/hwmon/hwmon3"
    cpu = tmp_path / "devices/system/cpu/cpu0/cpufreq"
    for folder in (oc, cpu):
        folder.mkdir(parents=True)
    for end in ("min", "max"):
        (cpu / f"scaling_{end}_freq").write_text("2201600\n")
    for name, count in (("oc1", 0), ("oc3", 0)):
        (oc / f"{name}_event_cnt").write_text(f"{count}\n")
    (well,) = judge_supply(tmp_path)
    assert well.found == "clocks fixed at their highest, at most 2.20 GHz"

    (oc / "oc3_event_cnt").write_text("27390\n")
    slowed, _ = judge_supply(tmp_path)
    assert slowed.status == "warning"
    assert "oc1 0, oc3 27390" in slowed.found


def test_the_file_system_is_the_innermost_mount(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/a / ext4 rw 0 0\nserver:/x /var/lab nfs4 rw 0 0\n"
        "tmpfs /var/lab\\040two tmpfs rw 0 0\n"
    )
    assert file_system_of(Path("/var/lab/ledger"), mounts) == "nfs4"
    assert file_system_of(Path("/var/lab two"), mounts) == "tmpfs"
    assert file_system_of(Path("/var/labor"), mounts) == "ext4"
    assert file_system_of(Path("/"), tmp_path / "none") == ""


@pytest.mark.parametrize(
    ("mode", "user", "groups", "may"),
    [
        (0o770, 1, set(), False),
        (0o770, 1, {0}, True),
        (0o707, 1, {0}, False),  # the group's right counts, not everybody's
        (0o703, 1, {9}, True),
        (0o750, 1, {0}, False),
    ],
)
def test_who_may_write_is_read_from_the_mode(
    tmp_path: Path, mode: int, user: int, groups: set[int], may: bool
) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    folder.chmod(mode)
    state = folder.stat()
    others = {state.st_gid if g == 0 else 2**31 + g for g in groups}

    assert may_write(folder, state.st_uid + user, others) is may


def test_packages_are_compared_with_what_is_required() -> None:
    def compare(text: str, *extras: str) -> list[str]:
        return [f.found for f in judge_requirement(Requirement(text), {*extras})]

    assert compare("numpy>=2.0") == []
    assert compare("numpy>=99")[0].endswith("expected >=99")
    assert compare("no-such-package>=1") == [
        "no-such-package is not installed, expected >=1"
    ]
    assert compare("no-such-package>=1; extra == 'device'") == []
    assert len(compare("no-such-package>=1; extra == 'device'", "device")) == 1
    assert compare("no-such-package; python_version < '3'") == []


def test_a_certificate_warns_before_it_ends() -> None:
    def judged(days: float) -> tuple[str, str]:
        ends = clock.utc_now() + timedelta(days=days)
        found = delivery._validity("broker", "its certificate", ends, "renew it")
        return found.status, found.found

    assert judged(31)[0] == "ok"
    assert judged(9.5)[0] == "warning"
    assert judged(9.5)[1].endswith(", for 9 days")
    assert judged(-0.1)[0] == "fault"
    assert (
        delivery._date("Nov 25 12:00:00 2026 GMT").isoformat()[:13] == "2026-11-25T12"
    )


def exposed(**of_the_shot: object) -> RawFrame:
    pixels = np.random.default_rng(1).integers(90, 160, (48, 64, 3), np.uint8)
    return RawFrame(Shot(0, 0, NOW, "camera", **of_the_shot), pixels)  # type: ignore[arg-type]


def test_a_control_that_moves_or_may_move_is_named() -> None:
    moved = exposed(doubt="exposure_ms went from 10 to 14; lock it")
    automatic = exposed(
        controls=Controls(exposure_ms=10, automatic=("gain", "exposure"))
    )

    (found,) = judge_frames([moved], is_live=True, frozen_after=5)
    assert (found.status, found.remedy) == ("warning", "lock it")
    assert found.found == "exposure_ms went from 10 to 14"
    (found,) = judge_frames(
        [automatic], is_live=True, frozen_after=5, allowed=["exposure"]
    )
    assert found.found == "the camera changes by itself: gain"
    both = ["exposure", "gain"]
    assert judge_frames([automatic], is_live=True, frozen_after=5, allowed=both) == []


def test_a_recording_may_show_the_same_twice() -> None:
    same = [exposed()] * 5

    assert judge_frames(same, is_live=False, frozen_after=5) == []
    assert judge_frames(same[:4], is_live=True, frozen_after=5) == []
    (found,) = judge_frames(same, is_live=True, frozen_after=5)
    assert "frozen" in found.found


def test_device_nodes_are_found_in_any_source() -> None:
    pipeline = "v4l2src device=/dev/v4l/by-id/usb-A.1-index0 ! image/jpeg ! jpegdec"
    assert nodes_of(GStreamerSettings(pipeline=pipeline)) == [
        "/dev/v4l/by-id/usb-A.1-index0"
    ]


def test_a_ledger_that_was_never_used_is_a_warning(
    device: Device, tmp_path: Path
) -> None:
    """The settings name a folder that does not exist yet."""
    device.settings["ledger"] = {"folder": "new/ledger"}

    (found,) = device.check("ledger")

    assert found.status == "warning"
    assert "no frame was examined yet" in found.found
    assert device.check("alarms")[0].status == "ok"
    assert not (device.folder / "new").exists()


def test_doctor_leaves_no_connection_and_no_file_behind(device: Device) -> None:
    device.config()
    before = sorted(p for p in device.folder.rglob("*") if "sqlite-" not in p.name)
    ledger = (device.folder / "ledger" / "ledger.sqlite").read_bytes()

    for name in CHECKS:
        device.check(name)

    after = sorted(p for p in device.folder.rglob("*") if "sqlite-" not in p.name)
    assert after == before
    assert (device.folder / "ledger" / "ledger.sqlite").read_bytes() == ledger
