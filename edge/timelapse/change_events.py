"""Say that something happened to a cell: when it began, that it is sure, when it ended.

A change is suspected where its probability reaches `begin_at`, confirmed once its mean
over the last frames reaches `confirm_at`, and over once that mean falls below
`end_below`, another change takes its place, or the cell is gone. A suspicion that is
dropped again is never told. The onset is the frame that was suspected first.

A model that has watched a cell for hours may lean towards a change that never came. So
each cell is also compared with itself: its log-odds must rise above their own mean.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from edge.schema.entries import Severity
from edge.schema.results import Box, Event
from edge.settings.timelapse import EventSettings

_USUAL_FRAMES = 16  # over which what is usual for a cell is averaged
_SURE = 1e-4  # probabilities are not believed to be nearer to 0 or 1
_GRAVE = ("lysis",)  # what asks for somebody to come and look


@dataclass(frozen=True, slots=True)
class FrameTime:
    """The frame of which something is said: its driver's number and time."""

    sequence: int
    utc: datetime


@dataclass(slots=True)
class _Change:
    """A change of one cell that is suspected or goes on; `number` once it is sure."""

    name: str
    at: int
    onset: FrameTime
    last: deque[float]
    rises: deque[float]
    number: int | None = None
    frames: int = 0
    total: float = 0.0

    def see(self, share: float, rise: float) -> None:
        """Take the probability of one more frame, and its rise of log-odds."""
        self.last.append(share)
        self.rises.append(rise)
        self.total += share
        self.frames += 1

    @property
    def mean(self) -> float:
        """Mean probability of the last frames."""
        return sum(self.last) / len(self.last)

    @property
    def is_full(self) -> bool:
        """Whether enough frames have been seen to judge."""
        return len(self.last) == self.last.maxlen


@dataclass(slots=True)
class _CellState:
    """One cell: what goes on, and what is suspected to take its place."""

    going_on: _Change | None = None
    suspected: _Change | None = None
    box: Box = (0, 0, 0, 0)
    frame: int = 0


