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
from edge.schema.results import FIRST_PREVIOUS

_CURSOR = "cursor.json"
WRITER_LOCK, PUBLISHER_LOCK = "ledger.lock", "publish.lock"


class LedgerBusy(HemascopeError):
    """Another process uses this ledger in the same way."""


class Cursor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far the archive has acknowledged, kept by the publisher beside the ledger.

    Rows up to `upto` are acknowledged; `hash` is that of row `upto`. `connections`
    counts the connections to the broker. `announced` is the last entry (alarm, answer
    to a command) that was also sent on its own topic. `trouble` is why there is no
    connection, or was none a few seconds ago.

    If the file is lost, rows are sent twice and the archive drops the second copy. No
    row is lost by it.
    """

    epoch: str
    upto: int
    hash: str
    connections: int
    announced: int = 0
    trouble: str = ""


def read_cursor(folder: Path) -> Cursor | None:
    """Read the publisher's cursor; None where there is none or it is unreadable."""
    try:
        return msgspec.json.decode((folder / _CURSOR).read_bytes(), type=Cursor)
    except (OSError, msgspec.DecodeError):
        return None


def cursor_of(folder: Path, epoch: str) -> tuple[Cursor, int | None]:
    """Return the cursor of this ledger, and the last entry announced if it is known.

    The count of connections goes on even where the cursor is that of another ledger:
    for the broker and for subscribers it is the same device.
    """
    cursor = read_cursor(folder)
    if cursor is not None and cursor.epoch == epoch:
        return cursor, cursor.announced
    connections = 0 if cursor is None else cursor.connections
    return Cursor(epoch, 0, FIRST_PREVIOUS, connections), None


def write_cursor(folder: Path, cursor: Cursor) -> None:
    """Replace the cursor atomically."""
    # Renaming replaces the file in one step, so the writer of the ledger, which reads
    # it before it deletes rows, never sees half of it. No fsync: an older cursor after
    # a power cut only means that rows are sent again.
    draft = folder / f"{_CURSOR}.new"
    draft.write_bytes(encode(cursor))
    draft.replace(folder / _CURSOR)


def cursor_age_s(folder: Path) -> float | None:
    """Seconds since the publisher stored its cursor; None where there is none."""
    try:
        return max(0.0, time.time() - (folder / _CURSOR).stat().st_mtime)
    except OSError:
        return None


def acquire_lock(path: Path, activity: str) -> IO[str]:
    """Lock the file `path` until it is closed, and write our process id into it.

    Parameters
    ----------
    path
        The lock file, in the ledger's folder.
    activity
        What the holder of this lock does with the ledger, for the error message.

    Raises
    ------
    LedgerBusy
        Another process holds the lock.
    """
    # flock and not a file with a process id alone: the kernel releases it when the
    # process dies, however it dies, so no lock is ever left behind.
    file = path.open("a+", encoding="ascii")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        process_id = file.read().strip() or "unknown"
        file.close()
        raise LedgerBusy(
            f"{path.parent}: process {process_id} {activity} this ledger; stop it "
            "first, or give this one a folder of its own"
        ) from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def lock_holder(path: Path, locks: Path = Path("/proc/locks")) -> int | None:
    """Return the process that holds the lock file `path`; None if none does."""
    # The kernel's list is read. To try the lock instead would take it for a moment,
    # and a process that starts in that moment would be refused.
    try:
        process_id, inode = path.read_text(encoding="ascii").strip(), path.stat().st_ino
        lock_table = locks.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return None
    for line in lock_table.splitlines():
        # "1: FLOCK ADVISORY WRITE 1234 08:01:5678 0 EOF": process, then device:inode.
        fields = line.split()
        is_this_file = fields[1:2] == ["FLOCK"] and fields[5].endswith(f":{inode}")
        if is_this_file and fields[4] == process_id:
            return int(process_id)
    return None
