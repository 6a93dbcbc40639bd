"""When frames are due: phases of points at an interval, some frames at each point.

Times are counted from the beginning of the plan and computed from the point's number,
never from the time of the point before, so delays do not add up.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from edge.errors import ConfigurationInvalid
from edge.schema.results import MissedPoints
from edge.settings.timelapse import ScheduleSettings

MAX_POINTS = 10_000_000


@dataclass(frozen=True, slots=True)
class Phase:
    """`points` at one interval.

    The first point of the first phase is due at once. A later phase begins at the last
    point of the one before, and its first point is that one: it is not taken twice.
    """

    interval_ns: int
    points: int


@dataclass(frozen=True, slots=True)
class SchedulePosition:
    """A position in a plan: frame number `frame` of point `index`, both from 0."""

    index: int
    frame: int = 0


class Plan:
    """Points and the times at which they are due.

    Parameters
    ----------
    phases
        At least one; see `Phase`.
    frames_per_point
        So many frames, one after the other, at each point.

    Raises
    ------
    ConfigurationInvalid
        There is no point, too many, or no time between two.
    """

    def __init__(self, phases: Sequence[Phase], frames_per_point: int = 1) -> None:
        for phase in phases:
            if phase.points < 1 or (phase.interval_ns <= 0 and phase.points > 1):
                raise ConfigurationInvalid(
                    f"a phase of {phase.points} points, {phase.interval_ns * 1e-9:g} s "
                    "apart; expected at least one point and time between two. To "
                    "examine without a pause leave [schedule] out"
                )
        self.frames_per_point = frames_per_point
        steps = [p.points - (n > 0) for n, p in enumerate(phases)]
        lasts = [p.interval_ns * (p.points - 1) for p in phases]
        self._phases = tuple(phases)
        self._ends = list(accumulate(steps))  # index after the last point of each phase
        self._begin_ns = [0, *accumulate(lasts)]
        if not 0 < self.points <= MAX_POINTS:
            raise ConfigurationInvalid(
                f"the schedule has {self.points} points, expected 1 to {MAX_POINTS}"
            )

    @property
    def points(self) -> int:
        """How many points there are."""
        return self._ends[-1] if self._ends else 0

    @property
    def duration_ns(self) -> int:
        """Time from the first point to the last."""
        return self._begin_ns[-1]

    @property
    def end_ns(self) -> int:
        """When the last point may no longer be taken: one more interval later."""
        return self.duration_ns + max(self._phases[-1].interval_ns, 1)

    @property
    def max_interval_s(self) -> float:
        """Longest time between two points."""
        return max(p.interval_ns for p in self._phases) * 1e-9

    @property
    def sha256(self) -> str:
        """Hash of everything that decides when frames are due."""
        text = f"{self.frames_per_point} {self._phases}"
        return hashlib.sha256(text.encode()).hexdigest()

    def phase_of(self, index: int) -> int:
        """Return the number of the phase, from 0, that a point belongs to."""
        return bisect_right(self._ends, index)

    def due_ns(self, index: int) -> int:
        """When a point is due, since the beginning of the plan."""
        phase = self.phase_of(index)
        within = index - (self._ends[phase - 1] - 1 if phase > 0 else 0)
        return self._begin_ns[phase] + within * self._phases[phase].interval_ns

    def index_at(self, elapsed_ns: int) -> int:
        """Return the last point that is due by then; -1 before the first."""
        if elapsed_ns < 0:
            return -1
        phase = bisect_right(self._begin_ns, elapsed_ns) - 1
        if phase >= len(self._phases):
            return self.points - 1
        first = self._ends[phase - 1] - 1 if phase > 0 else 0
        interval_ns = max(self._phases[phase].interval_ns, 1)
        return first + (elapsed_ns - self._begin_ns[phase]) // interval_ns

    def after(self, position: SchedulePosition) -> SchedulePosition:
        """Return the position that follows."""
        if position.frame + 1 < self.frames_per_point:
            return SchedulePosition(position.index, position.frame + 1)
        return SchedulePosition(position.index + 1)

    def missed(self, position: SchedulePosition, index: int) -> MissedPoints:
        """Return what is missed where point `index` comes next, not `position`."""
        frames = (index - position.index) * self.frames_per_point - position.frame
        return MissedPoints(first=position.index, last=index - 1, frames=frames)

    def expected_ns(self, position: SchedulePosition) -> int | None:
        """How long after the point before this one is due; None where nobody can say.

        The first has none before, and frames of one point come as they can.
        """
        if position.index == 0 or position.frame > 0:
            return None
        return self.due_ns(position.index) - self.due_ns(position.index - 1)


def plan_of(settings: ScheduleSettings) -> Plan:
    """Return the plan that settings describe, or the file that they name.

    Raises
    ------
    ConfigurationInvalid
        It cannot be carried out; says what and why.
    """
    if settings.file is not None:
        from edge.acquisition.useq_file import (
            read_phases,  # pydantic: loaded where it is wanted
        )

        phases = [Phase(*phase) for phase in read_phases(settings.file)]
        return Plan(phases, settings.frames_per_point)
    phases = []
    for phase in settings.all_phases:
        interval_ns = round(phase.interval_s * 1e9)
        points = phase.points
        if points is None:
            points = round((phase.duration_h or 0.0) * 3600e9) // interval_ns + 1
        phases.append(Phase(interval_ns, points))
    return Plan(phases, settings.frames_per_point)