class ChangeDetector:
    """Watches the classes of all followed cells of one run.

    Parameters
    ----------
    classes
        Of the sequence model, in its order.
    settings
        When a change is believed.
    first_id
        The first number an event gets.
    """

    def __init__(
        self, classes: Sequence[str], settings: EventSettings, *, first_id: int = 1
    ) -> None:
        self._classes, self._settings = tuple(classes), settings
        loud = [name not in settings.quiet for name in self._classes]
        self._loud = np.flatnonzero(loud)
        self.next_id = first_id
        self._open: dict[int, _CellState] = {}
        self._usual: dict[int, NDArray[np.float32]] = {}  # log-odds of each cell

    def take(
        self,
        moment: FrameTime,
        tracks: NDArray[np.int64],
        probabilities: NDArray[np.float32],
        frames: NDArray[np.int64],
        boxes: Sequence[Box],
    ) -> list[Event]:
        """Look at one frame and return what is confirmed or over with it.

        Parameters
        ----------
        moment
            The frame.
        tracks
            (N,) numbers of the cells.
        probabilities
            (N, K), see `Predictions`.
        frames
            (N,) how many frames the model has seen of each; young ones are not
            believed.
        boxes
            N boxes, pixels.
        """
        if len(tracks) == 0 or len(self._loud) == 0:
            return []
        loudest = self._loud[probabilities[:, self._loud].argmax(axis=1)]
        each = np.arange(len(tracks))
        rise = self._rise(tracks, probabilities, frames)
        is_told = (
            (probabilities[each, loudest] >= self._settings.begin_at)
            & (rise[each, loudest] >= self._settings.least_rise / 2)
            & (frames > self._settings.settle_frames)
        )
        is_open = np.fromiter((t in self._open for t in tracks.tolist()), bool)
        events: list[Event] = []
        for row in np.flatnonzero(is_told | is_open).tolist():
            track = int(tracks[row])
            watch = self._open.setdefault(track, _CellState())
            watch.box, watch.frame = boxes[row], moment.sequence
            told = int(loudest[row]) if is_told[row] else None
            self._suspect(watch, told, moment)
            for change in (watch.going_on, watch.suspected):
                if change is not None:
                    share = float(probabilities[row, change.at])
                    change.see(share, float(rise[row, change.at]))
            events += self._judge(track, watch)
            if watch.going_on is None and watch.suspected is None:
                del self._open[track]
        return events

    def is_open(self, track: int) -> bool:
        """Whether something goes on with this cell, or is suspected."""
        return track in self._open

    def end(self, tracks: Iterable[int], reason: str) -> list[Event]:
        """End the events of tracks that are over."""
        events = []
        for track in tracks:
            self._usual.pop(track, None)
            watch = self._open.pop(track, None)
            if watch is not None and watch.going_on is not None:
                events.append(_event(track, watch, watch.going_on, reason))
        return events

    def end_all(self, reason: str) -> list[Event]:
        """End everything that goes on."""
        return self.end(list(self._usual), reason)

    def _rise(
        self,
        tracks: NDArray[np.int64],
        probabilities: NDArray[np.float32],
        frames: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """How far the log-odds (N, K) lie above what is usual for each cell.

        What is usual is not learned from a cell of which something is suspected.
        """
        share = np.clip(probabilities, _SURE, 1 - _SURE)
        odds = np.log(share / (1 - share))
        numbers = tracks.tolist()
        usual = np.stack(
            [self._usual.get(t, row) for t, row in zip(numbers, odds, strict=True)]
        )
        rise = np.asarray(odds - usual, np.float32)
        rate = 1 / np.minimum(np.maximum(frames, 1), _USUAL_FRAMES)[:, None]
        usual += (rate * rise).astype(np.float32)
        for track, row in zip(numbers, usual, strict=True):
            if track not in self._open:
                self._usual[track] = row
        return rise

    def _suspect(self, watch: _CellState, told: int | None, moment: FrameTime) -> None:
        """Begin to suspect `told`, unless it is what goes on or is suspected already.

        A new suspicion takes the place of an older one.
        """
        known = (watch.going_on, watch.suspected)
        if told is None or any(c is not None and c.at == told for c in known):
            return
        frames = self._settings.confirm_frames
        watch.suspected = _Change(
            self._classes[told],
            told,
            moment,
            deque(maxlen=frames),
            deque(maxlen=frames),
        )

    def _is_sure(self, change: _Change) -> bool:
        rise = sum(change.rises) / len(change.rises)
        return (
            change.is_full
            and change.mean >= self._settings.confirm_at
            and rise >= self._settings.least_rise
        )

    def _is_vain(self, change: _Change) -> bool:
        return (
            change.mean < self._settings.begin_at
            or change.frames >= self._settings.doubt_frames
        )

    def _judge(self, track: int, watch: _CellState) -> list[Event]:
        """Confirm, drop or end, by the mean of the last frames."""
        events = []
        before, suspected = watch.going_on, watch.suspected
        if suspected is not None and self._is_sure(suspected):
            if before is not None:
                reason = f"{suspected.name} took its place"
                events.append(_event(track, watch, before, reason))
            suspected.number, self.next_id = self.next_id, self.next_id + 1
            watch.going_on, watch.suspected = suspected, None
            events.append(_event(track, watch, suspected, None))
        elif suspected is not None and self._is_vain(suspected):
            watch.suspected = None
        elif before is not None and before.mean < self._settings.end_below:
            watch.going_on = None
            events.append(_event(track, watch, before, "the cell is as before"))
        return events


def _event(track: int, watch: _CellState, change: _Change, reason: str | None) -> Event:
    return Event(
        id=change.number or 0,
        track_id=track,
        change=change.name,
        phase="confirmed" if reason is None else "ended",
        onset=change.onset.sequence,
        onset_utc=change.onset.utc,
        frame=watch.frame,
        frames=change.frames,
        confidence=round(min(change.total / change.frames, 1.0), 4),
        box=watch.box,
        reason=reason,
    )


def alarm_of(event: Event) -> tuple[Severity, str] | None:
    """Return how grave a confirmed event is and one line on it; None of one that ended.

    Lysis is red: cells burst because something is wrong with what they lie in.
    """
    if event.phase != "confirmed":
        return None
    severity: Severity = "red" if event.change in _GRAVE else "amber"
    since = event.onset_utc.strftime("%H:%M:%S")
    return severity, (
        f"{event.change} of cell {event.track_id} since frame {event.onset}, {since} "
        f"UTC, {event.confidence:.0%} sure"
    )
