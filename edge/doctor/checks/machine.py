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
from edge.doctor.device import ExaminedDevice, SettingMissing, nearest_existing
from edge.doctor.findings import Finding, fault, ok, unknown, warning
from edge.engines.build_manifest import l4t_release
from edge.errors import HemascopeError
from edge.ledger.reader import LedgerReader
from edge.monitoring.alarms import ALARM_KINDS
from edge.monitoring.metrics import disk_usage, temperature_c
from edge.settings.run import AlarmSettings

_CLOCK_TOLERANCE = timedelta(seconds=10)
_NETWORK_FILE_SYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p"}
_MEMORY_FILE_SYSTEMS = {"tmpfs", "ramfs"}
_FULL_POWER = "MAXN"  # begins the name of the highest power mode


def check_clock(device: ExaminedDevice) -> Iterator[Finding]:
    """Check whether the times in results can be true."""
    installed = Path(edge.__file__).stat().st_mtime
    yield judge_clock(
        clock.utc_now(),
        is_synchronised=clock.is_synchronised(),
        not_before={
            "the newest row of the ledger": _newest(device),
            "the installation": datetime.fromtimestamp(installed, timezone.utc),
        },
    )


def judge_clock(
    now: datetime, *, is_synchronised: bool, not_before: dict[str, datetime | None]
) -> Finding:
    """Judge the wall time `now` by moments that must be before it."""
    for what, then in not_before.items():
        if then is not None and now < then - _CLOCK_TOLERANCE:
            return fault(
                "clock",
                f"the clock says {now:%Y-%m-%d %H:%M:%S} UTC, which is before {what} "
                f"({then:%Y-%m-%d %H:%M:%S})",
                "set the clock with `timedatectl`, and check the board's battery",
            )
    if not is_synchronised:
        return warning(
            "clock",
            f"{now:%Y-%m-%d %H:%M:%S} UTC, not set by a time server",
            ALARM_KINDS["clock-unsynchronised"].advice,
        )
    return ok("clock", f"{now:%Y-%m-%d %H:%M:%S} UTC, set by a time server")


def _newest(device: ExaminedDevice) -> datetime | None:
    try:
        with closing(LedgerReader(device.ledger.folder)) as reader:
            return newest_utc(reader)
    except (SettingMissing, HemascopeError, OSError, sqlite3.Error):
        return None


def check_disk(device: ExaminedDevice) -> Iterator[Finding]:
    """Check whether rows can be written to the ledger's disk, now and later."""
    folder = nearest_existing(device.ledger.folder)  # where the ledger will be made
    limits = device.alarms
    kind = file_system_of(folder)
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        yield fault(
            "disk",
            f"{folder} is mounted read-only, which an error of the disk causes",
            "read `dmesg`, then check the disk with `fsck`",
        )
    if kind in _NETWORK_FILE_SYSTEMS:
        yield fault(
            "disk",
            f"{folder} is on a network disk ({kind}), where a ledger can be damaged",
            "choose a folder on a local disk in [ledger]",
        )
    if kind in _MEMORY_FILE_SYSTEMS:
        yield warning(
            "disk",
            f"{folder} is in memory ({kind}): a power cut loses every row",
            "choose a folder on a disk in [ledger]",
        )
    yield _free_space(folder, limits)


def _free_space(folder: Path, limits: AlarmSettings) -> Finding:
    free, used = disk_usage(folder)
    amber, red = limits.disk_share
    text = f"{folder}: {100 * used:.0f} % used, {free >> 20:,} MiB free"
    if os.statvfs(folder).f_favail == 0 and os.statvfs(folder).f_files:
        return fault(
            "disk", f"{text}, but no more files can be created", "delete old files"
        )
    if used >= red:
        return fault("disk", text, ALARM_KINDS["disk-filling"].advice)
    if used >= amber:
        return warning("disk", text, ALARM_KINDS["disk-filling"].advice)
    return ok("disk", text)


def file_system_of(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """Return the kind of file system that holds `folder`; "" if it is not known."""
    path, innermost, kind = os.path.realpath(folder), "", ""
    try:
        lines = mounts.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return ""
    for line in lines:
        _, mount, mounted_kind = line.split()[:3]
        mount = mount.replace("\\040", " ")
        is_above = path == mount or path.startswith(mount.rstrip("/") + "/")
        if is_above and len(mount) >= len(innermost):
            innermost, kind = mount, mounted_kind
    return kind


def check_temperature(device: ExaminedDevice) -> Iterator[Finding]:
    """Check how hot the hottest part is."""
    try:
        limits = device.alarms
    except SettingMissing:
        limits = AlarmSettings()
    yield judge_temperature(temperature_c(), limits)


def judge_temperature(hottest_c: float | None, limits: AlarmSettings) -> Finding:
    """Judge the temperature of the hottest part; None if it is not known."""
    amber, red = limits.temperature_c
    if hottest_c is None:
        return unknown(
            "temperature",
            "this machine does not report it",
            "look into /sys/class/thermal, unless this is a virtual machine",
        )
    text = f"the hottest part has {hottest_c:.0f} °C, alarms begin at {amber:.0f} °C"
    if hottest_c >= red:
        return fault("temperature", text, ALARM_KINDS["hot"].advice)
    if hottest_c >= amber:
        return warning("temperature", text, ALARM_KINDS["hot"].advice)
    return ok("temperature", text)


def check_power(device: ExaminedDevice) -> Iterator[Finding]:
    """Check whether a Jetson runs as fast as it can."""
    if l4t_release() is None:
        yield ok("power", "not a Jetson")
        return
    yield _power_mode()
    yield from judge_supply(Path("/sys"))


def _power_mode() -> Finding:
    program = shutil.which("nvpmodel", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    output = ""
    if program is not None:
        done = subprocess.run(  # noqa: S603 found by its name, with fixed arguments
            [program, "-q"], capture_output=True, text=True, check=False, timeout=10
        )
        output = done.stdout
    return judge_mode(output)


def judge_mode(output: str) -> Finding:
    """Judge what `nvpmodel -q` printed."""
    mode = re.search(r"NV Power Mode:\s*(\S+)", output)
    if mode is None:
        return unknown(
            "power",
            "nvpmodel does not report the power mode",
            "run `sudo nvpmodel -q`",
        )
    if not mode[1].startswith(_FULL_POWER):
        return warning(
            "power",
            f"power mode {mode[1]}, in which the board is slower than it can be",
            "run `sudo nvpmodel -m 0`, unless power supply or cooling is too weak",
        )
    return ok("power", f"power mode {mode[1]}")


def judge_supply(sys: Path) -> Iterator[Finding]:
    """Check whether its power supply slowed a Jetson down, and if clocks are fixed.

    `sys` is /sys; the kernel counts over-current events in its hwmon files.
    """
    event_counts = {
        file.name.partition("_")[0]: _number(file)
        for file in sorted(sys.glob("class/hwmon/hwmon*/oc*_event_cnt"))
    }
    if any(event_counts.values()):
        counts = ", ".join(f"{name} {count}" for name, count in event_counts.items())
        yield warning(
            "power",
            f"slowed down by under-voltage or over-current since its start: {counts}",
            "use a power supply as strong as the board requires",
        )
    clocks = sys / "devices/system/cpu/cpu0/cpufreq"
    low, high = (_number(clocks / f"scaling_{end}_freq") for end in ("min", "max"))
    if low and high:
        behaviour = "fixed at their highest" if low == high else "follow the load"
        yield ok("power", f"clocks {behaviour}, at most {high / 1e6:.2f} GHz")


def _number(file: Path) -> int:
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0
