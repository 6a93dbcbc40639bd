"""The runs in an archive, and the history of each.

Everything is read from the archive's rows; neither the device nor a recording is
needed.
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
)  # holds a note of 1000 characters, escaped
_LAST_ROWS = 20
_MAX_BINS, _MIN_ROWS_PER_BIN = 240, 2  # time bins of a run's counts
_MAX_POINTS = 4096  # of one cell's history; beyond, every second one is dropped
MAX_CELL_HISTORIES = 40  # changed cells whose history is shown
MAX_INCIDENTS = 200  # further ones are only counted


class RunUnknown(HemascopeError):
    """The archive holds no such run."""


@dataclass(frozen=True, slots=True)
class RunSpan:
    """The rows of a run: from its start to its end, or to the start of the next run.

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

    def seconds_since_start(self, row: Result | Entry) -> float:
        """Return the seconds from the start of the run to a row, at least 0.

        A frame that was exposed just before the start gives 0.
        """
        # Wall time may be set while a run goes on. The monotonic clock never is, but it
        # begins again at each boot, so it can only be used within one.
        if row.boot_id == self.boot_id:
            return max((row.monotonic_ns - self.monotonic_ns) * 1e-9, 0.0)
        return max((row.utc - self.utc) / timedelta(seconds=1), 0.0)


@dataclass(slots=True)
class CellHistory:
    """The class probabilities of one cell over time, in seconds since the start.

    Of the frames, every `stride`-th is kept.
    """

    seconds: list[float] = field(default_factory=list)
    probabilities: list[tuple[float, ...]] = field(default_factory=list)
    frames_seen: int = 0
    stride: int = 1

    def add(self, seconds: float, probabilities: tuple[float, ...]) -> None:
        """Add what one more frame says, unless the stride leaves it out."""
        if self.frames_seen % self.stride == 0:
            self.seconds.append(seconds)
            self.probabilities.append(probabilities)
        self.frames_seen += 1
        if len(self.seconds) > _MAX_POINTS:
            del self.seconds[1::2], self.probabilities[1::2]
            self.stride *= 2


@dataclass(slots=True, eq=False)
class RunHistory:
    """The history of a run.

    `seconds` and `until` are the time of its last row. `last` is the last frame that
    was examined. `counts` has, by class, the mean number of cells per examined frame in
    each time bin: (bins,) float64, NaN where no frame was examined. `statuses` counts
    rows by status, `unreadable` the rows that this version cannot decode. `events` are
    the last messages about each event, by event id; `onsets` are seconds since the
    start. By track id, `cells` are the histories that are shown and `filmstrips` their
    pictures.
    `previous_tracks` are tracks of the run before, which ended with the first frame of
    this one. `incidents` are time and text of the first gaps, alarms, notes and
    commands; `more_incidents` counts the others.
    """

    span: RunSpan
    seconds: float
    until: datetime
    last: Result | None = None
    unreadable: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    counts: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    events: dict[int, Event] = field(default_factory=dict)
    onsets: dict[int, float] = field(default_factory=dict)
    filmstrips: dict[int, Filmstrip] = field(default_factory=dict)
    previous_tracks: set[int] = field(default_factory=set)
    cells: dict[int, CellHistory] = field(default_factory=dict)
    incidents: list[tuple[datetime, str]] = field(default_factory=list)
    more_incidents: int = 0


def list_runs(store: Store) -> list[RunSpan]:
    """Return the runs of all devices, in the order of their ledgers.

    Rows that this version cannot read are left out: the archive also stores rows of
    devices that have a newer version.
    """
    spans: list[RunSpan] = []
    for chain in store.chains():
        marks = [
            (entry, entry.entry)
            for row in store.short_rows_with(chain, _MARK_BYTES, _MAX_MARK_BYTES)
            if isinstance(entry := _decode_row(chain, row), Entry)
            and isinstance(entry.entry, RunMark)
        ]
        starts = [(entry, mark) for entry, mark in marks if mark.phase == "start"]
        if not starts:
            continue
        last_rows = [entry.seq - 1 for entry, _ in starts[1:]] + [
            store.cursor(chain)[0]
        ]
        ends = {mark.run: entry.seq for entry, mark in marks if mark.phase == "end"}
        spans += [
            RunSpan(
                chain,
                mark,
                entry.utc,
                entry.monotonic_ns,
                entry.boot_id,
                entry.seq,
                ends.get(mark.run, last_row),
                mark.run in ends,
            )
            for (entry, mark), last_row in zip(starts, last_rows, strict=True)
        ]
    return spans


def find_run(store: Store, run: str) -> RunSpan:
    """Return the run whose id begins with `run`.

    Raises
    ------
    RunUnknown
        There is no such run, or more than one.
    """
    spans = list_runs(store)
    found = [span for span in spans if span.start.run.startswith(run)]
    if len(found) != 1:
        known = ", ".join(span.start.run for span in spans[-5:]) or "none"
        raise RunUnknown(
            f"{len(found)} runs begin with {run!r}, expected one; the last runs are "
            f"{known}"
        )
    return found[0]


