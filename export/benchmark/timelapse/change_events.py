"""Measure events on a simulated run whose truth is known, hours in minutes.

The microscope's clock is ours: a pause until the next frame takes no time. Everything
else is what a device runs: locator, classifier, tracker, sequence model, events.
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

_NEAR_UM = 4.0  # an event this close to a cell is that cell's
_EARLY, _LATE = 3, 10  # frames by which an event may miss the onset and still be found
_SHOWN = 6  # frames that a change must be in view for


class PassingClock:
    """A monotonic clock that runs only while somebody sleeps."""

    def __init__(self) -> None:
        self.ns = 1_000_000_000

    def now_ns(self) -> int:
        """Nanoseconds."""
        return self.ns

    def sleep(self, seconds: float) -> None:
        """Let so much time pass, at once."""
        self.ns += max(1, round(seconds * 1e9))


@dataclass(frozen=True, slots=True)
class ExpectedEvent:
    """A change of the truth that was in view: its frame and place."""

    change: str
    frame: int
    lasts: int
    x_um: float
    y_um: float


@dataclass(slots=True)
class Score:
    """What was found of what happened."""

    hours: float = 0.0
    frames: int = 0
    expected: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    false: Counter[str] = field(default_factory=Counter)
    late: list[int] = field(default_factory=list)  # frames after the true onset
    cells: int = 0
    most_live: int = 0
    missed: list[ExpectedEvent] = field(default_factory=list)
    strays: list[Event] = field(default_factory=list)

    def add(self, other: Score) -> None:
        """Add another run."""
        self.hours += other.hours
        self.frames += other.frames
        self.expected += other.expected
        self.found += other.found
        self.false += other.false
        self.late += other.late
        self.cells += other.cells
        self.most_live = max(self.most_live, other.most_live)

    def lines(self) -> list[str]:
        """Say it in Markdown."""
        told = [
            "| change | happened in view | found | recall | false alarms | per hour |",
            "|---|---|---|---|---|---|",
        ]
        for change in sorted({*self.expected, *self.false}):
            happened, found = self.expected[change], self.found[change]
            share = f"{found / happened:.3f}" if happened else "-"
            false = self.false[change]
            told.append(
                f"| {change} | {happened} | {found} | {share} | {false} | "
                f"{false / self.hours:.2f} |"
            )
        off = np.abs(np.array(self.late or [0]))
        return [
            *told,
            "",
            f"{self.hours:.1f} simulated hours, {self.frames} frames, "
            f"{self.cells / max(self.frames, 1):.0f} cells per frame, at most "
            f"{self.most_live} tracks. Onset: {np.mean(off <= 2):.1%} within 2 frames, "
            f"median {np.median(off):.0f}, worst {off.max()}.",
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

    Cells and timings are left out of what is returned: hours would fill the memory.
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
    """List the changes in view: whole cells that stay in view for a while after.

    The second list holds those that may be told but need not be: cut by the border,
    too near the end, or over before they can be confirmed.
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
        at = [_where(microscope, change.cell, f) for f in (frame, frame + _SHOWN)]
        seen = next((place for place in at if place is not None), None)
        if seen is None:
            continue
        x_um, y_um = (seen[0] + seen[2]) / 2 * um, (seen[1] + seen[3]) / 2 * um
        told = ExpectedEvent(change.change, frame, lasts, x_um, y_um)
        is_whole = all(place is not None and _is_whole(place, source) for place in at)
        is_long = lasts > _SHOWN and _SHOWN < frame < frames - _SHOWN
        (must if is_whole and is_long else may).append(told)
    return must, may


def _where(
    microscope: SimulatedMicroscope, cell: int, frame: int
) -> tuple[float, float, float, float] | None:
    return next((c.box for c in microscope.truth(frame) if c.id == cell), None)


def _is_whole(
    box: tuple[float, float, float, float], source: SimulatedSettings, margin: int = 12
) -> bool:
    return (
        min(box[:2]) > margin
        and box[2] < source.width_px - margin
        and box[3] < source.height_px - margin
    )


def score(microscope: SimulatedMicroscope, run: list[FrameResult]) -> Score:
    """Compare what was told with what happened."""
    source = microscope.settings
    must, may = expected_changes(microscope, len(run))
    result = Score(
        hours=len(run) / source.rate_hz / 3600,
        frames=len(run),
        expected=Counter(e.change for e in must),
        cells=sum(len(said.cells) for said in run),
        most_live=max((s.following.tracks for s in run if s.following), default=0),
    )
    open_must, open_may = list(must), list(may)
    for event in (e for said in run for e in said.events if e.phase == "confirmed"):
        for pool in (open_must, open_may):
            match = _match(event, pool, source.pixel_size_um)
            if match is None:
                continue
            pool.remove(match)
            if pool is open_must:
                result.found[event.change] += 1
                result.late.append(event.onset - match.frame)
            break
        else:
            result.false[event.change] += 1
            result.strays.append(event)
    result.missed = open_must
    return result


def _match(event: Event, pool: list[ExpectedEvent], um: float) -> ExpectedEvent | None:
    """Return the change that an event tells of, the nearest in time, or None."""
    x_um = (event.box[0] + event.box[2]) / 2 * um
    y_um = (event.box[1] + event.box[3]) / 2 * um
    fits = [
        e
        for e in pool
        if e.change == event.change
        and -_EARLY <= event.onset - e.frame <= _LATE
        and np.hypot(e.x_um - x_um, e.y_um - y_um) <= _NEAR_UM
    ]
    return min(fits, key=lambda e: abs(event.onset - e.frame), default=None)
