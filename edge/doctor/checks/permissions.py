"""Permissions: who may write results, and who may read secrets."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from edge.doctor.device import ExaminedDevice, SettingMissing, nearest
from edge.doctor.findings import Finding, fault, ok, unknown, warning

_NAME = "permissions"
_UNIT_USER = "hemascope-run"  # of systemd/hemascope.sysusers


def check_permissions(subject: ExaminedDevice) -> Iterator[Finding]:
    """Look at the ledger's folder, the settings and the secrets."""
    found = [*_folder(subject), *_settings(subject), *_secrets(subject)]
    yield from found
    if not found:
        yield ok(_NAME, "the ledger's folder may be written, no secret may be read")


def _folder(subject: ExaminedDevice) -> Iterator[Finding]:
    folder = nearest(subject.ledger.folder)
    try:
        user = pwd.getpwnam(_UNIT_USER)
    except KeyError:  # no units here: whoever asks is who runs it
        if not os.access(folder, os.W_OK | os.X_OK):
            yield fault(
                _NAME,
                f"{folder} may not be written by this user (id {os.getuid()})",
                f"`sudo chown $USER {folder}`, or another folder in [ledger]",
            )
        return
    groups = set(os.getgrouplist(user.pw_name, user.pw_gid)) | _unit_groups()
    if not may_write(folder, user.pw_uid, groups):
        yield fault(
            _NAME,
            f"{folder} may not be written by {_UNIT_USER}",
            "`sudo systemd/install.sh device` gives it to the units' users",
        )


def _unit_groups() -> set[int]:
    """Return the groups that units of ours are given."""
    return {g.gr_gid for g in grp.getgrall() if g.gr_name == "hemascope"}


def may_write(path: Path, user: int, groups: set[int]) -> bool:
    """Whether a user other than root may make files in the folder `path`."""
    state = path.stat()
    if state.st_uid == user:
        wanted = stat.S_IWUSR | stat.S_IXUSR
    elif state.st_gid in groups:
        wanted = stat.S_IWGRP | stat.S_IXGRP
    else:
        wanted = stat.S_IWOTH | stat.S_IXOTH
    return state.st_mode & wanted == wanted


def _settings(subject: ExaminedDevice) -> Iterator[Finding]:
    if subject.config is None or not subject.config.exists():
        return
    if subject.config.stat().st_mode & stat.S_IWOTH:
        yield fault(
            _NAME,
            f"everybody may change {subject.config}",
            f"`chmod o-w {subject.config}`",
        )


def _secrets(subject: ExaminedDevice) -> Iterator[Finding]:
    """Say which secrets others may read, or nobody can."""
    try:
        broker = subject.broker
    except SettingMissing:
        return
    for path in filter(None, (broker.password_file, broker.key)):
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            continue  # told by the check of the broker
        except OSError as error:
            yield unknown(_NAME, f"{path}: {error.strerror}", "use sudo")
            continue
        if mode & stat.S_IROTH:
            yield fault(
                _NAME,
                f"everybody may read {path} (mode {stat.S_IMODE(mode):o})",
                f"`chmod 600 {path}`, then change the password",
            )
        elif mode & stat.S_IWGRP:
            yield warning(
                _NAME,
                f"the group may change {path} (mode {stat.S_IMODE(mode):o})",
                f"`chmod 600 {path}`",
            )
