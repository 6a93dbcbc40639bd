"""Which of our processes are at work on this machine, seen without disturbing them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from edge.doctor.device import nearest
from edge.ledger.cursor import PUBLISHER_LOCK, WRITER_LOCK, holder


def run_process(ledger: Path) -> int | None:
    """Return the process that examines frames into `ledger`, None without one."""
    return holder(ledger / WRITER_LOCK)


def publish_process(ledger: Path) -> int | None:
    """Return the process that publishes `ledger`, None without one."""
    return holder(ledger / PUBLISHER_LOCK)


def is_hidden(ledger: Path) -> bool:
    """Whether our rights keep us from seeing who is at work on `ledger`."""
    lock = ledger / WRITER_LOCK
    if os.access(lock, os.F_OK):
        return not os.access(lock, os.R_OK)
    return not os.access(nearest(ledger), os.X_OK)


def users_of(path: Path, proc: Path = Path("/proc")) -> list[str]:
    """Name the other processes that have `path` open, as far as we may see.

    As root all are seen, else those of the same user.
    """
    wanted, found = path.resolve(), []
    for folder in proc.glob("[0-9]*"):
        if folder.name == str(os.getpid()):
            continue
        if wanted in _opened(folder / "fd"):
            found.append(f"process {folder.name} ({_name(folder)})")
    return found


def _opened(links: Path) -> set[Path]:
    """Return the files that a process has open; none of another user's."""
    found = set()
    with suppress(OSError):  # it has ended, or we may not look
        for link in links.iterdir():
            with suppress(OSError):  # closed meanwhile
                found.add(link.readlink())
    return found


def _name(folder: Path) -> str:
    try:
        return (folder / "comm").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return "unknown"
