"""Decide that something happened to a cell: when it began, was sure, and ended.

A change is suspected where its probability reaches `begin_at`. It is confirmed once the
mean probability over the last frames reaches `confirm_at`: only now an event is
reported, with the frame that was suspected first as its onset. It ends once that mean
falls below `end_below`, when another change replaces it, or with its track. A suspicion
that is dropped is never reported. Two thresholds, a high one to begin and a low one to
end, keep an event from flickering: a Schmitt trigger.

A model that has watched a cell for hours may lean towards a change that never comes. So
each cell is also compared with itself: the log-odds of the change, log(p / (1 - p)),
must rise above their own running mean. Log-odds, because a rise from 0.01 to 0.1 is as
much evidence as one from 0.9 to 0.99.
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

_BASELINE_FRAMES = 16  # over which the log-odds of a cell are averaged
_MIN_PROBABILITY = 1e-4  # of 0 and 1; keeps log-odds finite
_RED_CHANGES = ("lysis",)  # that ask for somebody to come and look


@dataclass(frozen=True, slots=True)
class FrameTime:
    """Number and time of a frame, by its driver."""

    sequence: int
    utc: datetime


@dataclass(slots=True)
class _Change:
    """A change of one cell that is suspected or confirmed.

    `class_index` of the model; `recent` probabilities and `rises` of log-odds over the
    last frames; `total` probability over all `frames`; `number` once it is confirmed.
    """

    name: str
    class_index: int
    onset: FrameTime
    recent: deque[float]
    rises: deque[float]
    number: int | None = None
    frames: int = 0
    total: float = 0.0

    def add_frame(self, probability: float, rise: float) -> None:
        """Take the probability in one more frame, and its rise of log-odds."""
        self.recent.append(probability)
        self.rises.append(rise)
        self.total += probability
        self.frames += 1

    @property
    def mean(self) -> float:
        """Mean probability over the last frames."""
        return sum(self.recent) / len(self.recent)

    @property
    def mean_rise(self) -> float:
        """Mean rise of the log-odds over the last frames."""
        return sum(self.rises) / len(self.rises)

    @property
    def is_full(self) -> bool:
        """Whether there are enough frames to decide."""
        return len(self.recent) == self.recent.maxlen


@dataclass(slots=True)
class _CellState:
    """One cell: its confirmed change, and the one suspected to replace it.

    `box` and `frame` are those of the last frame.
    """

    confirmed: _Change | None = None
    suspected: _Change | None = None
    box: Box = (0, 0, 0, 0)
    frame: int = 0


class ChangeDetector:
    """Watches the class probabilities of all followed cells of one run.

    Invariant: a cell has at most one confirmed change, and at most one suspected.

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
        is_reported = [name not in settings.quiet for name in self._classes]
        self._reported = np.flatnonzero(is_reported)
        self.next_id = first_id
        self._open: dict[int, _CellState] = {}
        self._baselines: dict[int, NDArray[np.float32]] = {}  # log-odds (K,) by track

    def add_frame(
        self,
        time: FrameTime,
        tracks: NDArray[np.int64],
        probabilities: NDArray[np.float32],
        frames: NDArray[np.int64],
        boxes: Sequence[Box],
    ) -> list[Event]:
        """Look at one frame and return what is confirmed or over with it.

        Parameters
        ----------
        time
            Of the frame.
        tracks
            (N,) int64 numbers of the cells.
        probabilities
            (N, K) float32, see `Predictions`.
        frames
            (N,) int64, how many frames the model has seen of each; young states are not
            believed.
        boxes
            N boxes, pixels.
        """
        if len(tracks) == 0 or len(self._reported) == 0:
            return []
        likeliest = self._reported[probabilities[:, self._reported].argmax(axis=1)]
        each = np.arange(len(tracks))
        rise = self._rise(tracks, probabilities, frames)
        # Half of the rise is enough to suspect: at its onset a change has only begun.
        is_suspect = (
            (probabilities[each, likeliest] >= self._settings.begin_at)
            & (rise[each, likeliest] >= self._settings.least_rise / 2)
            & (frames > self._settings.settle_frames)
        )
        is_open = np.fromiter((t in self._open for t in tracks.tolist()), bool)
        events: list[Event] = []
        # Most cells are quiet. Only the others are looked at one by one.
        for row in np.flatnonzero(is_suspect | is_open).tolist():
            track = int(tracks[row])
            cell = self._open.setdefault(track, _CellState())
            cell.box, cell.frame = boxes[row], time.sequence
            if is_suspect[row]:
                self._suspect(cell, int(likeliest[row]), time)
            for change in (cell.confirmed, cell.suspected):
                if change is not None:
                    probability = float(probabilities[row, change.class_index])
                    change.add_frame(probability, float(rise[row, change.class_index]))
            events += self._decide(track, cell)
            if cell.confirmed is None and cell.suspected is None:
                del self._open[track]
        return events

    def is_open(self, track: int) -> bool:
        """Whether this cell has a confirmed or suspected change."""
        return track in self._open

    def end(self, tracks: Iterable[int], reason: str) -> list[Event]:
        """Forget tracks that are over; return the ends of their events."""
        events = []
        for track in tracks:
            self._baselines.pop(track, None)
            cell = self._open.pop(track, None)
            if cell is not None and cell.confirmed is not None:
                events.append(_event(track, cell, cell.confirmed, reason))
        return events

    def end_all(self, reason: str) -> list[Event]:
        """Forget all tracks; return the ends of their events."""
        return self.end(list(self._baselines), reason)

    def _rise(
        self,
        tracks: NDArray[np.int64],
        probabilities: NDArray[np.float32],
        frames: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """Return how far log-odds (N, K) lie above the baseline of each cell.

        `tracks` (N,), `probabilities` (N, K), `frames` (N,), see `add_frame`.

        The baseline is a running mean, m += (x - m) / min(n, 16): the plain mean at
        first, then an exponential one that forgets.
        """
        share = np.clip(probabilities, _MIN_PROBABILITY, 1 - _MIN_PROBABILITY)
        odds = np.log(share / (1 - share))
        numbers = tracks.tolist()
        baseline = np.stack(
            [self._baselines.get(t, row) for t, row in zip(numbers, odds, strict=True)]
        )
        rise = np.asarray(odds - baseline, np.float32)
        rate = 1 / np.minimum(np.maximum(frames, 1), _BASELINE_FRAMES)[:, None]
        baseline += (rate * rise).astype(np.float32)
        # While a change is suspected or confirmed its baseline stands still. Otherwise
        # the change itself would become usual, and end its own event.
        for track, row in zip(numbers, baseline, strict=True):
            if track not in self._open:
                self._baselines[track] = row
        return rise

    def _suspect(self, cell: _CellState, class_index: int, time: FrameTime) -> None:
        """Begin to suspect a class, unless it is confirmed or suspected already.

        A new suspicion replaces an older one.
        """
        current = (cell.confirmed, cell.suspected)
        if any(c is not None and c.class_index == class_index for c in current):
            return
        frames = self._settings.confirm_frames
        cell.suspected = _Change(
            self._classes[class_index],
            class_index,
            time,
            deque(maxlen=frames),
            deque(maxlen=frames),
        )

    def _is_sure(self, change: _Change) -> bool:
        """Whether a suspected change is confirmed."""
        return (
            change.is_full
            and change.mean >= self._settings.confirm_at
            and change.mean_rise >= self._settings.least_rise
        )

    def _is_unfounded(self, change: _Change) -> bool:
        """Whether a suspicion is dropped: unlikely again, or undecided for too long."""
        return (
            change.mean < self._settings.begin_at
            or change.frames >= self._settings.doubt_frames
        )

    def _decide(self, track: int, cell: _CellState) -> list[Event]:
        """Confirm, drop or end, by the means of the last frames."""
        events = []
        before, suspected = cell.confirmed, cell.suspected
        if suspected is not None and self._is_sure(suspected):
            if before is not None:
                reason = f"{suspected.name} took its place"
                events.append(_event(track, cell, before, reason))
            suspected.number, self.next_id = self.next_id, self.next_id + 1
            cell.confirmed, cell.suspected = suspected, None
            events.append(_event(track, cell, suspected, None))
        elif suspected is not None and self._is_unfounded(suspected):
            cell.suspected = None
        elif before is not None and before.mean < self._settings.end_below:
            cell.confirmed = None
            events.append(_event(track, cell, before, "the cell is as before"))
        return events


def _event(track: int, cell: _CellState, change: _Change, reason: str | None) -> Event:
    """Return the row of an event: confirmed without a `reason`, otherwise ended."""
    return Event(
        id=change.number or 0,
        track_id=track,
        change=change.name,
        phase="confirmed" if reason is None else "ended",
        onset=change.onset.sequence,
        onset_utc=change.onset.utc,
        frame=cell.frame,
        frames=change.frames,
        confidence=round(min(change.total / change.frames, 1.0), 4),
        box=cell.box,
        reason=reason,
    )


def alarm_of(event: Event) -> tuple[Severity, str] | None:
    """Return severity and text of the alarm for a confirmed event, None for an end.

    Lysis is red: cells burst because something is wrong with the medium around them.
    """
    if event.phase != "confirmed":
        return None
    severity: Severity = "red" if event.change in _RED_CHANGES else "amber"
    since = event.onset_utc.strftime("%H:%M:%S")
    return severity, (
        f"{event.change} of cell {event.track_id} since frame {event.onset}, {since} "
        f"UTC, {event.confidence:.0%} sure"
    )
