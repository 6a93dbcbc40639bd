"""The archive's file: the rows of all devices, each ledger one unbroken chain.

A device's rows follow from each other: row n carries the sha256 of row n - 1. For each
row that arrives there are four outcomes, see `StoreOutcome`:

- It is the next row and follows: it is stored.
- It is stored already: it is dropped. The device did not hear our acknowledgement.
- It lies further ahead: it is dropped, and the device is asked to go back. To keep it
  until the rows between arrive would need a second, unproven store.
- It does not follow, or cannot be read: it is kept in quarantine, for a person to look
  at. It is never mixed with the chain.

The invariant: the stored rows of one ledger are a prefix of its chain, apart from holes
that the device itself declared. So one number and one hash acknowledge all of them.
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
from edge.ledger.opened_file import OpenedFile
from edge.ledger.rows import LedgerRow, first_broken
from edge.mqtt import Message, split_topic
from edge.rate_limit import RateLimit
from edge.schema.codec import PayloadInvalid, decode
from edge.schema.messages import DeviceState
from edge.schema.results import FIRST_PREVIOUS, ResultHead

log = logging.getLogger(__name__)

# Anybody whom the broker lets publish can send nonsense. These bounds keep it from
# filling the disk or the memory.
MAX_QUARANTINED, MAX_QUARANTINE_BYTES = 10_000, 64 << 20
_MAX_CHAINS = 1000


class ArchiveFailed(HemascopeError):
    """The archive cannot write to its disk or file; nothing was acknowledged."""


class StoreOutcome(Enum):
    """What became of a row that arrived."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    AHEAD = "ahead"
    QUARANTINED = "quarantined"


