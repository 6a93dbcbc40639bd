"""Whether a replay says of every frame what was said when it was recorded.

Left out is what tells of the moment and not of the frame: timings, the chain of rows,
boot and clock, the software's version, how many frames nobody had time for. All else
must be the same to the last bit.
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
from edge.schema.entries import read_row
from edge.schema.results import Result
from edge.settings.files import ReplaySettings
from edge.settings.models import EngineSettings

_OF_THE_MOMENT = (
    *("timings_ms", "epoch", "seq", "prev"),
    *("boot_id", "clock_synchronised", "software"),
)
# What a frame owes to the ones before it, of which one is lacking.
_REMEMBERED = (
    *("status", "reason", "fault", "run", "differential"),
    *("drift", "following", "events"),
)
_ROWS_AT_ONCE = 500


class NotComparable(ConfigurationInvalid):
    """Results cannot be the same: they were made with something else."""


@dataclass(slots=True)
class Comparison:
    """What became of the rows of a recording.

    `same`: in all that is said; `alike`: in what a frame tells alone, where frames
    before it are lacking. `different`: row numbers with the first difference.
    `lacking`: what cannot be compared, and why.
    """

    same: int = 0
    alike: int = 0
    different: list[tuple[int, str]] = field(default_factory=list)
    lacking: list[str] = field(default_factory=list)


def demand_the_same(
    head: Head, parts: Parts, now: ReplaySettings, then: ReplaySettings
) -> None:
    """Refuse to compare what was made with other models, profile or settings.

    Raises
    ------
    NotComparable
        Says which.
    """
    ids = {
        "model": (head.model, parts.classifier.id),
        "locator": (head.locator, parts.locator and parts.locator.id),
        "sequence": (head.sequence, parts.sequence and parts.sequence.id),
        "profile": (head.calibration_id, parts.profile.calibration_id),
    }
    others = [
        f"{name} was {then_id or 'none'}, is {now_id or 'none'}"
        for name, (then_id, now_id) in ids.items()
        if then_id != now_id
    ]
    for name in ("tracking", "pauses", "events", "differential"):
        if getattr(now, name) != getattr(then, name):
            others.append(
                f"[{name}] was {getattr(then, name)}, is {getattr(now, name)}"
            )
    for name in ("model", "sequence"):
        before, after = _engine(getattr(then, name)), _engine(getattr(now, name))
        if before != after:
            others.append(f"[{name}] ran as {before}, runs as {after}")
    if others:
        raise NotComparable(
            f"recording {head.id} cannot give the same results: {'; '.join(others)}; "
            "replay with what was used then, or without --compare"
        )


def compare(recording: Recording, ledger: Path, replayed: Path) -> Comparison:
    """Compare the rows of `ledger`, which was written then, with those of a replay.

    Raises
    ------
    NotComparable
        The recording is of another ledger.
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

    Parameters
    ----------
    items
        What is recorded; a replay writes one result of each, in this order.
    was, now
        The results of then and of the replay, in order.
    """
    found = Comparison()
    rest, is_whole = iter(was), True
    waiting = next(rest, None)
    for item, result in zip(items, now, strict=False):
        skipped = []
        last = item.last_seq if isinstance(item, MissingFrames) else item.seq
        while waiting is not None and waiting.seq < item.seq:
            skipped.append(waiting.seq)
            waiting = next(rest, None)
        if skipped:
            found.lacking.append(f"{_rows(skipped)}: not in the recording")
            is_whole = False
        if isinstance(item, MissingFrames):
            found.lacking.append(f"{_rows([item.seq, last])}: {item.reason}")
            is_whole = False
            while waiting is not None and waiting.seq <= last:
                waiting = next(rest, None)
        elif waiting is None or waiting.seq != item.seq:
            found.lacking.append(f"row {item.seq}: no longer in the ledger")
        else:
            _judge(found, waiting, result, is_whole=is_whole)
            waiting = next(rest, None)
    ends = [] if waiting is None else [waiting, *rest]
    beyond = [r.seq for r in ends if not (r.reason or "").startswith(STOPPED)]
    if beyond:
        found.lacking.append(f"{_rows(beyond)}: the recording ends before")
    return found


def results_of(
    reader: LedgerReader, after: int = 0, last: int | None = None
) -> Iterator[Result]:
    """Return the results of a ledger in order; entries are left out."""
    while rows := reader.rows(after, _ROWS_AT_ONCE):
        for row in rows:
            if last is not None and row.seq > last:
                return
            result = read_row(row.data)
            if isinstance(result, Result):
                yield result
        after = rows[-1].seq


def first_difference(was: Any, now: Any, place: str = "") -> str | None:
    """Name the first place where two plain values differ, depth first."""
    if isinstance(was, dict) and isinstance(now, dict):
        for key in [*was, *(k for k in now if k not in was)]:
            inner = f"{place}.{key}" if place else str(key)
            told = first_difference(was.get(key), now.get(key), inner)
            if told is not None:
                return told
        return None
    if isinstance(was, (list, tuple)) and isinstance(now, (list, tuple)):
        for number, (one, other) in enumerate(zip(was, now, strict=False)):
            told = first_difference(one, other, f"{place}[{number}]")
            if told is not None:
                return told
        if len(was) != len(now):
            return f"{place}: {len(was)} then, {len(now)} now"
        return None
    return None if was == now else f"{place}: {was!r} then, {now!r} now"


def _judge(found: Comparison, was: Result, now: Result, *, is_whole: bool) -> None:
    one, other = _plain(was), _plain(now)
    if not is_whole:
        hides_cells = bool(one["fault"] or other["fault"])  # by what the gate learned
        one, other = _alone(one, hides_cells), _alone(other, hides_cells)
    told = first_difference(one, other)
    if told is not None:
        found.different.append((was.seq, told))
    elif is_whole:
        found.same += 1
    else:
        found.alike += 1


def _plain(result: Result) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(result)
    plain["frame"] = {k: v for k, v in plain["frame"].items() if k != "passed_over"}
    return {k: v for k, v in plain.items() if k not in _OF_THE_MOMENT}


def _alone(plain: dict[str, Any], hides_cells: bool) -> dict[str, Any]:
    """Leave out what a frame owes to the ones before it."""
    left_out = {*_REMEMBERED, *(("cells", "counts") if hides_cells else ())}
    alone = {k: v for k, v in plain.items() if k not in left_out}
    if "cells" in alone:
        followed = ("track_id", "course")
        alone["cells"] = [
            {k: v for k, v in cell.items() if k not in followed}
            for cell in alone["cells"]
        ]
    return alone


def _last_row(recording: Recording, ledger: LedgerReader) -> int:
    """Return the last row that may be of this recording: then the next one began."""
    later = [
        other.head.first_row
        for other in recordings_in(recording.folder.parent)
        if other.head.epoch == recording.head.epoch
        and other.head.first_row > recording.head.first_row
    ]
    return min([n - 1 for n in later], default=ledger.span()[1])


def _rows(numbers: Sequence[int]) -> str:
    first, last = numbers[0], numbers[-1]
    return f"row {first}" if first == last else f"rows {first} to {last}"


def _engine(settings: EngineSettings | None) -> str:
    return "none" if settings is None else f"{settings.engine} {settings.precision}"
