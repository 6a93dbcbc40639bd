"""Permissions: who may write results, and who may read secrets."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from edge.doctor.device import ExaminedDevice, SettingMissing, nearest_existing
from edge.doctor.findings import Finding, fault, ok, unknown, warning

_NAME = "permissions"
_UNIT_USER = "hemascope-run"  # made by systemd/hemascope.sysusers


def check_permissions(device: ExaminedDevice) -> Iterator[Finding]:
    """Check the ledger's folder, the settings and the secrets."""
    findings = [*_folder(device), *_settings(device), *_secrets(device)]
    yield from findings
    if not findings:
        yield ok(
            _NAME, "the ledger's folder can be written, and others cannot read a secret"
        )


def _folder(device: ExaminedDevice) -> Iterator[Finding]:
    folder = nearest_existing(device.ledger.folder)
    try:
        user = pwd.getpwnam(_UNIT_USER)
    except KeyError:  # no systemd units here: whoever runs doctor also runs the device
        if not os.access(folder, os.W_OK | os.X_OK):
            yield fault(
                _NAME,
                f"this user (id {os.getuid()}) may not write to {folder}",
                f"run `sudo chown $USER {folder}`, or choose a folder in [ledger]",
            )
        return
    groups = set(os.getgrouplist(user.pw_name, user.pw_gid)) | _unit_groups()
    if not may_write(folder, user.pw_uid, groups):
        yield fault(
            _NAME,
            f"{_UNIT_USER} may not write to {folder}",
            "run `sudo systemd/install.sh device`: it gives the folder to that user",
        )


def _unit_groups() -> set[int]:
    """Return the groups that our systemd units have."""
    return {g.gr_gid for g in grp.getgrall() if g.gr_name == "hemascope"}


def may_write(path: Path, user: int, groups: set[int]) -> bool:
    """Whether a user other than root may create files in the folder `path`."""
    state = path.stat()
    if state.st_uid == user:
        needed = stat.S_IWUSR | stat.S_IXUSR
    elif state.st_gid in groups:
        needed = stat.S_IWGRP | stat.S_IXGRP
    else:
        needed = stat.S_IWOTH | stat.S_IXOTH
    return state.st_mode & needed == needed


def _settings(device: ExaminedDevice) -> Iterator[Finding]:
    if device.config is None or not device.config.exists():
        return
    if device.config.stat().st_mode & stat.S_IWOTH:
        yield fault(
            _NAME,
            f"everybody may change {device.config}",
            f"run `chmod o-w {device.config}`",
        )


def _secrets(device: ExaminedDevice) -> Iterator[Finding]:
    """Check that only their owner can read the secrets."""
    try:
        broker = device.broker
    except SettingMissing:
        return
    for path in filter(None, (broker.password_file, broker.key)):
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            continue  # the check of the broker reports it
        except OSError as error:
            yield unknown(_NAME, f"{path}: {error.strerror}", "run doctor with sudo")
            continue
        if mode & stat.S_IROTH:
            yield fault(
                _NAME,
                f"everybody may read {path} (mode {stat.S_IMODE(mode):o})",
                f"run `chmod 600 {path}`, then change the password",
            )
        elif mode & stat.S_IWGRP:
            yield warning(
                _NAME,
                f"the group may change {path} (mode {stat.S_IMODE(mode):o})",
                f"run `chmod 600 {path}`",
            )
