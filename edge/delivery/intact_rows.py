"""The rows of a ledger that may be delivered: those that are still as written.

A bit that the disk lost would make the archive hold a result that nobody measured. So
each row is compared with its hash before it is sent. One that differs goes nowhere. It
is named, and later rows are delivered as after rows that were deleted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from edge.ledger.reader import LedgerReader
from edge.ledger.rows import LedgerRow
from edge.rate_limit import RateLimit

log = logging.getLogger(__name__)

_SEARCH_ROWS = 50


class IntactRows:
    """Reads the rows that may be delivered. Used from the publisher's thread."""

    def __init__(self, ledger: LedgerReader, on_damage: Callable[[str], None]) -> None:
        """`on_damage` is called with a text each time that damaged rows are met."""
        self._ledger, self._on_damage = ledger, on_damage
        self._damaged: set[int] = set()
        self._log_limit = RateLimit(20, 0.2)

    def following(self, after: int, limit: int) -> list[LedgerRow]:
        """Return up to `limit` rows that follow row `after` without a hole."""
        found: list[LedgerRow] = []
        for row in self._ledger.rows(after, limit):
            if row.seq != after + 1 or not self._check(row):
                break
            found.append(row)
            after = row.seq
        return found

    def newest(self, after: int, limit: int) -> list[LedgerRow]:
        """Return the intact ones of up to `limit` rows after row `after`."""
        return [row for row in self._ledger.rows(after, limit) if self._check(row)]

    def next_after(self, seq: int) -> LedgerRow | None:
        """Return the first intact row after row `seq`; None if there is none yet."""
        while rows := self._ledger.rows(seq, _SEARCH_ROWS):
            for row in rows:
                if self._check(row):
                    return row
                seq = row.seq
        return None

    def _check(self, row: LedgerRow) -> bool:
        """Whether a row is as written; name it if not."""
        if row.is_intact:
            return True
        if row.seq not in self._damaged:
            self._damaged.add(row.seq)
            if self._log_limit.try_acquire():
                log.error(
                    "row %d of this device's own ledger is damaged: its bytes and its "
                    "hash differ; it is not sent, check the disk",
                    row.seq,
                )
        first, last = min(self._damaged), max(self._damaged)
        which = f"row {first}" if first == last else f"rows between {first} and {last}"
        self._on_damage(
            f"{len(self._damaged)} damaged in this device's own ledger, {which}; "
            "not sent"
        )
        return False
