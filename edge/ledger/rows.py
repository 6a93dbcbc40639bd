"""A stored row, its hash chain, and what can be wrong with it."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Container, Iterable
from dataclasses import dataclass
from pathlib import Path

from edge.errors import HemascopeError
from edge.schema.codec import PayloadInvalid, decode
from edge.schema.results import ResultHead

LEDGER_FILE, RESERVE_FILE = "ledger.sqlite", "reserve"


class LedgerDamaged(HemascopeError):
    """The ledger's rows do not follow from each other."""


class LedgerFull(HemascopeError):
    """The disk has no room: results can no longer be kept, so none may be made."""


class RowRefused(HemascopeError):
    """A result cannot be a row: too large, or not writable as JSON."""


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """A stored row: its number, the bytes that are sent, and their sha256 in hex."""

    seq: int
    data: bytes
    sha256: str


def first_broken(
    rows: Iterable[LedgerRow], after_holes: Container[int] = ()
) -> int | None:
    """Return the first row that is altered or does not follow; None if all do.

    Rows numbered in `after_holes` come after rows that are known to be gone.
    """
    before: LedgerRow | None = None
    for row in rows:
        try:
            head = decode(row.data, ResultHead)
        except PayloadInvalid:
            return row.seq
        follows = (
            before is None
            or row.seq in after_holes
            or (head.prev == before.sha256 and row.seq == before.seq + 1)
        )
        is_intact = hashlib.sha256(row.data).hexdigest() == row.sha256
        if not (follows and is_intact and head.seq == row.seq):
            return row.seq
        before = row
    return None


def explain_sqlite_error(folder: Path, error: Exception) -> HemascopeError:
    """Say what a database or disk error means for the operator."""
    text = str(error)
    if isinstance(error, OSError):  # its text names a file, which may be called so
        is_full = error.errno == errno.ENOSPC
    else:
        is_full = "full" in text
    if is_full:
        return LedgerFull(
            f"{folder}: the disk is full; nothing acknowledged is lost. Free some "
            "space, or bring the archive back so that rows may be deleted, then start "
            "again"
        )
    return LedgerDamaged(f"{folder}: {text}; check the disk and the folder's rights")