def read_run_history(store: Store, span: RunSpan) -> RunHistory:
    """Read the history of a run from its rows."""
    history = RunHistory(span, *_last_moment(store, span))
    sums: dict[str, NDArray[np.float64]] = {}
    rows = span.last - span.first + 1
    bins = min(max(rows // _MIN_ROWS_PER_BIN, 1), _MAX_BINS)
    examined = np.zeros(bins)
    for stored in store.rows(span.chain, span.first, span.last):
        row = _decode_row(span.chain, stored)
        if row is None:
            history.unreadable += 1
            continue
        _record_incident(history, row)
        if isinstance(row, Entry):
            continue
        history.statuses[row.status] += 1
        _record_events(history, row)
        if row.following is not None and row.following.classes:
            history.classes = row.following.classes
        if row.status not in ("ok", "degraded"):
            continue
        history.last = row
        bin_index = min(
            int(span.seconds_since_start(row) / history.seconds * bins), bins - 1
        )
        examined[bin_index] += 1
        for label, count in row.counts.items():
            sums.setdefault(label, np.zeros(bins))[bin_index] += count
    sums.pop(NOT_A_CELL, None)
    with np.errstate(invalid="ignore"):
        history.counts = {label: total / examined for label, total in sums.items()}
    _read_cell_histories(store, history)
    return history


def _record_events(history: RunHistory, row: Result) -> None:
    """Record the events of a frame, and the first filmstrip of each cell."""
    if row.following is not None and row.following.continuity == "new run":
        history.previous_tracks.update(row.following.ended)
    for event in row.events:
        if event.track_id in history.previous_tracks:
            continue
        filmstrip, event = event.strip, msgspec.structs.replace(event, strip=UNSET)
        history.events[event.id] = event
        ago_s = (row.utc - event.onset_utc) / timedelta(seconds=1)
        history.onsets.setdefault(
            event.id, history.span.seconds_since_start(row) - ago_s
        )
        if len(history.cells) < MAX_CELL_HISTORIES:
            history.cells.setdefault(event.track_id, CellHistory())
        if event.track_id in history.cells and filmstrip is not UNSET:
            history.filmstrips.setdefault(event.track_id, filmstrip)


def _read_cell_histories(store: Store, history: RunHistory) -> None:
    """Read the histories of the cells that changed first.

    A second pass over the rows: which cells change is known only after the first one.
    """
    if not history.cells:
        return
    for stored in store.rows(history.span.chain, history.span.first, history.span.last):
        row = _decode_row(history.span.chain, stored)
        if not isinstance(row, Result):
            continue
        for cell in row.cells:
            track = -1 if cell.track_id is None else cell.track_id
            shown = history.cells.get(track)
            if shown is not None and cell.course is not UNSET:
                shown.add(
                    history.span.seconds_since_start(row), cell.course.probabilities
                )


def _decode_row(chain: Chain, row: LedgerRow) -> Result | Entry | None:
    """Decode a row; None where this version does not know it."""
    try:
        return read_row(row.data)
    except PayloadInvalid as error:
        log.debug("device=%s row %d left out: %s", chain.device, row.seq, error)
        return None


def _last_moment(store: Store, span: RunSpan) -> tuple[float, datetime]:
    """Return the time of the latest row: seconds since the start, at least 1, and UTC.

    Rows need not be in the order of their times: entries are written while frames are
    in work. So the latest of the last few is taken.
    """
    stored_rows = store.rows(
        span.chain, max(span.first, span.last - _LAST_ROWS), span.last
    )
    decoded = [
        row
        for stored in stored_rows
        if (row := _decode_row(span.chain, stored)) is not None
    ]
    latest = max(decoded, key=span.seconds_since_start, default=None)
    if latest is None:
        return 1.0, span.utc
    return max(span.seconds_since_start(latest), 1.0), latest.utc


def _record_incident(history: RunHistory, row: Result | Entry) -> None:
    """Record a gap, alarm, note or command, as far as there is room."""
    text = _gap_text(row) if isinstance(row, Result) else _entry_text(row)
    if text is None:
        return
    if len(history.incidents) < MAX_INCIDENTS:
        history.incidents.append((row.utc, text))
    else:
        history.more_incidents += 1


def _gap_text(row: Result) -> str | None:
    return f"gap: {row.reason}" if row.status == "gap" else None


def _entry_text(row: Entry) -> str | None:
    entry = row.entry
    if isinstance(entry, Alarm):
        state = entry.severity if entry.until is None else "over"
        return f"alarm {entry.code}, {state}: {entry.text}"
    if isinstance(entry, Note):
        return f"note by {entry.by}: {entry.text}"
    if isinstance(entry, Audit):
        return f"command {entry.name}, {entry.outcome}: {entry.text}"
    return f"run, {entry.phase}: {entry.text}" if entry.text else None
