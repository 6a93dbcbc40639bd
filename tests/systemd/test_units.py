from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "systemd"
UNITS = sorted(FOLDER.glob("*.service"))
PROCESSES = [unit for unit in UNITS if "@" not in unit.name]
# Tenths of what `systemd-analyze security` gives at most; a plain service has 96.
EXPOSURE = {
    "hemascope-run": 12,
    "hemascope-publish": 10,
    "hemascope-archive": 10,
    "hemascope-failed@": 12,
}
SECURITY = FOLDER.parent / "docs" / "security.md"


def settings(unit: Path, key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", unit.read_text(), re.MULTILINE)


def analyze(*words: str | Path) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    command = ["systemd-analyze", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def allowed_calls(unit: Path) -> set[str]:
    """System calls that are left when each line has added or taken away its own."""
    allowed: set[str] = set()
    for line in settings(unit, "SystemCallFilter"):
        named = {call for word in line.lstrip("~").split() for call in calls_of(word)}
        allowed = allowed - named if line.startswith("~") else allowed | named
    return allowed


def calls_of(word: str) -> set[str]:
    """System calls that a word of a filter names, a group with all groups in it."""
    if not word.startswith("@"):
        return {word}
    lines = analyze("syscall-filter", word).stdout.splitlines()[1:]
    inside = [line.strip() for line in lines if not line.strip().startswith("#")]
    return {call for each in filter(None, inside) for call in calls_of(each)}


def test_there_is_a_unit_for_each_process() -> None:
    assert [unit.stem for unit in PROCESSES] == [
        "hemascope-archive",
        "hemascope-publish",
        "hemascope-run",
    ]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_is_valid(unit: Path, tmp_path: Path) -> None:
    program = tmp_path / "hemascope"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for each in UNITS:
        text = each.read_text().replace("/opt/hemascope/bin/hemascope", str(program))
        (tmp_path / each.name).write_text(text)

    done = analyze("verify", "--man=no", tmp_path / unit.name)

    assert done.returncode == 0, done.stderr
    assert unit.name not in done.stderr


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_can_reach_little_and_the_table_says_how_much(unit: Path) -> None:
    most = EXPOSURE[unit.stem]

    done = analyze("security", "--offline=yes", f"--threshold={most}", unit)

    assert done.returncode == 0, done.stdout
    (measured,) = re.findall(r"exposure level for \S+: (\S+)", done.stdout)
    row = f"| `{unit.stem}` | {measured} | {most / 10:.1f} |"
    assert row in SECURITY.read_text()


def test_the_measure_of_what_a_unit_can_reach_is_not_always_content(
    tmp_path: Path,
) -> None:
    open_to_all = tmp_path / "hemascope-run.service"
    open_to_all.write_text("[Service]\nExecStart=/bin/true\n")

    assert analyze(
        "security", "--offline=yes", "--threshold=12", open_to_all
    ).returncode


@pytest.mark.parametrize("unit", PROCESSES, ids=lambda unit: unit.stem)
def test_a_wrong_setting_is_not_tried_again_and_all_else_is(unit: Path) -> None:
    assert settings(unit, "RestartPreventExitStatus") == ["78"]
    assert settings(unit, "Restart") == ["on-failure"]
    # A camera or a broker may be away all night.
    assert settings(unit, "StartLimitIntervalSec") == ["0"]
    assert settings(unit, "OnFailure") == ["hemascope-failed@%n.service"]
    assert "--config /etc/hemascope/" in settings(unit, "ExecStart")[0]


@pytest.mark.parametrize("unit", PROCESSES, ids=lambda unit: unit.stem)
def test_a_unit_runs_as_a_user_of_its_own_that_is_made(unit: Path) -> None:
    (user,) = settings(unit, "User")

    assert user == unit.stem
    assert f"u {user} " in (FOLDER / "hemascope.sysusers").read_text()


def test_devices_and_network_do_not_meet() -> None:
    for unit in PROCESSES:
        has_network = settings(unit, "PrivateNetwork") != ["yes"]
        has_devices = settings(unit, "PrivateDevices") != ["yes"]
        assert has_network != has_devices, unit.name


def test_users_are_made(tmp_path: Path) -> None:
    if shutil.which("systemd-sysusers") is None:
        pytest.skip("systemd-sysusers is not installed")
    (tmp_path / "etc").mkdir()
    root = f"--root={tmp_path}"
    users = ["systemd-sysusers", root, FOLDER / "hemascope.sysusers"]
    made = subprocess.run(users, capture_output=True, text=True, check=False)

    assert made.returncode == 0, made.stderr
    passwd = (tmp_path / "etc" / "passwd").read_text()
    assert all(f"{unit.stem}:x:" in passwd for unit in PROCESSES)
    assert "/bin/bash" not in passwd


def test_a_device_can_tell_its_boot_and_whether_its_clock_is_right() -> None:
    run, publish = (
        FOLDER / "hemascope-run.service",
        FOLDER / "hemascope-publish.service",
    )

    assert settings(run, "ProcSubset") == settings(publish, "ProcSubset") == []
    assert settings(run, "ProtectClock") == []
    assert {"adjtimex", "clock_adjtime"} <= allowed_calls(run)
    assert not {"settimeofday", "clock_settime"} & allowed_calls(run)
