"""Settings of time-lapse: schedule, tracking, pauses and events."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from edge.schema.results import Share
from edge.settings.values import (
    Positive,
    StrictSettings,
)

MAX_STEPS = 500  # of a cell, in the longest shift of a field


class TrackingSettings(StrictSettings, frozen=True):
    """Cells are followed from frame to frame.

    `most_step_um`: largest step of a cell on its own between two frames;
    `most_shift_um`: largest shift of the whole field between two frames that is
    recognised; `confirm_after`: a cell gets a number after so many frames in which it
    is found; `coast_frames`: its track ends after more missing frames than these;
    `most_tracks`: cells followed at once. Beyond it the tracks missing longest end to
    make room; where none is missing, new cells are not followed.
    """

    most_step_um: Positive = 3.0
    most_shift_um: Positive = 60.0
    confirm_after: Annotated[int, Meta(ge=1, le=100)] = 2
    coast_frames: Annotated[int, Meta(ge=0, le=1000)] = 5
    most_tracks: Annotated[int, Meta(ge=1, le=5000)] = 1000

    def __post_init__(self) -> None:
        if self.most_shift_um > MAX_STEPS * self.most_step_um:
            raise ValueError(
                f"most_shift_um is {self.most_shift_um:g}, expected at most "
                f"{MAX_STEPS} times most_step_um, {self.most_step_um:g}: shifts are "
                "looked for in steps of it"
            )


class PhaseSettings(StrictSettings, frozen=True):
    """Points at one interval, for `duration_h` or so many `points`."""

    interval_s: Annotated[float, Meta(ge=0.01, le=1e6)]
    duration_h: Positive | None = None
    points: Annotated[int, Meta(ge=1, le=10_000_000)] | None = None

    def __post_init__(self) -> None:
        if (self.duration_h is None) == (self.points is None):
            raise ValueError("give duration_h or points, one of the two")


class ScheduleSettings(StrictSettings, frozen=True):
    """Frames are examined at planned points, and at no other time.

    Give one phase as `interval_s` with `duration_h` or `points`, or several as
    `phases`, or a useq-schema `file`. `frames_per_point`: frames taken one after the
    other at each point. `when_done`: after the last point the run ends; then the
    process ends, or waits for the command to start another run.
    """

    file: Path | None = None
    interval_s: Annotated[float, Meta(ge=0.01, le=1e6)] | None = None
    duration_h: Positive | None = None
    points: Annotated[int, Meta(ge=1, le=10_000_000)] | None = None
    phases: Annotated[tuple[PhaseSettings, ...], Meta(max_length=1000)] = ()
    frames_per_point: Annotated[int, Meta(ge=1, le=1000)] = 1
    when_done: Literal["end", "wait"] = "end"

    def __post_init__(self) -> None:
        given = [self.file is not None, self.interval_s is not None, bool(self.phases)]
        if sum(given) != 1:
            raise ValueError("give file, interval_s or phases, one of the three")
        self.all_phases  # noqa: B018 raises where duration_h or points lack interval_s

    @property
    def all_phases(self) -> tuple[PhaseSettings, ...]:
        """The phases, none where a file has them."""
        if self.interval_s is not None:
            return (PhaseSettings(self.interval_s, self.duration_h, self.points),)
        if self.duration_h is not None or self.points is not None:
            raise ValueError("duration_h and points go with interval_s")
        return self.phases


class PauseSettings(StrictSettings, frozen=True):
    """What missing frames do to the states of followed cells.

    A pause longer than `lost_after` times the usual interval marks states as
    discontinuous. A pause longer than `reset_after_s` resets them.
    """

    lost_after: Annotated[float, Meta(ge=1.1, le=1000)] = 1.8
    reset_after_s: Positive = 120.0


class EventSettings(StrictSettings, frozen=True):
    """When a change of a followed cell becomes an event.

    `quiet`: classes that are no event; `begin_at`: a change is suspected, and dated,
    from this probability; `confirm_at`: it is confirmed by this mean over
    `confirm_frames` frames, if the log-odds are also `least_rise` above the usual ones
    of this cell; `doubt_frames`: a suspicion not confirmed within so many frames is
    dropped; `end_below`: the event ends when the mean is lower; `settle_frames`: so
    many frames after a new state nothing is suspected.
    """

    quiet: tuple[str, ...] = ("steady", "unreliable")
    begin_at: Share = 0.5
    confirm_at: Share = 0.85
    end_below: Share = 0.3
    confirm_frames: Annotated[int, Meta(ge=1, le=100)] = 3
    least_rise: Annotated[float, Meta(ge=0, le=20)] = 3.0
    doubt_frames: Annotated[int, Meta(ge=1, le=1000)] = 8
    settle_frames: Annotated[int, Meta(ge=0, le=1000)] = 3

    def __post_init__(self) -> None:
        if not self.end_below <= self.begin_at <= self.confirm_at:
            raise ValueError(
                f"end_below, begin_at and confirm_at are {self.end_below}, "
                f"{self.begin_at} and {self.confirm_at}, expected them in rising order"
            )
        if self.doubt_frames < self.confirm_frames:
            raise ValueError(
                f"doubt_frames is {self.doubt_frames}, expected at least "
                f"confirm_frames, {self.confirm_frames}, or nothing is ever confirmed"
            )
