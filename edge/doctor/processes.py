"""Which of our processes work on this machine, found out without disturbing them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from edge.doctor.device import nearest_existing
from edge.ledger.cursor import PUBLISHER_LOCK, WRITER_LOCK, lock_holder


def run_process(ledger: Path) -> int | None:
    """Return the process that writes results into `ledger`; None without one."""
    return lock_holder(ledger / WRITER_LOCK)


def publish_process(ledger: Path) -> int | None:
    """Return the process that publishes `ledger`; None without one."""
    return lock_holder(ledger / PUBLISHER_LOCK)


def may_not_see_processes(ledger: Path) -> bool:
    """Whether this user's permissions hide which processes use `ledger`."""
    lock = ledger / WRITER_LOCK
    if os.access(lock, os.F_OK):
        return not os.access(lock, os.R_OK)
    return not os.access(nearest_existing(ledger), os.X_OK)


def users_of(path: Path, proc: Path = Path("/proc")) -> list[str]:
    """Name the other processes that have `path` open.

    Root sees all of them, another user only those of the same user.
    """
    wanted, users = path.resolve(), []
    for folder in proc.glob("[0-9]*"):
        if folder.name == str(os.getpid()):
            continue
        if wanted in _open_files(folder / "fd"):
            users.append(f"process {folder.name} ({_program(folder)})")
    return users


def _open_files(links: Path) -> set[Path]:
    """Return the files that a process has open; none of another user's process."""
    files = set()
    with suppress(OSError):  # it has ended, or belongs to another user
        for link in links.iterdir():
            with suppress(OSError):  # closed meanwhile
                files.add(link.readlink())
    return files


def _program(folder: Path) -> str:
    try:
        return (folder / "comm").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return "unknown"
