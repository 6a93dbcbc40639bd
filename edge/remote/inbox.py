"""What the publisher hands to the run process: admitted requests, refusals, alarms.

The publisher has the network and the run process the devices; neither can reach the
other but through this file beside the ledger. The publisher alone writes it and the run
process alone writes the ledger: each reads how far the other is. What was handed over
counts as taken when the ledger's row about it is committed, and only then is it deleted
here.

SQLite with a rollback journal and not WAL: a reader needs no right to write anything.
"""

from __future__ import annotations

import logging
import sqlite3
import uuid
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from edge.errors import HemascopeError
from edge.schema.codec import encode
from edge.schema.entries import Alarm, Audit

log = logging.getLogger(__name__)

MOST_WAITING = 16  # admitted requests that wait for the run process
MOST_ENTRIES = 1000  # what is only to be written, while the run process is away
_FILE = "inbox.sqlite"
_WAIT_S = 1.0  # for the other process


class InboxFailed(HemascopeError):
    """The inbox cannot be read or written: the disk, its rights, or its content."""


class InboxFull(HemascopeError):
    """The run process does not take over what waits for it."""


@dataclass(frozen=True, slots=True)
class InboxItem:
    """One thing handed over.

    A request: `name` is its command, `data` its bytes as they came, `client` the name
    that its sender gave. Else `name` is None and `data` an entry for the ledger.
    """

    number: int
    name: str | None
    client: str | None
    data: bytes


class Inbox:
    """The publisher's side. Used from one thread; only one may exist."""

    def __init__(self, folder: Path) -> None:
        """Open or create the inbox in `folder`; a damaged one is put aside.

        Raises
        ------
        InboxFailed
            It cannot be opened.
        """
        self._path = folder / _FILE
        try:
            self._open()
        except sqlite3.OperationalError as error:  # no room, no right: not its content
            raise _explain(self._path, error) from error
        except (sqlite3.Error, TypeError) as error:
            log.error("%s is damaged and put aside: %s", self._path, error)
            self._path.replace(self._path.with_suffix(".damaged"))
            self._open()

    def hand_request(
        self, name: str, request: str, data: bytes, client: str | None
    ) -> None:
        """Hand over an admitted request with id `request`, durably.

        Raises
        ------
        InboxFull
            Too many requests wait already.
        InboxFailed
            It cannot be written; nothing was handed over.
        """
        if self._waiting("name IS NOT NULL") >= MOST_WAITING:
            raise InboxFull(
                f"{MOST_WAITING} requests wait already; is `hemascope run` running?"
            )
        self._insert(name, request, client, data)

    def hand_entry(self, entry: Alarm | Audit) -> None:
        """Hand over what shall be written to the ledger; raises as `hand_request`."""
        if self._waiting("name IS NULL") >= MOST_ENTRIES:
            raise InboxFull(
                f"{MOST_ENTRIES} entries wait already; is `hemascope run` running?"
            )
        self._insert(None, None, None, encode(entry))

    def holds(self, request: str) -> bool:
        """Whether a request with this id waits here."""
        try:
            found = self._db.execute(
                "SELECT 1 FROM items WHERE request = ?", (request,)
            ).fetchone()
        except sqlite3.Error as error:
            raise _explain(self._path, error) from error
        return found is not None

    def clear(self, upto: int) -> None:
        """Delete what the ledger says was taken over; what is left is tried again."""
        try:
            with self._db:
                self._db.execute("DELETE FROM items WHERE number <= ?", (upto,))
        except sqlite3.Error as error:
            raise _explain(self._path, error) from error

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        self._db.close()

    def _open(self) -> None:
        self._db = sqlite3.connect(self._path, timeout=_WAIT_S)
        self._db.execute("PRAGMA synchronous = EXTRA")
        with self._db:
            for table in _TABLES:
                self._db.execute(table)
            self._db.execute(
                "INSERT OR IGNORE INTO meta VALUES ('id', ?)", (str(uuid.uuid4()),)
            )
        self.id = _id_of(self._db)

    def _waiting(self, which: str) -> int:
        query = f"SELECT count(*) FROM items WHERE {which}"  # noqa: S608 our own words
        try:
            return int(self._db.execute(query).fetchone()[0])
        except sqlite3.Error as error:
            raise _explain(self._path, error) from error

    def _insert(self, *row: str | bytes | None) -> None:
        try:
            with self._db:
                self._db.execute(
                    "INSERT INTO items (name, request, client, data) "
                    "VALUES (?, ?, ?, ?)",
                    row,
                )
        except sqlite3.Error as error:
            raise _explain(self._path, error) from error


def look_into(folder: Path, limit: int = 50) -> tuple[str, list[InboxItem]]:
    """Return the id of the inbox and what waits in it, oldest first; ("", []) if none.

    The file is opened anew each time: the publisher may have replaced it.

    Raises
    ------
    InboxFailed
        It cannot be read now.
    """
    path = folder / _FILE
    if not path.exists():
        return "", []
    uri = f"{path.resolve().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=_WAIT_S)) as db:
            rows = db.execute(
                "SELECT number, name, client, data FROM items ORDER BY number LIMIT ?",
                (limit,),
            ).fetchall()
            return _id_of(db), [InboxItem(*row) for row in rows]
    except sqlite3.Error as error:
        raise _explain(path, error) from error


def _id_of(db: sqlite3.Connection) -> str:
    return str(db.execute("SELECT value FROM meta WHERE key = 'id'").fetchone()[0])


def _explain(path: Path, error: sqlite3.Error) -> InboxFailed:
    return InboxFailed(
        f"{path}: {error}; check the disk and the rights, or stop `hemascope publish` "
        "and delete this file: requests that wait in it are lost, results are not"
    )


_TABLES = (
    "CREATE TABLE IF NOT EXISTS items (number INTEGER PRIMARY KEY AUTOINCREMENT, "
    "name TEXT, request TEXT UNIQUE, client TEXT, data BLOB NOT NULL) STRICT",
    "CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) "
    "STRICT",
)
