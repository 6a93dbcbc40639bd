"""Read a ledger that another process writes.

In WAL mode a reader sees the state of its last commit and never blocks the writer, nor
the writer a reader (https://www.sqlite.org/wal.html). So the publisher and `doctor` may
read at any time without delaying a result.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from edge.ledger.ledger_state import LedgerState
from edge.ledger.opened_file import OpenedFile
from edge.ledger.rows import (
    LEDGER_FILE,
    LedgerDamaged,
    LedgerRow,
    explain_sqlite_error,
    lenient_text,
)
from edge.schema.results import FIRST_PREVIOUS


class LedgerReader:
    """Reads a ledger that another process writes. Used from one thread."""

    def __init__(self, folder: Path) -> None:
        """Open the ledger in `folder`; raises `LedgerDamaged` where there is none."""
        path = folder / LEDGER_FILE
        if not path.exists():
            raise LedgerDamaged(f"{folder}: holds no ledger yet; start `hemascope run`")
        self._file = OpenedFile(path)
        # `mode=ro` forbids writing rows. SQLite still needs the right to write the file
        # "-shm" beside the ledger, in which readers and the writer agree on what may be
        # read: hence the file modes in `writer.py`.
        uri = f"{path.resolve().as_uri()}?mode=ro"
        self._db = sqlite3.connect(uri, uri=True, timeout=10)
        self._db.text_factory = lenient_text
        self.state = LedgerState(self._db)
        try:
            meta = dict(self._db.execute("SELECT key, value FROM meta").fetchall())
            self.device, self.epoch = meta["device"], meta["epoch"]
        except (sqlite3.Error, KeyError) as error:
            self._db.close()
            raise explain_sqlite_error(folder, error) from error

    @property
    def is_in_place(self) -> bool:
        """Whether the folder still holds the file that was opened.

        Without this test a publisher would go on reading a ledger that nobody writes
        any more.
        """
        return self._file.is_in_place

    def span(self) -> tuple[int, int]:
        """Numbers of the oldest and the newest row; (1, 0) if there is none."""
        # Two queries in one: SQLite finds each end by the key. min(seq) and max(seq)
        # in the same SELECT would read every row.
        low, high = self._db.execute(
            "SELECT (SELECT min(seq) FROM rows), (SELECT max(seq) FROM rows)"
        ).fetchone()
        return int(low or 1), int(high or 0)

    def rows(self, after: int, limit: int) -> list[LedgerRow]:
        """Return up to `limit` rows that follow row `after`, oldest first."""
        # A list and not a cursor: an open cursor would hold its read transaction, and
        # then SQLite could not copy the log back into the file.
        found = self._db.execute(
            "SELECT seq, CAST(data AS BLOB), sha256 FROM rows WHERE seq > ? "
            "ORDER BY seq LIMIT ?",
            (after, limit),
        )
        return [LedgerRow(*row) for row in found.fetchall()]

    def sha256(self, seq: int) -> str | None:
        """Return the hash of row `seq`; None if the ledger does not hold this row."""
        if seq == 0:
            return FIRST_PREVIOUS
        found = self._db.execute(
            "SELECT sha256 FROM rows WHERE seq = ?", (seq,)
        ).fetchone()
        return None if found is None else str(found[0])

    def close(self) -> None:
        """Close the file."""
        self._db.close()
