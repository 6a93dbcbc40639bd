"""Runs as the archive holds them: which there were, and what became of each.

Everything is read from rows; nothing else is needed, neither the device nor a picture.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from edge.entries import Alarm, Audit, Entry, Note, RunMark, read_row
from edge.errors import HemascopeError
from edge.results import Event, Result
from edge.store import Chain, Store
from edge.taxonomy import NOT_A_CELL

_MARK = b'"kind":"run"'
_LAST_ROWS = 20
_BINS = 240  # of a run; counts are means of what was examined in each
MOST_COURSES = 40  # cells that something happened to whose course is shown


class RunUnknown(HemascopeError):
    """The archive holds no such run."""


@dataclass(frozen=True, slots=True)
class Span:
    """A run's rows: from its start to its end, or to the last row before another."""

    chain: Chain
    start: RunMark
    utc: datetime
    first: int
    last: int
    is_ended: bool


@dataclass(slots=True)
class Course:
    """What was said of one cell over time: seconds since the start, probabilities."""

    seconds: list[float] = field(default_factory=list)
    shares: list[tuple[float, ...]] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Story:
    """What became of a run.

    `counts` has the mean number of cells per examined frame of each bin, NaN where none
    was examined; `statuses` counts rows. `events` are the last word on each;
    `confirmed` those as they were first told. `incidents` are time and text of gaps,
    alarms, notes and commands.
    """

    span: Span
    until: datetime
    last: Result | None = None
    statuses: Counter[str] = field(default_factory=Counter)
    counts: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    confirmed: dict[int, Event] = field(default_factory=dict)
    events: dict[int, Event] = field(default_factory=dict)
    courses: dict[int, Course] = field(default_factory=dict)
    incidents: list[tuple[datetime, str]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """How long the run lasted, at least one second."""
        return max((self.until - self.span.utc).total_seconds(), 1.0)


def list_runs(store: Store) -> list[Span]:
    """Return the runs of all devices, in the order of their ledgers."""
    spans: list[Span] = []
    for chain in store.chains():
        marks = [
            (row.seq, entry.utc, entry.entry)
            for row in store.rows_with(chain, _MARK)
            if isinstance(entry := read_row(row.data), Entry)
            and isinstance(entry.entry, RunMark)
        ]
        starts = [mark for mark in marks if mark[2].phase == "start"]
        limits = [seq - 1 for seq, _, _ in starts[1:]] + [store.cursor(chain)[0]]
        ends = {mark.run: seq for seq, _, mark in marks if mark.phase == "end"}
        spans += [
            Span(chain, mark, utc, seq, ends.get(mark.run, limit), mark.run in ends)
            for (seq, utc, mark), limit in zip(starts, limits, strict=True)
        ]
    return spans


def find_run(store: Store, run: str) -> Span:
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


def tell(store: Store, span: Span) -> Story:
    """Read what became of a run."""
    story = Story(span, _time_of_last(store, span))
    sums: dict[str, NDArray[np.float64]] = {}
    examined = np.zeros(_BINS)
    for row in _rows(store, span):
        if isinstance(row, Entry):
            story.incidents += _incident(row)
            continue
        story.statuses[row.status] += 1
        for event in row.events:
            if event.phase == "confirmed":
                story.confirmed[event.id] = event
            story.events[event.id] = event
        if row.following is not None and row.following.classes:
            story.classes = row.following.classes
        if row.status == "gap":
            story.incidents.append((row.utc, f"gap: {row.reason}"))
        if row.status not in ("ok", "degraded"):
            continue
        story.last = row
        place = min(int(_since(story, row) / story.seconds * _BINS), _BINS - 1)
        examined[place] += 1
        for label, count in row.counts.items():
            sums.setdefault(label, np.zeros(_BINS))[place] += count
    sums.pop(NOT_A_CELL, None)
    with np.errstate(invalid="ignore"):
        story.counts = {label: total / examined for label, total in sums.items()}
    _follow(store, story)
    return story


def _follow(store: Store, story: Story) -> None:
    """Read the courses of the cells that something happened to first."""
    tracks = list(dict.fromkeys(e.track_id for e in story.events.values()))
    story.courses = {track: Course() for track in tracks[:MOST_COURSES]}
    if not story.courses:
        return
    for row in _rows(store, story.span):
        if not isinstance(row, Result):
            continue
        for cell in row.cells:
            course = story.courses.get(-1 if cell.track_id is None else cell.track_id)
            if course is not None and cell.course is not UNSET:
                course.seconds.append(_since(story, row))
                course.shares.append(cell.course.probabilities)


def _rows(store: Store, span: Span) -> Iterator[Result | Entry]:
    for row in store.rows(span.chain, span.first, span.last):
        yield read_row(row.data)


def _time_of_last(store: Store, span: Span) -> datetime:
    """Return the latest time of the last rows, whose order need not be that of time."""
    last = store.rows(span.chain, max(span.first, span.last - _LAST_ROWS), span.last)
    return max([span.utc, *(read_row(row.data).utc for row in last)])


def _since(story: Story, row: Result) -> float:
    """Seconds since the start; a frame may be a little older than the mark itself."""
    return max((row.utc - story.span.utc) / timedelta(seconds=1), 0.0)


def _incident(row: Entry) -> list[tuple[datetime, str]]:
    said = row.entry
    if isinstance(said, Alarm):
        what = said.severity if said.until is None else "over"
        return [(row.utc, f"alarm {said.code}, {what}: {said.text}")]
    if isinstance(said, Note):
        return [(row.utc, f"note by {said.by}: {said.text}")]
    if isinstance(said, Audit):
        return [(row.utc, f"command {said.name}, {said.outcome}: {said.text}")]
    return [(row.utc, f"run, {said.phase}: {said.text}")] if said.text else []
