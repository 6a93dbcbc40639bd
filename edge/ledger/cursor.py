"""Who may use a ledger folder, and how far the archive has acknowledged it."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import IO

import msgspec

from edge.errors import HemascopeError
from edge.schema.codec import encode

_CURSOR = "cursor.json"
WRITER_LOCK, PUBLISHER_LOCK = "ledger.lock", "publish.lock"


class LedgerBusy(HemascopeError):
    """Another process uses this ledger in the same way."""


class Cursor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far the archive has acknowledged, kept by the publisher beside the ledger.

    Losing it costs duplicates, which the archive drops, never rows. `connections`
    counts the connections to the broker; `announced` is the last entry (alarm, answer
    to a command) that was also sent on its own topic.
    """

    epoch: str
    upto: int
    hash: str
    connections: int
    announced: int = 0


def read_cursor(folder: Path) -> Cursor | None:
    """Read the publisher's cursor; None where there is none or it is unreadable."""
    try:
        return msgspec.json.decode((folder / _CURSOR).read_bytes(), type=Cursor)
    except (OSError, msgspec.DecodeError):
        return None


def write_cursor(folder: Path, cursor: Cursor) -> None:
    """Replace the cursor atomically."""
    draft = folder / f"{_CURSOR}.new"
    draft.write_bytes(encode(cursor))
    draft.replace(folder / _CURSOR)


def stored_s_ago(folder: Path) -> float | None:
    """Seconds since the publisher stored its cursor; None where there is none."""
    try:
        return max(0.0, time.time() - (folder / _CURSOR).stat().st_mtime)
    except OSError:
        return None


def hold(path: Path, does: str) -> IO[str]:
    """Hold the lock file `path` until closed; the kernel lets go when we die.

    Raises
    ------
    LedgerBusy
        Another process holds it, who `does` something with this ledger.
    """
    file = path.open("a+", encoding="ascii")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        raise LedgerBusy(
            f"{path.parent}: process {holder} {does} this ledger; stop it first, or "
            "give this one a folder of its own"
        ) from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def holder(path: Path, locks: Path = Path("/proc/locks")) -> int | None:
    """Return the process that holds the lock file `path`; None if none does.

    The kernel is asked, so that nobody is disturbed, as trying to hold it would.
    """
    try:
        wrote, inode = path.read_text(encoding="ascii").strip(), path.stat().st_ino
        held = locks.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return None
    for line in held.splitlines():
        fields = line.split()
        is_ours = fields[1:2] == ["FLOCK"] and fields[5].endswith(f":{inode}")
        if is_ours and fields[4] == wrote:
            return int(wrote)
    return None
