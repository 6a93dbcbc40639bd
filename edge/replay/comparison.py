"""Compare the rows of a replay with the rows that were written live.

The idea: a replay runs the same code on the same pixels in the same order, so its rows
must be the same to the last bit. An exact comparison finds what a tolerance would hide:
a race between threads, a state that was not recorded, a changed rounding.

Left out is what belongs to the moment and not to the frame: timings, the hash chain of
rows, boot and clock, the software's version, how many frames were passed over.

A frame that is missing from the recording breaks more than its own row, because later
rows depend on it: tracks, events, drift, the slide's counts. From there on, only what
follows from a frame's own pixels is compared (`partly_same`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from edge.errors import ConfigurationInvalid
from edge.ledger.reader import LedgerReader
from edge.pipeline.empty_results import STOPPED
from edge.pipeline.parts import Parts
from edge.recording.format import Head, Item, MissingFrames, Recording, recordings_in
from edge.replay.completeness import is_on_purpose, rows_text
from edge.schema.entries import read_row
from edge.schema.results import Result
from edge.settings.files import ReplaySettings
from edge.settings.models import EngineSettings

_OF_THE_MOMENT = (  # fields of a result
    *("timings_ms", "epoch", "seq", "prev"),
    *("boot_id", "clock_synchronised", "software"),
)
# Fields of a result that depend on earlier frames too, of which one is missing.
_DEPENDENT = (
    *("status", "reason", "fault", "run", "differential"),
    *("drift", "following", "events"),
)
_ROWS_PER_READ = 500


class NotComparable(ConfigurationInvalid):
    """Results cannot be the same: they were made with other models or settings."""


@dataclass(slots=True)
class Comparison:
    """How the rows of a recording compare.

    `same`: rows that are equal in everything. `partly_same`: rows after missing frames
    that are equal in what follows from their own pixels. `different`: row numbers, each
    with the first difference. `not_compared`: which rows could not be compared, and
    why; `missing` counts those of them that tell of frames which should be there.
    """

    same: int = 0
    partly_same: int = 0
    different: list[tuple[int, str]] = field(default_factory=list)
    not_compared: list[str] = field(default_factory=list)
    missing: int = 0

    @property
    def is_good(self) -> bool:
        """Whether rows were compared, none differs, and no frame is missing."""
        compared = self.same + self.partly_same
        return bool(compared) and not self.different and not self.missing

    def add_missing(self, line: str) -> None:
        """Name rows that could not be compared since their frames are missing."""
        self.not_compared.append(line)
        self.missing += 1


def require_comparable(
    head: Head, parts: Parts, now: ReplaySettings, then: ReplaySettings
) -> None:
    """Refuse to compare results that other models, profiles or settings made.

    Raises
    ------
    NotComparable
        It names each that differs.
    """
    ids = {
        "model": (head.model, parts.classifier.id),
        "locator": (head.locator, parts.locator and parts.locator.id),
        "sequence": (head.sequence, parts.sequence and parts.sequence.id),
        "profile": (head.calibration_id, parts.profile.calibration_id),
    }
    changes = [
        f"{name} was {then_id or 'none'}, is {now_id or 'none'}"
        for name, (then_id, now_id) in ids.items()
        if then_id != now_id
    ]
    for name in ("tracking", "pauses", "events", "differential"):
        if getattr(now, name) != getattr(then, name):
            changes.append(
                f"[{name}] was {getattr(then, name)}, is {getattr(now, name)}"
            )
    for name in ("model", "sequence"):
        before, after = _engine(getattr(then, name)), _engine(getattr(now, name))
        if before != after:
            changes.append(f"[{name}] ran as {before}, runs as {after}")
    if changes:
        raise NotComparable(
            f"recording {head.id} cannot give the same results: {'; '.join(changes)}; "
            "replay with what was used then, or without --compare"
        )


def compare(recording: Recording, ledger: Path, replayed: Path) -> Comparison:
    """Compare the rows of the live `ledger` with those of the `replayed` one.

    Raises
    ------
    NotComparable
        The recording belongs to another ledger.
    LedgerDamaged
        There is no ledger.
    """
    then, now = LedgerReader(ledger), LedgerReader(replayed)
    try:
        if then.epoch != recording.head.epoch:
            raise NotComparable(
                f"{ledger} is ledger {then.epoch}, the recording is of "
                f"{recording.head.epoch}; name the ledger that was written with it"
            )
        first, last = recording.head.first_row, _last_row(recording, then)
        was = results_of(then, first - 1, last)
        items = [recorded.item for recorded in recording.items()]
        return compare_rows(items, was, results_of(now))
    finally:
        then.close()
        now.close()


def compare_rows(
    items: Sequence[Item], was: Iterable[Result], now: Iterable[Result]
) -> Comparison:
    """Compare results row by row.

    Both ledgers are walked once, side by side. A replay writes exactly one result for
    each recorded item, so its n-th result belongs to `items[n]`. Its row numbers count
    anew, so the item's own number finds the live row.

    Parameters
    ----------
    items
        What is recorded, in order.
    was, now
        The results of the live run and of the replay, in order.
    """
    comparison = Comparison()
    live = _Rows(was)
    is_whole = True  # as long as nothing is missing before this row
    replayed = 0
    for item, result in zip(items, now, strict=False):
        replayed += 1
        skipped = live.take_until(item.seq - 1)
        if skipped:
            comparison.add_missing(f"{_rows(skipped)}: not in the recording")
            is_whole = False
        if isinstance(item, MissingFrames):
            line = f"{rows_text(item.seq, item.last_seq)}: {item.reason}"
            if is_on_purpose(item):
                comparison.not_compared.append(line)
            else:
                comparison.add_missing(line)
            is_whole = False
            live.take_until(item.last_seq)
        elif (row := live.take(item.seq)) is None:
            comparison.not_compared.append(f"row {item.seq}: no longer in the ledger")
        else:
            _compare_row(comparison, row, result, is_whole=is_whole)
    if replayed < len(items):
        comparison.add_missing(f"{len(items) - replayed} items were not replayed")
    beyond = live.take_rest()
    if beyond:
        comparison.add_missing(f"{_rows(beyond)}: the recording ends before")
    return comparison


class _Rows:
    """The live results, taken in order; each is taken once."""

    def __init__(self, results: Iterable[Result]) -> None:
        self._results = iter(results)
        self._next = next(self._results, None)

    def take(self, seq: int) -> Result | None:
        """Return the result in row `seq`, if it is the next one."""
        result = self._next
        if result is None or result.seq != seq:
            return None
        self._next = next(self._results, None)
        return result

    def take_until(self, last: int) -> list[int]:
        """Skip results up to row `last`; return their row numbers."""
        skipped = []
        while self._next is not None and self._next.seq <= last:
            skipped.append(self._next.seq)
            self._next = next(self._results, None)
        return skipped

    def take_rest(self) -> list[int]:
        """Return the row numbers of all others, but of a row that tells why it ended.

        A process that fails writes such a row; there is no frame behind it.
        """
        rest = [] if self._next is None else [self._next, *self._results]
        self._next = None
        return [r.seq for r in rest if not (r.reason or "").startswith(STOPPED)]


def results_of(
    reader: LedgerReader, after: int = 0, last: int | None = None
) -> Iterator[Result]:
    """Return the results of a ledger in order, without entries."""
    while rows := reader.rows(after, _ROWS_PER_READ):
        for row in rows:
            if last is not None and row.seq > last:
                return
            result = read_row(row.data)
            if isinstance(result, Result):
                yield result
        after = rows[-1].seq


def first_difference(was: Any, now: Any, path: str = "") -> str | None:
    """Name the first place, depth first, where two plain values differ."""
    if isinstance(was, dict) and isinstance(now, dict):
        for key in [*was, *(k for k in now if k not in was)]:
            inner = f"{path}.{key}" if path else str(key)
            difference = first_difference(was.get(key), now.get(key), inner)
            if difference is not None:
                return difference
        return None
    if isinstance(was, (list, tuple)) and isinstance(now, (list, tuple)):
        for number, (one, other) in enumerate(zip(was, now, strict=False)):
            difference = first_difference(one, other, f"{path}[{number}]")
            if difference is not None:
                return difference
        if len(was) != len(now):
            return f"{path}: {len(was)} then, {len(now)} now"
        return None
    return None if was == now else f"{path}: {was!r} then, {now!r} now"


def _compare_row(
    comparison: Comparison, was: Result, now: Result, *, is_whole: bool
) -> None:
    one, other = _plain(was), _plain(now)
    if not is_whole:
        # A fault is the quality gate's. It depends on limits that the gate learned
        # from earlier frames, and a frame that it rejects has no cells.
        hides_cells = bool(one["fault"] or other["fault"])
        one, other = _own_part(one, hides_cells), _own_part(other, hides_cells)
    difference = first_difference(one, other)
    if difference is not None:
        comparison.different.append((was.seq, difference))
    elif is_whole:
        comparison.same += 1
    else:
        comparison.partly_same += 1


def _plain(result: Result) -> dict[str, Any]:
    """Return a result as plain values, without what belongs to the moment."""
    plain: dict[str, Any] = msgspec.to_builtins(result)
    plain["frame"] = {k: v for k, v in plain["frame"].items() if k != "passed_over"}
    return {k: v for k, v in plain.items() if k not in _OF_THE_MOMENT}


def _own_part(plain: dict[str, Any], hides_cells: bool) -> dict[str, Any]:
    """Return what follows from a frame's own pixels."""
    left_out = {*_DEPENDENT, *(("cells", "counts") if hides_cells else ())}
    own = {k: v for k, v in plain.items() if k not in left_out}
    if "cells" in own:
        of_tracking = ("track_id", "course")
        own["cells"] = [
            {k: v for k, v in cell.items() if k not in of_tracking}
            for cell in own["cells"]
        ]
    return own


def _last_row(recording: Recording, ledger: LedgerReader) -> int:
    """Return the last row that can belong to this recording: before the next began."""
    later = [
        other.head.first_row
        for other in recordings_in(recording.folder.parent)
        if other.head.epoch == recording.head.epoch
        and other.head.first_row > recording.head.first_row
    ]
    return min([n - 1 for n in later], default=ledger.span()[1])


def _rows(numbers: Sequence[int]) -> str:
    return rows_text(numbers[0], numbers[-1])


def _engine(settings: EngineSettings | None) -> str:
    return "none" if settings is None else f"{settings.engine} {settings.precision}"
