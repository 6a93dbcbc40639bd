"""Runs as the archive holds them: which there were, and what became of each.

Everything is read from rows; nothing else is needed, neither the device nor a picture.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import msgspec
import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from edge.archive.store import Chain, Store
from edge.errors import HemascopeError
from edge.ledger.rows import LedgerRow
from edge.schema.codec import PayloadInvalid
from edge.schema.entries import Alarm, Audit, Entry, Note, RunMark, read_row
from edge.schema.results import Event, Filmstrip, Result
from edge.taxonomy import NOT_A_CELL

log = logging.getLogger(__name__)

_MARK_BYTES, _MAX_MARK_BYTES = (
    b'"kind":"run"',
    16_384,
)  # a note of 1000 signs, escaped, fits
_LAST_ROWS = 20
_MAX_BINS, _MIN_ROWS_PER_BIN = 240, 2  # of a run; counts are means of what was examined
_MAX_POINTS = 4096  # of a course; of more every other one goes
MAX_CELL_HISTORIES = 40  # cells that something happened to whose course is shown
MAX_INCIDENTS = 200  # the others are counted


class RunUnknown(HemascopeError):
    """The archive holds no such run."""


@dataclass(frozen=True, slots=True)
class RunSpan:
    """A run's rows: from its start to its end, or to the last row before another.

    `utc`, `monotonic_ns` and `boot_id` are those of its start.
    """

    chain: Chain
    start: RunMark
    utc: datetime
    monotonic_ns: int
    boot_id: str
    first: int
    last: int
    is_ended: bool

    def since(self, row: Result | Entry) -> float:
        """Seconds from the start to a row; a frame may be a little older than that.

        Clocks are set while a run goes on: as long as the device was not started
        again, the time comes from the clock that nobody sets.
        """
        if row.boot_id == self.boot_id:
            return max((row.monotonic_ns - self.monotonic_ns) * 1e-9, 0.0)
        return max((row.utc - self.utc) / timedelta(seconds=1), 0.0)


@dataclass(slots=True)
class CellHistory:
    """What was said of one cell over time: seconds since the start, probabilities."""

    seconds: list[float] = field(default_factory=list)
    shares: list[tuple[float, ...]] = field(default_factory=list)
    seen: int = 0
    stride: int = 1

    def add(self, seconds: float, shares: tuple[float, ...]) -> None:
        """Take what one more frame says, as far as there is room."""
        if self.seen % self.stride == 0:
            self.seconds.append(seconds)
            self.shares.append(shares)
        self.seen += 1
        if len(self.seconds) > _MAX_POINTS:
            del self.seconds[1::2], self.shares[1::2]
            self.stride *= 2


@dataclass(slots=True, eq=False)
class RunHistory:
    """What became of a run.

    `counts` has the mean number of cells per examined frame of each bin, NaN where none
    was examined; `statuses` counts rows, and `unread` those that cannot be read here.
    `events` are the last word on each, `onsets` when they began, in seconds since the
    start; `strips` are the pictures of the cells whose courses are shown. `before` are
    cells of the run before, which ended with this one's first frame. `incidents`
    are time and text of the first gaps, alarms, notes and commands, `more_incidents`
    counts the others.
    """

    span: RunSpan
    seconds: float
    until: datetime
    last: Result | None = None
    unread: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    counts: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    events: dict[int, Event] = field(default_factory=dict)
    onsets: dict[int, float] = field(default_factory=dict)
    strips: dict[int, Filmstrip] = field(default_factory=dict)
    before: set[int] = field(default_factory=set)
    courses: dict[int, CellHistory] = field(default_factory=dict)
    incidents: list[tuple[datetime, str]] = field(default_factory=list)
    more_incidents: int = 0


def list_runs(store: Store) -> list[RunSpan]:
    """Return the runs of all devices, in the order of their ledgers.

    Rows that this version cannot read are passed over: the archive takes whatever
    follows in its ledger, also of devices that are newer.
    """
    spans: list[RunSpan] = []
    for chain in store.chains():
        marks = [
            (entry, entry.entry)
            for row in store.short_rows_with(chain, _MARK_BYTES, _MAX_MARK_BYTES)
            if isinstance(entry := _decode_row(chain, row), Entry)
            and isinstance(entry.entry, RunMark)
        ]
        starts = [both for both in marks if both[1].phase == "start"]
        if not starts:
            continue
        limits = [entry.seq - 1 for entry, _ in starts[1:]] + [store.cursor(chain)[0]]
        ends = {mark.run: entry.seq for entry, mark in marks if mark.phase == "end"}
        spans += [
            RunSpan(
                chain,
                mark,
                entry.utc,
                entry.monotonic_ns,
                entry.boot_id,
                entry.seq,
                ends.get(mark.run, limit),
                mark.run in ends,
            )
            for (entry, mark), limit in zip(starts, limits, strict=True)
        ]
    return spans


def find_run(store: Store, run: str) -> RunSpan:
    """Return the run whose id begins so.

    Raises
    ------
    RunUnknown
        There is none, or more than one.
    """
    spans = list_runs(store)
    found = [span for span in spans if span.start.run.startswith(run)]
    if len(found) != 1:
        known = ", ".join(span.start.run for span in spans[-5:]) or "none"
        raise RunUnknown(
            f"{len(found)} runs begin with {run!r}, expected one; the last ones are "
            f"{known}"
        )
    return found[0]


def read_run_history(store: Store, span: RunSpan) -> RunHistory:
    """Read what became of a run."""
    story = RunHistory(span, *_last_moment(store, span))
    sums: dict[str, NDArray[np.float64]] = {}
    rows = span.last - span.first + 1
    bins = min(max(rows // _MIN_ROWS_PER_BIN, 1), _MAX_BINS)
    examined = np.zeros(bins)
    for stored in store.rows(span.chain, span.first, span.last):
        row = _decode_row(span.chain, stored)
        if row is None:
            story.unread += 1
            continue
        _record_incident(story, row)
        if isinstance(row, Entry):
            continue
        story.statuses[row.status] += 1
        _record_events(story, row)
        if row.following is not None and row.following.classes:
            story.classes = row.following.classes
        if row.status not in ("ok", "degraded"):
            continue
        story.last = row
        place = min(int(span.since(row) / story.seconds * bins), bins - 1)
        examined[place] += 1
        for label, count in row.counts.items():
            sums.setdefault(label, np.zeros(bins))[place] += count
    sums.pop(NOT_A_CELL, None)
    with np.errstate(invalid="ignore"):
        story.counts = {label: total / examined for label, total in sums.items()}
    _read_cell_histories(store, story)
    return story


def _record_events(story: RunHistory, row: Result) -> None:
    """Take what is told of cells; pictures of those that are shown, as first told."""
    if row.following is not None and row.following.continuity == "new run":
        story.before.update(row.following.ended)
    for event in row.events:
        if event.track_id in story.before:
            continue
        strip, event = event.strip, msgspec.structs.replace(event, strip=UNSET)
        story.events[event.id] = event
        ago_s = (row.utc - event.onset_utc) / timedelta(seconds=1)
        story.onsets.setdefault(event.id, story.span.since(row) - ago_s)
        if len(story.courses) < MAX_CELL_HISTORIES:
            story.courses.setdefault(event.track_id, CellHistory())
        if event.track_id in story.courses and strip is not UNSET:
            story.strips.setdefault(event.track_id, strip)


def _read_cell_histories(store: Store, story: RunHistory) -> None:
    """Read the courses of the cells that something happened to first."""
    if not story.courses:
        return
    for stored in store.rows(story.span.chain, story.span.first, story.span.last):
        row = _decode_row(story.span.chain, stored)
        if not isinstance(row, Result):
            continue
        for cell in row.cells:
            course = story.courses.get(-1 if cell.track_id is None else cell.track_id)
            if course is not None and cell.course is not UNSET:
                course.add(story.span.since(row), cell.course.probabilities)


def _decode_row(chain: Chain, row: LedgerRow) -> Result | Entry | None:
    """Decode a row; None where it is not one that this version knows."""
    try:
        return read_row(row.data)
    except PayloadInvalid as error:
        log.debug("device=%s row %d passed over: %s", chain.device, row.seq, error)
        return None


def _last_moment(store: Store, span: RunSpan) -> tuple[float, datetime]:
    """Seconds to the last of the last rows, whose order need not be that of time.

    At least one second, and when it was.
    """
    last = store.rows(span.chain, max(span.first, span.last - _LAST_ROWS), span.last)
    read = [
        row for stored in last if (row := _decode_row(span.chain, stored)) is not None
    ]
    latest = max(read, key=span.since, default=None)
    if latest is None:
        return 1.0, span.utc
    return max(span.since(latest), 1.0), latest.utc


def _record_incident(story: RunHistory, row: Result | Entry) -> None:
    """Keep what happened beside the frames, as far as there is room."""
    text = _gap_text(row) if isinstance(row, Result) else _entry_text(row)
    if text is None:
        return
    if len(story.incidents) < MAX_INCIDENTS:
        story.incidents.append((row.utc, text))
    else:
        story.more_incidents += 1


def _gap_text(row: Result) -> str | None:
    return f"gap: {row.reason}" if row.status == "gap" else None


def _entry_text(row: Entry) -> str | None:
    entry = row.entry
    if isinstance(entry, Alarm):
        what = entry.severity if entry.until is None else "over"
        return f"alarm {entry.code}, {what}: {entry.text}"
    if isinstance(entry, Note):
        return f"note by {entry.by}: {entry.text}"
    if isinstance(entry, Audit):
        return f"command {entry.name}, {entry.outcome}: {entry.text}"
    return f"run, {entry.phase}: {entry.text}" if entry.text else None