@dataclass(frozen=True, slots=True)
class Chain:
    """The rows of one ledger of one device."""

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
                self._db = _open_read_only(path)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._db = sqlite3.connect(path, timeout=10)
                self._db.executescript(_TABLES)
            self._path = path
            self._file = OpenedFile(path) if must_exist else _written_files(path)
            self._quarantine_size = self._measure_quarantine()
        except (sqlite3.Error, OSError) as error:
            raise ArchiveFailed(
                f"{path}: {error}; check the disk and its rights"
            ) from error
        self._oldest_held: dict[Chain, int] = {}
        self._discarded = 0
        self._log_limit = RateLimit(20, 0.2)

    def store_messages(self, messages: Iterable[Message]) -> dict[Chain, StoreOutcome]:
        """Store messages of result topics; return the last outcome for each ledger.

        Raises
        ------
        ArchiveFailed
            The disk cannot be written: none of them is stored.
        """
        outcomes: dict[Chain, StoreOutcome] = {}
        # One transaction for all that arrived together: a commit waits for the disk,
        # and one per row would limit the archive to some hundred rows per second. An
        # acknowledgement is sent only after the commit.
        try:
            with self._db:
                for message in messages:
                    chain, outcome = self._store_message(message)
                    if chain is not None:
                        outcomes[chain] = outcome
        except sqlite3.Error as error:
            raise ArchiveFailed(
                f"the archive cannot store rows: {error}; check its disk"
            ) from error
        # Before anything is acknowledged: a device may delete what is acknowledged.
        self.check_in_place()
        return outcomes

    def check_in_place(self) -> None:
        """Check that the file is still the one in its place.

        Raises
        ------
        ArchiveFailed
            It was moved, replaced or deleted.
        """
        if not self._file.is_in_place:
            raise ArchiveFailed(
                f"{self._path}: the archive that was written was moved, replaced or "
                "deleted; nothing more is acknowledged. Start again to go on with the "
                "file that is there now: the devices send again what it lacks"
            )

    def note_oldest(self, state: DeviceState) -> Chain:
        """Note the oldest row that a device still holds; return its ledger.

        Rows before it were deleted there. If they are not here, they can never come.
        """
        # Taken out and put in again: a dict keeps the order of insertion, so its first
        # key is the ledger that was not heard of for the longest time.
        chain = Chain(state.device, state.epoch)
        self._oldest_held.pop(chain, None)
        self._oldest_held[chain] = state.oldest
        if len(self._oldest_held) > _MAX_CHAINS:
            del self._oldest_held[next(iter(self._oldest_held))]
        return chain

    def cursor(self, chain: Chain) -> tuple[int, str]:
        """Return number and hash of the last row stored; (0, zeros) without any."""
        # Read by the key each time and not kept in memory: an acknowledgement must
        # never name a row whose transaction was rolled back.
        found = self._db.execute(
            "SELECT seq, sha256 FROM rows WHERE device = ? AND epoch = ? "
            "ORDER BY seq DESC LIMIT 1",
            (chain.device, chain.epoch),
        ).fetchone()
        return (int(found[0]), str(found[1])) if found else (0, FIRST_PREVIOUS)

    def chains(self) -> list[Chain]:
        """Return every ledger of which rows are stored."""
        found: list[Chain] = []
        at = ("", "")
        # From one ledger to the next by the key. SELECT DISTINCT would read all rows.
        while at is not None:
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
        self, chain: Chain, text: bytes, max_bytes: int
    ) -> Iterator[LedgerRow]:
        """Return rows of at most `max_bytes` that contain `text`, in order."""
        # CASE makes SQLite look at the length first. The length is in the row's header,
        # so the pictures and cells of long rows are not read from the disk.
        for row in self._db.execute(
            "SELECT seq, data, sha256 FROM rows WHERE device = ? AND epoch = ? "
            "AND CASE WHEN length(data) <= ? THEN instr(data, ?) END ORDER BY seq",
            (chain.device, chain.epoch, max_bytes, text),
        ):
            yield LedgerRow(*row)

    def holes(self) -> list[tuple[str, str, int, int]]:
        """Return device, epoch, first and last number of rows that can never come."""
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

    def _store_message(self, message: Message) -> tuple[Chain | None, StoreOutcome]:
        device, _ = split_topic(message.topic)
        try:
            head = decode(message.payload, ResultHead)
        except PayloadInvalid as error:
            self._quarantine(device, message.payload, str(error))
            return None, StoreOutcome.QUARANTINED
        if head.device != device:
            self._quarantine(device, message.payload, f"says it is of {head.device!r}")
            return None, StoreOutcome.QUARANTINED
        chain = Chain(device, head.epoch)
        return chain, self._store_row(chain, head, message.payload)

    def _store_row(self, chain: Chain, head: ResultHead, data: bytes) -> StoreOutcome:
        """Decide what to do with a row that can be read, and store it if it follows."""
        last, last_hash = self.cursor(chain)
        sha256 = hashlib.sha256(data).hexdigest()
        if head.seq == last and sha256 != last_hash:
            return self._replace_last(chain, head, data)
        if head.seq <= last:
            return self._check_duplicate(chain, head.seq, data, sha256)
        # The row that a device would send next: the one after our last, or the oldest
        # that it holds, if it deleted rows that we do not have.
        oldest = max(self._oldest_held.get(chain, 1), last + 1)
        if head.seq > oldest:
            return StoreOutcome.AHEAD
        if head.seq > last + 1:
            hole = (chain.device, chain.epoch, last + 1, head.seq - 1)
            self._db.execute("INSERT INTO holes VALUES (?, ?, ?, ?)", hole)
            log.error("device=%s rows %d to %d are lost", chain.device, *hole[2:])
        elif head.prev != last_hash and not self._put_back(chain, last, head.prev):
            self._quarantine(
                chain.device, data, f"row {head.seq} does not follow {last}"
            )
            return StoreOutcome.QUARANTINED
        self._insert(chain, head.seq, data, sha256)
        return StoreOutcome.STORED

    def _check_duplicate(
        self, chain: Chain, seq: int, data: bytes, sha256: str
    ) -> StoreOutcome:
        """Drop a row that is stored already; quarantine one with other bytes."""
        known = self._row(chain, seq)
        if known is not None and known.sha256 != sha256:
            self._quarantine(
                chain.device,
                data,
                f"another row {seq} than the one stored; if the device's ledger was "
                "restored from a copy, give it a new folder",
            )
        return StoreOutcome.DUPLICATE

    def _replace_last(
        self, chain: Chain, head: ResultHead, data: bytes
    ) -> StoreOutcome:
        """Replace the last row by another one with the same number.

        The last row is the only one that no later row proves. It may have been altered
        on the way. Then our acknowledgement, with a hash that is not its own, told the
        device so, and it sends the row again. That one is believed, and the earlier one
        goes into quarantine.
        """
        before, altered = self._row(chain, head.seq - 1), self._row(chain, head.seq)
        follows_a_hole = before is None and head.seq > 1  # the row before is not known
        expected = before.sha256 if before else FIRST_PREVIOUS
        if not follows_a_hole and head.prev != expected:
            self._quarantine(
                chain.device, data, f"another row {head.seq} that does not follow"
            )
            return StoreOutcome.QUARANTINED
        if altered is not None:
            self._quarantine(chain.device, altered.data, f"row {head.seq} was altered")
        self._db.execute(
            "DELETE FROM rows WHERE device = ? AND epoch = ? AND seq = ?",
            (chain.device, chain.epoch, head.seq),
        )
        self._insert(chain, head.seq, data, hashlib.sha256(data).hexdigest())
        return StoreOutcome.STORED

    def _put_back(self, chain: Chain, seq: int, sha256: str) -> bool:
        """Put the last row back from quarantine if the row after it proves it.

        A false copy may take the place of a row that was acknowledged. The device
        then never sends it again, and every later row would be refused for ever.
        """
        found = self._db.execute(
            "SELECT data FROM quarantine WHERE device = ? AND sha256 = ?",
            (chain.device, sha256),
        ).fetchone()
        if found is None:
            return False
        try:
            head = decode(bytes(found[0]), ResultHead)
        except PayloadInvalid:
            return False
        if (head.device, head.epoch, head.seq) != (chain.device, chain.epoch, seq):
            return False
        return self._replace_last(chain, head, found[0]) is StoreOutcome.STORED

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

    def _quarantine(self, device: str, data: bytes, reason: str) -> None:
        """Keep what is not believed, until the quarantine is full."""
        count, size = self._quarantine_size
        if count >= MAX_QUARANTINED or size + len(data) > MAX_QUARANTINE_BYTES:
            self._discarded += 1
            if self._log_limit.try_acquire():
                log.error(
                    "device=%s quarantine is full, %d messages were discarded: %s",
                    device,
                    self._discarded,
                    reason,
                )
            return
        sha256 = hashlib.sha256(data).hexdigest()
        is_new = self._db.execute(
            "INSERT OR IGNORE INTO quarantine VALUES (?, ?, ?, ?, ?)",
            (device, sha256, data, reason, utc_now().isoformat()),
        ).rowcount
        if is_new:
            self._quarantine_size = count + 1, size + len(data)
            if self._log_limit.try_acquire():
                log.error("device=%s quarantined: %s", device, reason)

    def _measure_quarantine(self) -> tuple[int, int]:
        """Return how many messages are in quarantine, and their bytes."""
        count, size = self._db.execute(
            "SELECT count(*), total(length(data)) FROM quarantine"
        ).fetchone()
        return int(count), int(size)


def _written_files(path: Path) -> OpenedFile:
    """Return the database and its log, in which the newest rows are."""
    return OpenedFile(path, path.with_name(f"{path.name}-wal"))


def _open_read_only(path: Path) -> sqlite3.Connection:
    """Open the archive without writing to it, also in a folder that is read-only.

    In WAL mode SQLite must write the file "-shm" to read beside a writer. Where it
    cannot, there is no writer either: the file is a copy, and `immutable` tells SQLite
    that nobody changes it. A "-wal" file beside it holds rows that would then be
    missed: in that case the error stands.
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


# FULL, since the device may delete a row once it is acknowledged: the row must survive
# a power cut here. WITHOUT ROWID keeps the rows of a ledger side by side, in the order
# of their chain. By the key of the quarantine, a message that comes again counts once.
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
