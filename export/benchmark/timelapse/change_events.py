"""Measure the events of a simulated run whose truth is known, hours in minutes.

The microscope runs on a clock of its own, on which the wait for the next frame takes no
time. Everything else is what a device runs: locator, classifier, tracker, sequence
model, events.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from edge.frames import Exposure
from edge.pipeline.parts import Parts
from edge.run.composition import open_follower
from edge.schema.results import Event, FrameResult
from edge.settings.sources import SimulatedSettings
from edge.settings.timelapse import EventSettings, PauseSettings, TrackingSettings
from edge.simulation.microscope import SimulatedMicroscope

_NEAR_UM = 4.0  # an event this close to a cell belongs to it
_MAX_EARLY, _MAX_LATE = 3, 10  # frames from the true onset to that of its event
_MIN_SHOWN = 6  # frames for which a change must be in view to be expected


class PassingClock:
    """A monotonic clock that goes on only by sleeping, which takes no time."""

    def __init__(self) -> None:
        self.ns = 1_000_000_000

    def now_ns(self) -> int:
        """Nanoseconds."""
        return self.ns

    def sleep(self, seconds: float) -> None:
        """Set the clock forward, at once."""
        self.ns += max(1, round(seconds * 1e9))


@dataclass(frozen=True, slots=True)
class ExpectedEvent:
    """A change of the truth that was in view.

    `frame` is that of its onset; the next change of the cell comes `lasts` frames
    later; the cell is at `x_um`, `y_um` in the field.
    """

    change: str
    frame: int
    lasts: int
    x_um: float
    y_um: float


@dataclass(slots=True)
class Score:
    """Events that were found, compared with the changes that happened.

    `false` counts events without a change. `late` are the frames from a change to the
    onset of its event, below 0 if the event is early. `missed` are the changes without
    an event, `false_events` the events without a change.
    """

    hours: float = 0.0
    frames: int = 0
    expected: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    false: Counter[str] = field(default_factory=Counter)
    late: list[int] = field(default_factory=list)
    cells: int = 0
    max_tracks: int = 0
    missed: list[ExpectedEvent] = field(default_factory=list)
    false_events: list[Event] = field(default_factory=list)

    def add(self, other: Score) -> None:
        """Add another run."""
        self.hours += other.hours
        self.frames += other.frames
        self.expected += other.expected
        self.found += other.found
        self.false += other.false
        self.late += other.late
        self.cells += other.cells
        self.max_tracks = max(self.max_tracks, other.max_tracks)

    def lines(self) -> list[str]:
        """Write a table and a sentence in Markdown."""
        table = [
            "| change | happened in view | found | recall | false alarms | per hour |",
            "|---|---|---|---|---|---|",
        ]
        for change in sorted({*self.expected, *self.false}):
            happened, found = self.expected[change], self.found[change]
            share = f"{found / happened:.3f}" if happened else "-"
            false = self.false[change]
            table.append(
                f"| {change} | {happened} | {found} | {share} | {false} | "
                f"{false / self.hours:.2f} |"
            )
        error = np.abs(np.array(self.late or [0]))
        cells = self.cells / max(self.frames, 1)
        return [
            *table,
            "",
            f"{self.hours:.1f} simulated hours, {self.frames} frames, "
            f"{cells:.0f} cells per frame, at most {self.max_tracks} tracks. "
            f"Onset: {np.mean(error <= 2):.1%} within 2 frames, "
            f"median {np.median(error):.0f}, worst {error.max()}.",
        ]


def run_simulated(
    parts: Parts,
    source: SimulatedSettings,
    frames: int,
    tracking: TrackingSettings,
    events: EventSettings,
    on_frame: Callable[[FrameResult], None] = lambda result: None,
) -> tuple[SimulatedMicroscope, list[FrameResult]]:
    """Examine and follow `frames` exposures of a simulated microscope.

    Parameters
    ----------
    parts
        Locator, classifier and sequence model.
    source
        Settings of the microscope.
    frames
        How many exposures.
    tracking, events
        Settings of the tracker and of events.
    on_frame
        Called with each result.

    Returns
    -------
    tuple
        The microscope, which knows the truth, and the results.
    """
    clock = PassingClock()
    microscope = SimulatedMicroscope(
        source, monotonic_ns=clock.now_ns, sleep=clock.sleep
    )
    camera = microscope.connect()
    pipeline = parts.open_pipeline()
    follower = open_follower(parts, tracking, PauseSettings(), events)
    kept: list[FrameResult] = []
    while len(kept) < frames:
        exposure = camera.read(1e9)
        if not isinstance(exposure, Exposure):
            continue
        result = follower.follow(pipeline.examine(exposure))
        on_frame(result)
        kept.append(result)
    follower.close()
    pipeline.close()
    return microscope, kept


def expected_changes(
    microscope: SimulatedMicroscope, frames: int
) -> tuple[list[ExpectedEvent], list[ExpectedEvent]]:
    """List the changes that must be found, and those that may be found.

    A change must be found if its cell is whole and stays in view for some frames. It
    may be found, but need not be, if its cell is cut by the border, if it comes too
    near to an end of the run, or if the next change comes before it can be confirmed.
    """
    source = microscope.settings
    rate, um = source.rate_hz, source.pixel_size_um
    changes = microscope.changes()
    must: list[ExpectedEvent] = []
    may: list[ExpectedEvent] = []
    for change in changes:
        frame = int(np.ceil(change.onset_s * rate))
        later = [
            c.onset_s
            for c in changes
            if c.cell == change.cell and c.onset_s > change.onset_s
        ]
        lasts = int(np.ceil(min(later, default=np.inf) * rate) - frame) if later else 99
        if frame >= frames:
            continue
        shown = (frame, frame + _MIN_SHOWN)
        boxes = [_box_of(microscope, change.cell, number) for number in shown]
        box = next((box for box in boxes if box is not None), None)
        if box is None:
            continue
        x_um, y_um = (box[0] + box[2]) / 2 * um, (box[1] + box[3]) / 2 * um
        expected = ExpectedEvent(change.change, frame, lasts, x_um, y_um)
        is_whole = all(b is not None and _is_whole(b, source) for b in boxes)
        is_long = lasts > _MIN_SHOWN and _MIN_SHOWN < frame < frames - _MIN_SHOWN
        (must if is_whole and is_long else may).append(expected)
    return must, may


def _box_of(
    microscope: SimulatedMicroscope, cell: int, frame: int
) -> tuple[float, float, float, float] | None:
    """Box of a cell in a frame; None if it is not in view."""
    return next((c.box for c in microscope.truth(frame) if c.id == cell), None)


def _is_whole(
    box: tuple[float, float, float, float], source: SimulatedSettings, margin: int = 12
) -> bool:
    """Whether a box lies at least `margin` pixels inside the frame."""
    return (
        min(box[:2]) > margin
        and box[2] < source.width_px - margin
        and box[3] < source.height_px - margin
    )


def score(microscope: SimulatedMicroscope, run: list[FrameResult]) -> Score:
    """Compare the events of a run with the changes that happened.

    Each event is matched with a change that must be found, or else with one that may
    be. Only the former count; an event without a match is false.
    """
    source = microscope.settings
    must, may = expected_changes(microscope, len(run))
    result = Score(
        hours=len(run) / source.rate_hz / 3600,
        frames=len(run),
        expected=Counter(e.change for e in must),
        cells=sum(len(frame.cells) for frame in run),
        max_tracks=max((f.following.tracks for f in run if f.following), default=0),
    )
    open_must, open_may = list(must), list(may)
    for event in (e for f in run for e in f.events if e.phase == "confirmed"):
        for candidates in (open_must, open_may):
            match = _match(event, candidates, source.pixel_size_um)
            if match is None:
                continue
            candidates.remove(match)
            if candidates is open_must:
                result.found[event.change] += 1
                result.late.append(event.onset - match.frame)
            break
        else:
            result.false[event.change] += 1
            result.false_events.append(event)
    result.missed = open_must
    return result


def _match(
    event: Event, candidates: list[ExpectedEvent], um: float
) -> ExpectedEvent | None:
    """Return the change that an event reports, the nearest in time, or None.

    It is of the same kind, near in space and in time; `um` is the size of a pixel.
    """
    x_um = (event.box[0] + event.box[2]) / 2 * um
    y_um = (event.box[1] + event.box[3]) / 2 * um
    fits = [
        e
        for e in candidates
        if e.change == event.change
        and -_MAX_EARLY <= event.onset - e.frame <= _MAX_LATE
        and np.hypot(e.x_um - x_um, e.y_um - y_um) <= _NEAR_UM
    ]
    return min(fits, key=lambda e: abs(event.onset - e.frame), default=None)
