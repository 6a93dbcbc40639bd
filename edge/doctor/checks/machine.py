"""The machine: clock, disk, temperature, power mode."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path

import edge
from edge import clock
from edge.doctor.checks.ledger import newest_utc
from edge.doctor.device import ExaminedDevice, SettingMissing, nearest
from edge.doctor.findings import Finding, fault, ok, unknown, warning
from edge.engines.build_manifest import l4t_release
from edge.errors import HemascopeError
from edge.ledger.reader import LedgerReader
from edge.monitoring.alarms import KINDS
from edge.monitoring.metrics import disk, temperature_c
from edge.settings.run import AlarmSettings

_BEHIND = timedelta(seconds=10)
_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p"}
_FORGETFUL = {"tmpfs", "ramfs"}
_FAST = "MAXN"  # begins the name of the highest power mode


def check_clock(subject: ExaminedDevice) -> Iterator[Finding]:
    """Say whether times in results can be believed."""
    installed = Path(edge.__file__).stat().st_mtime
    yield judge_clock(
        clock.utc_now(),
        is_synchronised=clock.is_synchronised(),
        not_before={
            "the newest row of the ledger": _newest(subject),
            "the installation": datetime.fromtimestamp(installed, timezone.utc),
        },
    )


def judge_clock(
    now: datetime, *, is_synchronised: bool, not_before: dict[str, datetime | None]
) -> Finding:
    """Judge the wall time `now` by what must lie before it."""
    for what, then in not_before.items():
        if then is not None and now < then - _BEHIND:
            return fault(
                "clock",
                f"it is {now:%Y-%m-%d %H:%M:%S} UTC, before {what} "
                f"({then:%Y-%m-%d %H:%M:%S})",
                "set the clock (`timedatectl`), and see to the battery of the board",
            )
    if not is_synchronised:
        return warning(
            "clock",
            f"{now:%Y-%m-%d %H:%M:%S} UTC, and it follows no time server",
            KINDS["clock-unsynchronised"].advice,
        )
    return ok("clock", f"{now:%Y-%m-%d %H:%M:%S} UTC, follows a time server")


def _newest(subject: ExaminedDevice) -> datetime | None:
    try:
        with closing(LedgerReader(subject.ledger.folder)) as reader:
            return newest_utc(reader)
    except (SettingMissing, HemascopeError, OSError, sqlite3.Error):
        return None


def check_disk(subject: ExaminedDevice) -> Iterator[Finding]:
    """Say whether the ledger's disk takes rows, and will."""
    folder = nearest(subject.ledger.folder)  # it will be made there
    limits = subject.alarms
    kind = file_system_of(folder)
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        yield fault(
            "disk",
            f"{folder} is mounted read-only: an error of the disk does that",
            "read `dmesg`, then check the disk with fsck",
        )
    if kind in _NETWORK:
        yield fault(
            "disk",
            f"{folder} lies on a network disk ({kind}), where a ledger breaks",
            "choose a folder on a local disk in [ledger]",
        )
    if kind in _FORGETFUL:
        yield warning(
            "disk",
            f"{folder} lies in memory ({kind}): a power cut loses every row",
            "choose a folder on a disk in [ledger]",
        )
    yield _room(folder, limits)


def _room(folder: Path, limits: AlarmSettings) -> Finding:
    free, used = disk(folder)
    amber, red = limits.disk_share
    text = f"{folder}: {100 * used:.0f} % used, {free >> 20:,} MiB free"
    if os.statvfs(folder).f_favail == 0 and os.statvfs(folder).f_files:
        return fault("disk", f"{text}, but no more files", "delete old files")
    if used >= red:
        return fault("disk", text, KINDS["disk-filling"].advice)
    if used >= amber:
        return warning("disk", text, KINDS["disk-filling"].advice)
    return ok("disk", text)


def file_system_of(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """Return the kind of file system that holds `folder`; "" where nobody can tell."""
    wanted, best, kind = os.path.realpath(folder), "", ""
    try:
        lines = mounts.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return ""
    for line in lines:
        _, place, found = line.split()[:3]
        place = place.replace("\\040", " ")
        is_above = wanted == place or wanted.startswith(place.rstrip("/") + "/")
        if is_above and len(place) >= len(best):
            best, kind = place, found
    return kind


def check_temperature(subject: ExaminedDevice) -> Iterator[Finding]:
    """Say how hot the hottest part is."""
    try:
        limits = subject.alarms
    except SettingMissing:
        limits = AlarmSettings()
    yield judge_heat(temperature_c(), limits)


def judge_heat(heat_c: float | None, limits: AlarmSettings) -> Finding:
    """Judge the temperature of the hottest part; None where none is told."""
    amber, red = limits.temperature_c
    if heat_c is None:
        return unknown(
            "temperature",
            "this machine tells none",
            "nothing on a virtual machine; else see `ls /sys/class/thermal`",
        )
    text = f"the hottest part has {heat_c:.0f} °C, alarms begin at {amber:.0f} °C"
    if heat_c >= red:
        return fault("temperature", text, KINDS["hot"].advice)
    if heat_c >= amber:
        return warning("temperature", text, KINDS["hot"].advice)
    return ok("temperature", text)


def check_power(subject: ExaminedDevice) -> Iterator[Finding]:
    """Say whether a Jetson runs as fast as it could."""
    if l4t_release() is None:
        yield ok("power", "not a Jetson")
        return
    yield _power_mode()
    yield from judge_supply(Path("/sys"))


def _power_mode() -> Finding:
    program = shutil.which("nvpmodel", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    output = ""
    if program is not None:
        done = subprocess.run(  # noqa: S603 it was looked up
            [program, "-q"], capture_output=True, text=True, check=False, timeout=10
        )
        output = done.stdout
    return judge_mode(output)


def judge_mode(output: str) -> Finding:
    """Judge what `nvpmodel -q` says."""
    mode = re.search(r"NV Power Mode:\s*(\S+)", output)
    if mode is None:
        return unknown(
            "power",
            "nvpmodel does not say the power mode",
            "ask it: `sudo nvpmodel -q`",
        )
    if not mode[1].startswith(_FAST):
        return warning(
            "power",
            f"power mode {mode[1]}: slower than the board can",
            "`sudo nvpmodel -m 0`, unless the supply or the heat forbids it",
        )
    return ok("power", f"power mode {mode[1]}")


def judge_supply(sys: Path) -> Iterator[Finding]:
    """Say whether a Jetson was slowed down by its supply, and if clocks are fixed."""
    slowed = {
        file.name.partition("_")[0]: _number(file)
        for file in sorted(sys.glob("class/hwmon/hwmon*/oc*_event_cnt"))
    }
    if any(slowed.values()):
        counts = ", ".join(f"{name} {count}" for name, count in slowed.items())
        yield warning(
            "power",
            f"slowed down by under-voltage or over-current since the start: {counts}",
            "use a supply of the power that the board asks for",
        )
    clocks = sys / "devices/system/cpu/cpu0/cpufreq"
    low, high = (_number(clocks / f"scaling_{end}_freq") for end in ("min", "max"))
    if low and high:
        fixed = "fixed at their highest" if low == high else "follow the load"
        yield ok("power", f"clocks {fixed}, at most {high / 1e6:.2f} GHz")


def _number(file: Path) -> int:
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0
