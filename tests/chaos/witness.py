"""What `Ledger.append` returned, kept apart from it, and compared with the archive."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from edge.ledger.rows import LedgerRow


@dataclass(frozen=True, slots=True)
class Comparison:
    """How many rows of the archive are not as the witness saw them.

    `unwitnessed` rows are archived and were seen by no witness: the writer was killed
    after its commit, before it could say so. `foreign` rows stand under another name.
    """

    witnessed: int
    archived: int
    lost: int
    altered: int
    doubled: int
    disordered: int
    unwitnessed: int
    foreign: int = 0

    def is_whole(self, writer_kills: int) -> bool:
        """Whether each witnessed row is archived once, unaltered and in order."""
        faults = self.lost + self.altered + self.doubled + self.disordered
        return faults + self.foreign == 0 and self.unwitnessed <= writer_kills


def compare(
    witnessed: Sequence[LedgerRow], archived: Sequence[LedgerRow], foreign: int = 0
) -> Comparison:
    """Compare rows byte by byte; `archived` in the order in which they were stored."""
    seen = {row.seq: row.data for row in witnessed}
    times = Counter(row.seq for row in archived)
    altered = sum(
        (row.seq in seen and row.data != seen[row.seq])
        or hashlib.sha256(row.data).hexdigest() != row.sha256
        for row in archived
    )
    newest, disordered = 0, 0
    for row in archived:
        disordered += row.seq < newest
        newest = max(newest, row.seq)
    return Comparison(
        witnessed=len(seen),
        archived=len(archived),
        lost=len(seen.keys() - times.keys()),
        altered=altered,
        doubled=sum(count - 1 for count in times.values()),
        disordered=disordered,
        unwitnessed=len(times.keys() - seen.keys()),
        foreign=foreign,
    )


class WitnessFile:
    """One line per row: number, sha256, bytes. Survives the kill of its writer."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        whole = path.read_bytes()
        os.ftruncate(self._file, whole.rfind(b"\n") + 1)  # a kill within a line

    def add(self, row: LedgerRow) -> None:
        """Hold a row: in one call to the kernel, so that no kill loses half of it."""
        os.write(self._file, b"%d %s %s\n" % (row.seq, row.sha256.encode(), row.data))

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def read_witness(path: Path) -> list[LedgerRow]:
    """Return every row that the witness holds."""
    rows = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        seq, sha256, data = line.split(b" ", 2)
        rows.append(LedgerRow(int(seq), data, sha256.decode()))
    return rows


def read_archive(path: Path, device: str, epoch: str) -> tuple[list[LedgerRow], int]:
    """Return the rows of one ledger in the order of arrival, and the count of others.

    The file is read without the program's own reader, which sorts by number.
    """
    with closing(sqlite3.connect(path)) as db:
        rows = db.execute(
            "SELECT seq, data, sha256 FROM rows WHERE device = ? AND epoch = ? "
            "ORDER BY received, seq",
            (device, epoch),
        ).fetchall()
        (everything,) = db.execute("SELECT count(*) FROM rows").fetchone()
    return [LedgerRow(*row) for row in rows], everything - len(rows)
