"""Copy a ledger or an archive while it is at work, and prove the copy.

SQLite's backup copies the state of one moment, while the writer goes on. To copy the
file with `cp` would leave out the rows that are still in its log, or mix two moments.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from edge.archive.store import Store
from edge.errors import HemascopeError
from edge.ledger.rows import LedgerRow, first_broken, lenient_text

_BUSY_S = 30


class BackupFailed(HemascopeError):
    """There is no new copy, or it is damaged; an earlier copy was kept."""


def back_up(database: Path, copy: Path) -> str:
    """Copy `database`, verify every row of the copy, then give it the name `copy`.

    Returns a sentence on what it holds. An earlier copy of that name is replaced only
    by one that is whole.

    Raises
    ------
    BackupFailed
        The file is neither ledger nor archive or cannot be read, a row is altered, or
        the copy cannot be written.
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
        description = _verify(draft)
        _finish_file(draft)
        draft.replace(copy)
    except (sqlite3.Error, OSError) as error:
        raise BackupFailed(
            f"{database} to {copy}: {error}; check both disks and their permissions"
        ) from error
    finally:
        draft.unlink(missing_ok=True)
    return description


def _copy(database: Path, draft: Path) -> None:
    """Copy all pages in one step.

    In several steps, every write to the database between two of them would make SQLite
    begin again, and beside a busy writer the copy would never end.
    """
    uri = f"{database.resolve().as_uri()}?mode=ro"
    with (
        closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_S)) as source,
        closing(sqlite3.connect(draft)) as target,
    ):
        source.backup(target, pages=-1)


def _verify(draft: Path) -> str:
    """Check every row; return a sentence on what the copy holds."""
    with closing(sqlite3.connect(draft)) as db:
        db.text_factory = lenient_text
        names = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
        if {"rows", "meta"} <= names:
            broken = first_broken(_ledger_rows(db))
            (count,) = db.execute("SELECT count(*) FROM rows").fetchone()
            kind, damaged = "ledger", [] if broken is None else [f"row {broken}"]
        elif {"rows", "holes"} <= names:
            (count,) = db.execute("SELECT count(*) FROM rows").fetchone()
            kind, damaged = "archive", list(_broken_chains(draft))
        else:
            raise BackupFailed(f"{draft}: neither a ledger nor an archive; name one")
    if damaged:
        raise BackupFailed(
            f"the {kind} is damaged at {', '.join(damaged)}; keep the earlier copy, "
            "and see docs/operations.md"
        )
    return f"{kind} of {count:,} rows, all intact"


def _ledger_rows(db: sqlite3.Connection) -> Iterator[LedgerRow]:
    for row in db.execute(
        "SELECT seq, CAST(data AS BLOB), sha256 FROM rows ORDER BY seq"
    ):
        yield LedgerRow(*row)


def _broken_chains(path: Path) -> Iterator[str]:
    with closing(Store(path, must_exist=True)) as store:
        for chain in store.chains():
            broken = store.verify(chain)
            if broken is not None:
                yield f"row {broken} of {chain.device} {chain.epoch}"


def _finish_file(draft: Path) -> None:
    """Make the copy one file without a log, and flush it to the disk."""
    with closing(sqlite3.connect(draft)) as db:
        db.execute("PRAGMA journal_mode = DELETE")
    with draft.open("rb") as file:
        os.fsync(file.fileno())
