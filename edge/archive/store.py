"""The archive's file: the rows of all devices, each ledger one unbroken chain.

A device's rows follow from each other: row n carries the sha256 of row n - 1. A row is
accepted if it is the next one and follows; a row already stored is dropped; a later
one is answered with where to resume. Rows that do not follow are kept aside, never
mixed in.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from edge.clock import utc_now
from edge.errors import HemascopeError
from edge.ledger.rows import LedgerRow, first_broken
from edge.mqtt import Message, device_of
from edge.rate_limit import RateLimit
from edge.schema.codec import PayloadInvalid, decode
from edge.schema.messages import DeviceState
from edge.schema.results import FIRST_PREVIOUS, ResultHead

log = logging.getLogger(__name__)


# Whatever is sent to the archive, it cannot fill the disk or the memory with it.
MOST_ASIDE, MOST_ASIDE_BYTES = 10_000, 64 << 20
_MOST_CHAINS = 1000


class ArchiveFailed(HemascopeError):
    """The archive's disk or file does not take rows; nothing was acknowledged."""


class Receipt(Enum):
    """What became of a message."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    AHEAD = "ahead"
    QUARANTINED = "quarantined"


@dataclass(frozen=True, slots=True)
class Chain:
    """One ledger of one device."""

    device: str
    epoch: str


class Store:
    """The archive's file. Used from one thread."""

    def __init__(self, path: Path, *, must_exist: bool = False) -> None:
        """Open or create the archive; where it `must_exist`, only to read it.

        Raises
        ------
        ArchiveFailed
            The file cannot be opened, or is not there although it must.
        """
        if must_exist and not path.is_file():
            raise ArchiveFailed(f"{path}: no such archive; check [archive] file")
        try:
            if must_exist:
                self._db = _opened_to_read(path)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._db = sqlite3.connect(path, timeout=10)
                self._db.executescript(_TABLES)
            self._aside = self._count_aside()
        except (sqlite3.Error, OSError) as error:
            raise ArchiveFailed(
                f"{path}: {error}; check the disk and its rights"
            ) from error
        self._oldest: dict[Chain, int] = {}
        self._not_kept = 0
        self._complaints = RateLimit(20, 0.2)

    def take(self, messages: Iterable[Message]) -> dict[Chain, Receipt]:
        """Store messages of result topics in one transaction; return the last verdicts.

        Raises
        ------
        ArchiveFailed
            The disk does not take them: none of them is stored.
        """
        verdicts: dict[Chain, Receipt] = {}
        try:
            with self._db:
                for message in messages:
                    chain, verdict = self._judge(message)
                    if chain is not None:
                        verdicts[chain] = verdict
        except sqlite3.Error as error:
            raise ArchiveFailed(f"the archive takes no rows: {error}") from error
        return verdicts

    def expect(self, state: DeviceState) -> Chain:
        """Note the oldest row that a device still has, so that a hole can be seen."""
        chain = Chain(state.device, state.epoch)
        self._oldest.pop(chain, None)
        self._oldest[chain] = state.oldest
        if len(self._oldest) > _MOST_CHAINS:  # the one not heard of for longest
            del self._oldest[next(iter(self._oldest))]
        return chain

    def cursor(self, chain: Chain) -> tuple[int, str]:
        """Return number and hash of the last row stored; (0, zeros) without any."""
        found = self._db.execute(
            "SELECT seq, sha256 FROM rows WHERE device = ? AND epoch = ? "
            "ORDER BY seq DESC LIMIT 1",
            (chain.device, chain.epoch),
        ).fetchone()
        return (int(found[0]), str(found[1])) if found else (0, FIRST_PREVIOUS)

    def chains(self) -> list[Chain]:
        """Every ledger of which something is stored."""
        found: list[Chain] = []
        at = ("", "")
        while at is not None:  # from one to the next by the key, not over all rows
            at = self._db.execute(
                "SELECT device, epoch FROM rows WHERE (device, epoch) > (?, ?) "
                "ORDER BY device, epoch LIMIT 1",
                at,
            ).fetchone()
            if at is not None:
                found.append(Chain(*at))
        return found

    def rows(
        self, chain: Chain, first: int = 1, last: int = 2**53
    ) -> Iterator[LedgerRow]:
        """Return the stored rows of one ledger, in order."""
        for row in self._db.execute(
            "SELECT seq, data, sha256 FROM rows WHERE device = ? AND epoch = ? "
            "AND seq BETWEEN ? AND ? ORDER BY seq",
            (chain.device, chain.epoch, first, last),
        ):
            yield LedgerRow(*row)

    def short_rows_with(
        self, chain: Chain, text: bytes, most_bytes: int
    ) -> Iterator[LedgerRow]:
        """Return rows of one ledger that hold these bytes, in order; no longer ones.

        Of a longer row the disk is asked for its length alone.
        """
        for row in self._db.execute(
            "SELECT seq, data, sha256 FROM rows WHERE device = ? AND epoch = ? "
            "AND CASE WHEN length(data) <= ? THEN instr(data, ?) END ORDER BY seq",
            (chain.device, chain.epoch, most_bytes, text),
        ):
            yield LedgerRow(*row)

    def holes(self) -> list[tuple[str, str, int, int]]:
        """Device, epoch, first and last number of rows that can never come."""
        return self._db.execute(
            "SELECT device, epoch, first, last FROM holes"
        ).fetchall()

    def verify(self, chain: Chain) -> int | None:
        """Return the first stored row that is altered or out of order, else None."""
        after_holes = {
            last + 1
            for device, epoch, _, last in self.holes()
            if Chain(device, epoch) == chain
        }
        return first_broken(self.rows(chain), after_holes)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _judge(self, message: Message) -> tuple[Chain | None, Receipt]:
        device, _ = device_of(message.topic)
        try:
            head = decode(message.payload, ResultHead)
        except PayloadInvalid as error:
            self._put_aside(device, message.payload, str(error))
            return None, Receipt.QUARANTINED
        if head.device != device:
            self._put_aside(device, message.payload, f"says it is of {head.device!r}")
            return None, Receipt.QUARANTINED
        chain = Chain(device, head.epoch)
        return chain, self._file(chain, head, message.payload)

    def _file(self, chain: Chain, head: ResultHead, data: bytes) -> Receipt:
        """Decide about one well-formed row, and store it if it follows."""
        last, last_hash = self.cursor(chain)
        sha256 = hashlib.sha256(data).hexdigest()
        if head.seq == last and sha256 != last_hash:
            return self._replace_last(chain, head, data)
        if head.seq <= last:
            return self._compare(chain, head.seq, data, sha256)
        oldest = max(self._oldest.get(chain, 1), last + 1)
        if head.seq > oldest:
            return Receipt.AHEAD
        if head.seq > last + 1:
            hole = (chain.device, chain.epoch, last + 1, head.seq - 1)
            self._db.execute("INSERT INTO holes VALUES (?, ?, ?, ?)", hole)
            log.error(
                "device=%s rows %d to %d are gone for good", chain.device, *hole[2:]
            )
        elif head.prev != last_hash:
            self._put_aside(
                chain.device, data, f"row {head.seq} does not follow {last}"
            )
            return Receipt.QUARANTINED
        self._insert(chain, head.seq, data, sha256)
        return Receipt.STORED

    def _compare(self, chain: Chain, seq: int, data: bytes, sha256: str) -> Receipt:
        """Drop what is stored already; put aside what claims to be it and is not."""
        known = self._row(chain, seq)
        if known is not None and known.sha256 != sha256:
            self._put_aside(
                chain.device,
                data,
                f"another row {seq} than the one stored; if the device's ledger was "
                "restored from a copy, give it a new folder",
            )
        return Receipt.DUPLICATE

    def _replace_last(self, chain: Chain, head: ResultHead, data: bytes) -> Receipt:
        """Take the device's word against what came for the same row before.

        The last row is the only one that no later row vouches for. A device sends it
        again with other bytes when our acknowledgement showed it that what came here
        was altered on the way.
        """
        before, old = self._row(chain, head.seq - 1), self._row(chain, head.seq)
        follows_a_hole = before is None and head.seq > 1  # any row before is possible
        expected = before.sha256 if before else FIRST_PREVIOUS
        if not follows_a_hole and head.prev != expected:
            self._put_aside(
                chain.device, data, f"another row {head.seq}, not following"
            )
            return Receipt.QUARANTINED
        if old is not None:
            self._put_aside(chain.device, old.data, f"row {head.seq} came altered")
        self._db.execute(
            "DELETE FROM rows WHERE device = ? AND epoch = ? AND seq = ?",
            (chain.device, chain.epoch, head.seq),
        )
        self._insert(chain, head.seq, data, hashlib.sha256(data).hexdigest())
        return Receipt.STORED

    def _row(self, chain: Chain, seq: int) -> LedgerRow | None:
        found = self._db.execute(
            "SELECT seq, data, sha256 FROM rows "
            "WHERE device = ? AND epoch = ? AND seq = ?",
            (chain.device, chain.epoch, seq),
        ).fetchone()
        return None if found is None else LedgerRow(*found)

    def _insert(self, chain: Chain, seq: int, data: bytes, sha256: str) -> None:
        row = (chain.device, chain.epoch, seq, data, sha256, utc_now().isoformat())
        self._db.execute("INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?)", row)

    def _put_aside(self, device: str, data: bytes, reason: str) -> None:
        """Keep what is not believed, until there is too much of it."""
        count, size = self._aside
        if count >= MOST_ASIDE or size + len(data) > MOST_ASIDE_BYTES:
            self._not_kept += 1
            if self._complaints.spend():
                log.error(
                    "device=%s quarantine is full, %d messages were not kept: %s",
                    device,
                    self._not_kept,
                    reason,
                )
            return
        sha256 = hashlib.sha256(data).hexdigest()
        is_new = self._db.execute(
            "INSERT OR IGNORE INTO quarantine VALUES (?, ?, ?, ?, ?)",
            (device, sha256, data, reason, utc_now().isoformat()),
        ).rowcount
        if is_new:
            self._aside = count + 1, size + len(data)
            if self._complaints.spend():
                log.error("device=%s quarantined: %s", device, reason)

    def _count_aside(self) -> tuple[int, int]:
        """Return how many messages are in quarantine, and their bytes."""
        count, size = self._db.execute(
            "SELECT count(*), total(length(data)) FROM quarantine"
        ).fetchone()
        return int(count), int(size)


def _opened_to_read(path: Path) -> sqlite3.Connection:
    """Open a file without a right to write; a copy in a folder without one, too.

    There SQLite cannot make the files by which it follows a writer, and there is none.
    """
    address = f"{path.resolve().as_uri()}?mode=ro"
    try:
        db = sqlite3.connect(address, uri=True, timeout=10)
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        if Path(f"{path}-wal").exists():
            raise
        db = sqlite3.connect(f"{address}&immutable=1", uri=True)
    return db


_TABLES = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE IF NOT EXISTS rows (
    device TEXT NOT NULL, epoch TEXT NOT NULL, seq INTEGER NOT NULL,
    data BLOB NOT NULL, sha256 TEXT NOT NULL, received TEXT NOT NULL,
    PRIMARY KEY (device, epoch, seq)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS holes (
    device TEXT NOT NULL, epoch TEXT NOT NULL, first INTEGER NOT NULL,
    last INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS quarantine (
    device TEXT NOT NULL, sha256 TEXT NOT NULL, data BLOB NOT NULL,
    reason TEXT NOT NULL, received TEXT NOT NULL, PRIMARY KEY (device, sha256)
) STRICT;
"""
