"""The ledger: every result, in order, on disk before anything else happens to it.

SQLite in WAL mode with `synchronous=FULL`. A commit returns only after its pages were
appended to the log and the log was flushed to the disk. A power cut then loses nothing
that was committed. `synchronous=NORMAL` would be faster, but flushes the log only at
checkpoints: the last commits could be lost, and the archive might already hold them
(https://www.sqlite.org/pragma.html#pragma_synchronous).

Invariants, on disk after every commit:

- Rows are numbered without a gap. Each carries the sha256 of the row before it, see
  `rows.py`.
- The tables of `LedgerState` say what the rows say.
- A row stays until the archive has acknowledged it with its hash. The last row always
  stays: the next one follows from it.
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
from edge.ledger.cursor import WRITER_LOCK, acquire_lock, read_cursor
from edge.ledger.ledger_state import InboxPosition, LedgerState
from edge.ledger.opened_file import OpenedFile
from edge.ledger.rows import (
    LEDGER_FILE,
    RESERVE_FILE,
    LedgerDamaged,
    LedgerFull,
    LedgerMoved,
    LedgerOutdated,
    LedgerRow,
    RowRefused,
    explain_sqlite_error,
    first_broken,
    lenient_text,
)
from edge.schema.codec import PayloadInvalid, encode
from edge.schema.entries import Entry, EntryContent
from edge.schema.results import FIRST_PREVIOUS, FrameResult, Result
from edge.schema.row_limits import MAX_ROW_BYTES

log = logging.getLogger(__name__)

T = TypeVar("T")

_SCHEMA_VERSION = 1
_RESERVE_BYTES = 4 << 20
# Rows deleted in one transaction: a longer deletion would delay the next result.
_MAX_PRUNED_ROWS = 5000
_CHECKED_ROWS = 200


class Ledger:
    """The writer of one ledger folder. Used from one thread; only one may exist."""

    def __init__(self, folder: Path, device: str) -> None:
        """Open or create the ledger in `folder`.

        Raises
        ------
        LedgerBusy
            Another process has it open for writing.
        LedgerDamaged
            The file is no ledger of this device, or its last rows are not as written.
        LedgerOutdated
            The archive has acknowledged rows that it does not hold.
        LedgerFull
            There is no room to create it.
        """
        self._folder, self.device = folder, device
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = acquire_lock(folder / WRITER_LOCK, "writes")
        except OSError as error:
            raise explain_sqlite_error(folder, error) from error
        try:
            _create_reserve(folder / RESERVE_FILE)
            self._db = _connect(folder / LEDGER_FILE)
            self.state = LedgerState(self._db)
            self._create_tables()
            database = folder / LEDGER_FILE
            self._file = OpenedFile(database, database.with_name(f"{LEDGER_FILE}-wal"))
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
        last = self._verify_last_rows()
        self.seq, self._previous_hash = last.seq, last.sha256
        self._check_against_cursor()

    def append(self, content: FrameResult | EntryContent) -> LedgerRow:
        """Store the result of one frame, or an entry, durably; return its row.

        Raises
        ------
        RowRefused
            It is too large or cannot be written; nothing was stored.
        LedgerFull
            The disk is full; nothing was stored, and acquisition must stop.
        LedgerMoved
            The ledger is no longer in its folder: nobody will deliver the row.
        """
        return self.append_all([content])[0]

    def append_all(
        self,
        contents: Sequence[FrameResult | EntryContent],
        inbox_position: InboxPosition | None = None,
    ) -> list[LedgerRow]:
        """Store several rows, and how far the inbox was taken over: all or nothing.

        Raises as `append` does.
        """
        rows: list[LedgerRow] = []
        seq, previous_hash = self.seq, self._previous_hash
        for content in contents:
            rows.append(self._make_row(content, seq + 1, previous_hash))
            seq, previous_hash = rows[-1].seq, rows[-1].sha256
        # One transaction holds the rows, the tables that sum them up, and the position
        # in the inbox. A command writes its effect and its outcome here: after a crash
        # it was carried out and says so, or neither. Two transactions could leave an
        # effect that no row explains, or an item that is taken over twice.
        try:
            with self._db:
                for row, content in zip(rows, contents, strict=True):
                    self._db.execute(
                        "INSERT INTO rows VALUES (?, ?, ?)",
                        (row.seq, row.data, row.sha256),
                    )
                    self.state.record(row.seq, content)
                if inbox_position is not None:
                    self.state.record_inbox_position(inbox_position)
        except sqlite3.Error as error:
            raise explain_sqlite_error(self._folder, error) from error
        # Only after the commit: a failed one is rolled back, and its numbers are free
        # for the rows that are tried next. Else there would be a hole in the chain.
        self.seq, self._previous_hash = seq, previous_hash
        # A row is kept only if it is in the file that the next process will find. Asked
        # after the commit, as the file may go at any moment; it costs microseconds.
        self.check_in_place()
        return rows

    def _make_row(
        self, content: FrameResult | EntryContent, seq: int, previous_hash: str
    ) -> LedgerRow:
        """Write `content` as row `seq`, which follows the row with this hash."""
        ledger: dict[str, Any] = {"device": self.device, "epoch": self.epoch}
        row: Result | Entry
        if isinstance(content, FrameResult):
            fields = {f: getattr(content, f) for f in content.__struct_fields__}
            row = Result(**fields, **ledger, seq=seq, prev=previous_hash)
        else:
            now = _entry_stamp()
            row = Entry(**ledger, **now, seq=seq, prev=previous_hash, entry=content)
        # These bytes are stored, sent and archived as they are. Nobody encodes the row
        # again, so the hash holds on the whole way, whatever version decodes it.
        try:
            data = encode(row)
        except PayloadInvalid as error:
            raise RowRefused(str(error)) from error
        # Refused here and not by the broker later: a stored row that cannot be sent
        # would stop delivery for ever, since rows are delivered in order.
        if len(data) > MAX_ROW_BYTES:
            cells = len(content.cells) if isinstance(content, FrameResult) else 0
            raise RowRefused(
                f"the result of {cells} cells is {len(data)} bytes, more than the "
                f"{MAX_ROW_BYTES} that brokers take; look at a smaller field"
            )
        return LedgerRow(seq, data, hashlib.sha256(data).hexdigest())

    def check_in_place(self) -> None:
        """Check that the folder still holds the files that are written.

        Raises
        ------
        LedgerMoved
            They were moved, replaced or deleted.
        """
        if not self._file.is_in_place:
            raise LedgerMoved(
                f"{self._folder / LEDGER_FILE}: the ledger that was written was moved, "
                "replaced or deleted; nothing more is stored in it. Start again: a "
                "folder without a ledger gets a new one. If the old one was moved, "
                "keep it and deliver its rows from there"
            )

    def prune(self, keep: int) -> int:
        """Delete acknowledged rows but the last `keep`; return how many were deleted.

        A row that the archive has not acknowledged with the right hash is never
        deleted.
        """
        cursor = read_cursor(self._folder)
        if cursor is None or cursor.epoch != self.epoch:
            return 0
        # The cursor is a file that could be restored from a copy or belong to a ledger
        # that was restored. Only the hash proves that the archive has this very row.
        found = self._db.execute(
            "SELECT 1 FROM rows WHERE seq = ? AND sha256 = ?",
            (cursor.upto, cursor.hash),
        ).fetchone()
        if found is None:
            return 0
        # One acknowledged row stands for all before it: the archive takes a row only if
        # it follows from the last one it has.
        upto = min(cursor.upto, self.seq - keep)
        try:
            with self._db:
                deleted = self._db.execute(
                    "DELETE FROM rows WHERE seq IN "
                    "(SELECT seq FROM rows WHERE seq <= ? ORDER BY seq LIMIT ?)",
                    (upto, _MAX_PRUNED_ROWS),
                ).rowcount
                self.state.forget_pruned()
                return deleted
        except sqlite3.Error as error:
            raise explain_sqlite_error(self._folder, error) from error

    def with_room(self, append: Callable[[], T]) -> T:
        """Append by calling `append`; if the disk is full, make room and repeat once.

        Raises
        ------
        LedgerFull
            The disk is full, and no row may be deleted.
        """
        try:
            return append()
        except LedgerFull:
            deleted = self.make_room()
            if deleted == 0:
                raise
            log.warning("disk full: %d acknowledged rows deleted early", deleted)
        return append()

    def make_room(self) -> int:
        """Give up the reserve and all acknowledged rows, on a full disk.

        Returns how many rows were deleted. The file keeps its size: their room is used
        again by later rows of this ledger, and by nothing else on the disk.
        """
        # The reserve must go first. In WAL mode a deletion is written to the log before
        # it frees a page, so on a full disk deleting alone would fail as well. Where no
        # row may be deleted, the reserve still holds the row that says why we stop.
        (self._folder / RESERVE_FILE).unlink(missing_ok=True)
        total = 0
        while (deleted := self.prune(keep=1)) > 0:
            total += deleted
        return total

    @property
    def spare_bytes(self) -> int:
        """Free room inside the ledger's file, left by deleted rows for later ones."""
        pages, page_bytes = (
            int(self._db.execute(f"PRAGMA {name}").fetchone()[0])
            for name in ("freelist_count", "page_size")
        )
        return pages * page_bytes

    def close(self) -> None:
        """Close the file and release the lock. Safe to call twice."""
        self._db.close()
        self._lock.close()

    def _create_tables(self) -> None:
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
            # A random epoch and not a time: a clock may be wrong or set back, and two
            # ledgers of one device must never be taken for the same.
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

    def _verify_last_rows(self) -> LedgerRow:
        """Check the last rows against their hashes and each other; return the last."""
        # Only the last ones: a start must not take longer the more rows there are. What
        # was written before a crash is here; `hemascope backup` checks every row.
        newest = self._db.execute(
            "SELECT seq, CAST(data AS BLOB), sha256 FROM rows ORDER BY seq DESC "
            "LIMIT ?",
            (_CHECKED_ROWS,),
        ).fetchall()
        stored = [LedgerRow(*row) for row in reversed(newest)]
        broken = first_broken(stored)
        # A damaged ledger is not mended and not written to: new rows would hide what
        # happened, and the archive would refuse them.
        if broken is not None:
            self.close()
            raise LedgerDamaged(
                f"{self._folder}: row {broken} does not follow from the row before; "
                "move the folder away (do not delete it) and start with a new one"
            )
        return stored[-1] if stored else LedgerRow(0, b"", FIRST_PREVIOUS)

    def _check_against_cursor(self) -> None:
        """Check that every row that was acknowledged can have been written here.

        An old copy that was put back would give the numbers of its lost rows again, to
        rows that the archive then refuses. A cursor that is behind proves nothing: it
        is stored once per second.
        """
        cursor = read_cursor(self._folder)
        if cursor is None or cursor.epoch != self.epoch:
            return
        # A row that was pruned cannot be compared; then the archive went back itself.
        found = self._db.execute(
            "SELECT sha256 FROM rows WHERE seq = ?", (cursor.upto,)
        ).fetchone()
        if cursor.upto > self.seq:
            fault = f"ends with row {self.seq}"
        elif found is not None and found[0] != cursor.hash:
            fault = f"holds another row {cursor.upto}"
        else:
            return
        self.close()
        raise LedgerOutdated(
            f"{self._folder}: the archive has acknowledged row {cursor.upto}, and this "
            f"ledger {fault}; an older copy was put back. Move the folder away (do not "
            "delete it) and start with a new one, as docs/operations.md says under "
            '"The ledger was lost"'
        )


def _entry_stamp() -> dict[str, Any]:
    """Return when, and by which software, an entry is written.

    A result carries the same fields, but of the moment of its exposure.
    """
    return {
        "utc": clock.utc_now(),
        "monotonic_ns": time.monotonic_ns(),
        "boot_id": clock.boot_id(),
        "clock_synchronised": clock.is_synchronised(),
        "software": __version__,
    }


def _create_reserve(path: Path) -> None:
    """Reserve room for when the disk is full: even deleting rows needs some."""
    if not path.exists() or path.stat().st_size != _RESERVE_BYTES:
        # fallocate takes the blocks now. A file that is merely long would be sparse,
        # and deleting it would free nothing.
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, _RESERVE_BYTES)


def _connect(path: Path) -> sqlite3.Connection:
    # Created with the group's right to write, as far as the umask allows: processes
    # that only read must write SQLite's shared index, which takes over this mode.
    path.touch(mode=0o660)
    db = sqlite3.connect(path, timeout=10)
    db.text_factory = lenient_text
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    # Debian's SQLite overwrites deleted rows with zeros. Then deleting writes as many
    # pages as it frees, which a full disk does not allow.
    db.execute("PRAGMA secure_delete = OFF")
    return db
