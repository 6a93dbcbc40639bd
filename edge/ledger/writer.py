"""The ledger: every result, in order, on disk before anything else happens to it.

SQLite in WAL mode with `synchronous=FULL`: one transaction per frame, so a power cut
loses nothing that was committed. Each row carries the sha256 of the row before. A row
stays until the archive has acknowledged it with its hash.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from edge import __version__, clock
from edge.ledger.cursor import WRITER_LOCK, hold, read_cursor
from edge.ledger.ledger_state import InboxPosition, LedgerState
from edge.ledger.rows import (
    LEDGER_FILE,
    RESERVE_FILE,
    LedgerDamaged,
    LedgerFull,
    LedgerRow,
    RowRefused,
    explain_sqlite_error,
    first_broken,
)
from edge.schema.codec import PayloadInvalid, encode
from edge.schema.entries import Entered, Entry
from edge.schema.results import FIRST_PREVIOUS, FrameResult, Result
from edge.schema.row_limits import MAX_ROW_BYTES

log = logging.getLogger(__name__)

T = TypeVar("T")

_SCHEMA_VERSION = 1
_RESERVE_BYTES = 4 << 20
_PRUNED_AT_ONCE = 5000  # rows: a longer deletion would hold up the next result


class Ledger:
    """The writer of one ledger folder. Used from one thread; only one may exist."""

    def __init__(self, folder: Path, device: str) -> None:
        """Open or create the ledger in `folder`.

        Raises
        ------
        LedgerBusy
            Another process has it open for writing.
        LedgerDamaged
            The file is no ledger of ours, or its end is not what was written.
        LedgerFull
            There is no room to create it.
        """
        self._folder, self.device = folder, device
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = hold(folder / WRITER_LOCK, "writes")
        except OSError as error:
            raise explain_sqlite_error(folder, error) from error
        try:
            _reserve(folder / RESERVE_FILE)
            self._db = _connect(folder / LEDGER_FILE)
            self.state = LedgerState(self._db)
            self._create()
        except (sqlite3.Error, OSError) as error:
            self._lock.close()
            raise explain_sqlite_error(folder, error) from error
        self.epoch = self._meta("epoch")
        owner = self._meta("device")
        if owner != device:
            self.close()
            raise LedgerDamaged(
                f"{folder}: is the ledger of device {owner!r}, not of {device!r}; give "
                "each device a folder of its own"
            )
        last = self._verify_tail()
        self.seq, self._previous = last.seq, last.sha256

    def append(self, content: FrameResult | Entered) -> LedgerRow:
        """Store what was said of one frame, or an entry, durably; return its row.

        Raises
        ------
        RowRefused
            It is too large or cannot be written; nothing was stored.
        LedgerFull
            The disk is full; nothing was stored, and acquisition must stop.
        """
        return self.append_all([content])[0]

    def append_all(
        self,
        contents: Sequence[FrameResult | Entered],
        taken: InboxPosition | None = None,
    ) -> list[LedgerRow]:
        """Store several rows, and how far the inbox was taken over: all or nothing.

        Raises as `append` does.
        """
        rows: list[LedgerRow] = []
        seq, previous = self.seq, self._previous
        for one in contents:
            rows.append(self._row(one, seq + 1, previous))
            seq, previous = rows[-1].seq, rows[-1].sha256
        try:
            with self._db:
                for row, one in zip(rows, contents, strict=True):
                    self._db.execute(
                        "INSERT INTO rows VALUES (?, ?, ?)",
                        (row.seq, row.data, row.sha256),
                    )
                    self.state.record(row.seq, one)
                if taken is not None:
                    self.state.take(taken)
        except sqlite3.Error as error:
            raise explain_sqlite_error(self._folder, error) from error
        self.seq, self._previous = seq, previous
        return rows

    def _row(
        self, content: FrameResult | Entered, seq: int, previous: str
    ) -> LedgerRow:
        """Write what was said as the row after the one whose hash is `previous`."""
        place: dict[str, Any] = {"device": self.device, "epoch": self.epoch}
        row: Result | Entry
        if isinstance(content, FrameResult):
            fields = {f: getattr(content, f) for f in content.__struct_fields__}
            row = Result(**fields, **place, seq=seq, prev=previous)
        else:
            row = Entry(**place, **_stamp(), seq=seq, prev=previous, entry=content)
        try:
            data = encode(row)
        except PayloadInvalid as error:
            raise RowRefused(str(error)) from error
        if len(data) > MAX_ROW_BYTES:
            cells = len(content.cells) if isinstance(content, FrameResult) else 0
            raise RowRefused(
                f"the result of {cells} cells is {len(data)} bytes, more than the "
                f"{MAX_ROW_BYTES} that brokers take; look at a smaller field"
            )
        return LedgerRow(seq, data, hashlib.sha256(data).hexdigest())

    def prune(self, keep: int) -> int:
        """Delete acknowledged rows but the last `keep`; return how many went.

        What the archive has not acknowledged with the right hash is never deleted.
        """
        cursor = read_cursor(self._folder)
        if cursor is None or cursor.epoch != self.epoch:
            return 0
        found = self._db.execute(
            "SELECT 1 FROM rows WHERE seq = ? AND sha256 = ?",
            (cursor.upto, cursor.hash),
        ).fetchone()
        if found is None:
            return 0
        upto = min(cursor.upto, self.seq - keep)
        try:
            with self._db:
                gone = self._db.execute(
                    "DELETE FROM rows WHERE seq IN "
                    "(SELECT seq FROM rows WHERE seq <= ? ORDER BY seq LIMIT ?)",
                    (upto, _PRUNED_AT_ONCE),
                ).rowcount
                self.state.forget_pruned()
                return gone
        except sqlite3.Error as error:
            raise explain_sqlite_error(self._folder, error) from error

    def with_room(self, append: Callable[[], T]) -> T:
        """Append by `append`; on a full disk make room once and do it again.

        Raises
        ------
        LedgerFull
            The disk is full, and nothing on it may go.
        """
        try:
            return append()
        except LedgerFull:
            gone = self.make_room()
            if gone == 0:
                raise
            log.warning("disk full: %d acknowledged rows deleted early", gone)
        return append()

    def make_room(self) -> int:
        """Give up the reserve and all acknowledged rows, on a full disk.

        Returns how many rows went; their room is used again, by this ledger alone.
        """
        (self._folder / RESERVE_FILE).unlink(missing_ok=True)
        gone = 0
        while (now_gone := self.prune(keep=1)) > 0:
            gone += now_gone
        return gone

    @property
    def spare_bytes(self) -> int:
        """Room in the ledger's file that deleted rows left: the next rows take it."""
        pages, size = (
            int(self._db.execute(f"PRAGMA {name}").fetchone()[0])
            for name in ("freelist_count", "page_size")
        )
        return pages * size

    def close(self) -> None:
        """Close the file and let others write. Safe to call twice."""
        self._db.close()
        self._lock.close()

    def _create(self) -> None:
        with self._db:
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS rows (seq INTEGER PRIMARY KEY, "
                "data BLOB NOT NULL, sha256 TEXT NOT NULL) STRICT"
            )
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, "
                "value TEXT NOT NULL) STRICT"
            )
            self.state.create()
            for key, value in (
                ("schema", str(_SCHEMA_VERSION)),
                ("device", self.device),
                ("epoch", str(uuid.uuid4())),
            ):
                self._db.execute(
                    "INSERT OR IGNORE INTO meta VALUES (?, ?)", (key, value)
                )

    def _meta(self, key: str) -> str:
        row = self._db.execute(
            "SELECT value FROM meta WHERE key = ?", (key,)
        ).fetchone()
        return str(row[0])

    def _verify_tail(self, rows: int = 200) -> LedgerRow:
        """Check the last rows against their hashes and each other; return the last."""
        tail = self._db.execute(
            "SELECT seq, data, sha256 FROM rows ORDER BY seq DESC LIMIT ?", (rows,)
        ).fetchall()
        stored = [LedgerRow(*row) for row in reversed(tail)]
        broken = first_broken(stored)
        if broken is not None:
            self.close()
            raise LedgerDamaged(
                f"{self._folder}: row {broken} does not follow from the row before; "
                "move the folder aside (do not delete it) and start with a new one"
            )
        return stored[-1] if stored else LedgerRow(0, b"", FIRST_PREVIOUS)


def _stamp() -> dict[str, Any]:
    """When and where an entry is written."""
    return {
        "utc": clock.utc_now(),
        "monotonic_ns": time.monotonic_ns(),
        "boot_id": clock.boot_id(),
        "clock_synchronised": clock.is_synchronised(),
        "software": __version__,
    }


def _reserve(path: Path) -> None:
    """Keep room for when the disk is full: even deleting needs some."""
    if not path.exists() or path.stat().st_size != _RESERVE_BYTES:
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, _RESERVE_BYTES)


def _connect(path: Path) -> sqlite3.Connection:
    path.touch(mode=0o660)  # as the umask allows; who reads must share SQLite's index
    db = sqlite3.connect(path, timeout=10)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA secure_delete = OFF")  # Debian's is on: deleting would need room
    return db
