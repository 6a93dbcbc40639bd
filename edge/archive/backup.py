"""Copy a ledger or an archive while it is at work, and prove the copy.

SQLite copies the state of one moment; whoever writes goes on. Copying the file with
`cp` would leave out what is still in its log, or mix two moments.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from edge.archive.store import Store
from edge.errors import HemascopeError
from edge.ledger.rows import LedgerRow, first_broken

_BUSY_S = 30


class BackupFailed(HemascopeError):
    """There is no copy, or it is not what it should be; an earlier one was kept."""


def back_up(database: Path, copy: Path) -> str:
    """Copy `database`, verify every row of the copy, then give it the name `copy`.

    Returns what it holds, for people. An earlier copy of that name is replaced only by
    one that is whole.

    Raises
    ------
    BackupFailed
        It is neither ledger nor archive, cannot be read, or a row is altered; the disk
        of the copy does not take it.
    """
    if not database.is_file():
        raise BackupFailed(f"{database}: no such file; name a ledger or an archive")
    draft = copy.with_name(copy.name + ".part")
    if draft.resolve() == database.resolve() or copy.resolve() == database.resolve():
        raise BackupFailed(f"{copy}: is the database itself; name another file")
    try:
        draft.unlink(missing_ok=True)
        draft.touch(mode=0o600)  # it holds what the database holds
        _copy(database, draft)
        held = _verify(draft)
        _settle(draft)
        draft.replace(copy)
    except (sqlite3.Error, OSError) as error:
        raise BackupFailed(
            f"{database} to {copy}: {error}; check both disks and their rights"
        ) from error
    finally:
        draft.unlink(missing_ok=True)
    return held


def _copy(database: Path, draft: Path) -> None:
    """Copy all pages in one read transaction: in steps, each write would begin anew."""
    uri = f"{database.resolve().as_uri()}?mode=ro"
    with (
        closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_S)) as source,
        closing(sqlite3.connect(draft)) as target,
    ):
        source.backup(target, pages=-1)


def _verify(draft: Path) -> str:
    """Check every row; return what the copy holds."""
    with closing(sqlite3.connect(draft)) as db:
        names = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
        if {"rows", "meta"} <= names:
            wrong = first_broken(_rows(db))
            (held,) = db.execute("SELECT count(*) FROM rows").fetchone()
            text, broken = "ledger", [] if wrong is None else [f"row {wrong}"]
        elif {"rows", "holes"} <= names:
            (held,) = db.execute("SELECT count(*) FROM rows").fetchone()
            text, broken = "archive", list(_broken_chains(draft))
        else:
            raise BackupFailed(f"{draft}: neither a ledger nor an archive; name one")
    if broken:
        raise BackupFailed(
            f"the {text} is damaged at {', '.join(broken)}; keep the earlier copy, and "
            "see docs/operations.md"
        )
    return f"{text} of {held:,} rows, all intact"


def _rows(db: sqlite3.Connection) -> Iterator[LedgerRow]:
    for row in db.execute("SELECT seq, data, sha256 FROM rows ORDER BY seq"):
        yield LedgerRow(*row)


def _broken_chains(path: Path) -> Iterator[str]:
    with closing(Store(path, must_exist=True)) as store:
        for chain in store.chains():
            wrong = store.verify(chain)
            if wrong is not None:
                yield f"row {wrong} of {chain.device} {chain.epoch}"


def _settle(draft: Path) -> None:
    """Make the copy one file that no power cut takes back."""
    with closing(sqlite3.connect(draft)) as db:
        db.execute("PRAGMA journal_mode = DELETE")
    with draft.open("rb") as file:
        os.fsync(file.fileno())
