"""A stored row, its hash chain, and what can be wrong with it.

Row n carries the sha256 of the bytes of row n - 1. This is the linked time-stamping of
Haber and Stornetta ("How to time-stamp a digital document", J. Cryptology 3, 1991),
without their time-stamping service. It shows damage and mistakes: a bit that the disk
lost, a row that is missing, two ledgers that were mixed. It is no signature: whoever
may write the file can compute a new chain. The copy in the archive guards against that.
"""

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
    """The ledger cannot be used: a row does not follow, or the file is not readable."""


class LedgerMoved(LedgerDamaged):
    """The open ledger is no longer in its folder: moved, replaced or deleted."""


class LedgerOutdated(LedgerDamaged):
    """The ledger lacks rows that the archive has acknowledged: an old copy of it."""

    exit_code = 78  # as of a wrong setting: to start again will not help


class LedgerFull(HemascopeError):
    """The disk is full: no result can be stored, so acquisition must stop."""


class RowRefused(HemascopeError):
    """A result cannot be a row: it is too large, or JSON cannot carry it."""


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """A stored row: its number, the bytes that are sent, and their sha256 in hex."""

    seq: int
    data: bytes
    sha256: str

    @property
    def is_intact(self) -> bool:
        """Whether the bytes still have the hash that was stored with them."""
        return hashlib.sha256(self.data).hexdigest() == self.sha256


def lenient_text(stored: bytes) -> str:
    """Decode text of a ledger's file, whatever a bad disk has made of it.

    SQLite's own decoder raises on a damaged hash, so one row would stop all reading.
    """
    return stored.decode("utf-8", "replace")


def first_broken(
    rows: Iterable[LedgerRow], after_holes: Container[int] = ()
) -> int | None:
    """Return the number of the first row that is altered or does not follow, else None.

    Rows numbered in `after_holes` come directly after rows that are known to be gone.
    """
    previous: LedgerRow | None = None
    for row in rows:
        # Only the head is decoded: rows of later versions have fields that we do not
        # know, and must still prove that they belong to the chain.
        try:
            head = decode(row.data, ResultHead)
        except PayloadInvalid:
            return row.seq
        # The first row given has no row before it here: pruning deletes the oldest
        # rows, so a ledger rarely begins with row 1.
        follows = (
            previous is None
            or row.seq in after_holes
            or (head.prev == previous.sha256 and row.seq == previous.seq + 1)
        )
        # The stored hash is compared with the bytes as well. `prev` alone would not
        # show an altered last row, since no later row carries its hash.
        if not (follows and row.is_intact and head.seq == row.seq):
            return row.seq
        previous = row
    return None


def explain_sqlite_error(folder: Path, error: Exception) -> HemascopeError:
    """Return an error that tells the operator what to do about this one."""
    text = str(error)
    # Python gives SQLite's error number only since 3.11, so its text decides. The text
    # of an `OSError` names a file, and a file may be called "full": there the number
    # decides.
    if isinstance(error, OSError):
        is_full = error.errno == errno.ENOSPC
    else:
        is_full = "full" in text
    if is_full:
        return LedgerFull(
            f"{folder}: the disk is full; no stored row is lost. Free some "
            "space, or start the archive again so that rows may be deleted, then start "
            "this process again"
        )
    return LedgerDamaged(
        f"{folder}: {text}; check the disk and the folder's permissions"
    )
