"""What the publisher passes to the run process: admitted requests, refusals, alarms.

The publisher has the network, and the run process has the camera. They share nothing
but files in the ledger's folder, and each file has one writer: the publisher writes
this one, the run process writes the ledger. Each reads how far the other is. An item is
taken over when the transaction with the ledger's row about it is committed. Only then
the publisher deletes it here. So an item is neither lost nor carried out twice, whoever
dies when.

SQLite with a rollback journal and not WAL: its readers need no right to write a file.
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

MAX_WAITING_REQUESTS = 16  # admitted requests
MAX_WAITING_ENTRIES = 1000  # refusals and alarms
_FILE = "inbox.sqlite"
_WAIT_S = 1.0  # for a lock that the other process holds


class InboxFailed(HemascopeError):
    """The inbox cannot be read or written: the disk, permissions, or its content."""


class InboxFull(HemascopeError):
    """Too many items wait for the run process."""


@dataclass(frozen=True, slots=True)
class InboxItem:
    """One item for the run process.

    A request: `name` is its command, `data` its bytes as they arrived, `client` the
    name that its sender gave itself. Else `name` is None, and `data` is an entry that
    the run process writes to the ledger.
    """

    number: int
    name: str | None
    client: str | None
    data: bytes


class Inbox:
    """The publisher's side. Used from one thread; only one may exist."""

    def __init__(self, folder: Path) -> None:
        """Open or create the inbox in `folder`; a damaged one is renamed.

        Raises
        ------
        InboxFailed
            It cannot be opened.
        """
        self._path = folder / _FILE
        try:
            self._open()
        except (
            sqlite3.OperationalError
        ) as error:  # no room or no permission: its content is fine
            raise _explain_error(self._path, error) from error
        except (sqlite3.Error, TypeError) as error:
            log.error("%s is damaged and was renamed: %s", self._path, error)
            self._path.replace(self._path.with_suffix(".damaged"))
            self._open()

    def add_request(
        self, name: str, request: str, data: bytes, client: str | None
    ) -> None:
        """Add an admitted request with id `request`, durably.

        Raises
        ------
        InboxFull
            Too many requests wait already.
        InboxFailed
            It cannot be written; nothing was added.
        """
        if self._count("name IS NOT NULL") >= MAX_WAITING_REQUESTS:
            raise InboxFull(
                f"{MAX_WAITING_REQUESTS} requests wait already; is `hemascope run` "
                "running?"
            )
        self._insert(name, request, client, data)

    def add_entry(self, entry: Alarm | Audit) -> None:
        """Add an entry for the ledger; raises as `add_request` does."""
        if self._count("name IS NULL") >= MAX_WAITING_ENTRIES:
            raise InboxFull(
                f"{MAX_WAITING_ENTRIES} entries wait already; is `hemascope run` "
                "running?"
            )
        self._insert(None, None, None, encode(entry))

    def contains(self, request: str) -> bool:
        """Whether a request with this id waits here."""
        try:
            found = self._db.execute(
                "SELECT 1 FROM items WHERE request = ?", (request,)
            ).fetchone()
        except sqlite3.Error as error:
            raise _explain_error(self._path, error) from error
        return found is not None

    def delete_taken(self, upto: int) -> None:
        """Delete the items up to number `upto`, which the ledger has taken over."""
        try:
            with self._db:
                self._db.execute("DELETE FROM items WHERE number <= ?", (upto,))
        except sqlite3.Error as error:
            raise _explain_error(self._path, error) from error

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
        self.id = _read_id(self._db)

    def _count(self, condition: str) -> int:
        query = f"SELECT count(*) FROM items WHERE {condition}"  # noqa: S608 no outside text
        try:
            return int(self._db.execute(query).fetchone()[0])
        except sqlite3.Error as error:
            raise _explain_error(self._path, error) from error

    def _insert(self, *row: str | bytes | None) -> None:
        try:
            with self._db:
                self._db.execute(
                    "INSERT INTO items (name, request, client, data) "
                    "VALUES (?, ?, ?, ?)",
                    row,
                )
        except sqlite3.Error as error:
            raise _explain_error(self._path, error) from error


def read_inbox(folder: Path, limit: int = 50) -> tuple[str, list[InboxItem]]:
    """Return the id of the inbox and its items, oldest first; ("", []) without one.

    The file is opened each time: the publisher may have replaced it.

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
            return _read_id(db), [InboxItem(*row) for row in rows]
    except sqlite3.Error as error:
        raise _explain_error(path, error) from error


def _read_id(db: sqlite3.Connection) -> str:
    return str(db.execute("SELECT value FROM meta WHERE key = 'id'").fetchone()[0])


def _explain_error(path: Path, error: sqlite3.Error) -> InboxFailed:
    return InboxFailed(
        f"{path}: {error}; check the disk and the permissions, or stop `hemascope "
        "publish` and delete this file: that loses the requests in it, and no result"
    )


_TABLES = (
    "CREATE TABLE IF NOT EXISTS items (number INTEGER PRIMARY KEY AUTOINCREMENT, "
    "name TEXT, request TEXT UNIQUE, client TEXT, data BLOB NOT NULL) STRICT",
    "CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) "
    "STRICT",
)
