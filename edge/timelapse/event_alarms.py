"""One alarm for each kind of change that happens to followed cells.

However many cells burst, there is one alarm. It is raised with the first cell, again
when their number passes 10, 100, 1000, and says in the end how many there were.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from edge.monitoring.alarms import EVENT_CODE_PREFIX, AlarmCondition
from edge.schema.entries import Severity
from edge.schema.messages import ActiveAlarm
from edge.schema.results import Event
from edge.timelapse.change_events import alarm_of

MAX_KINDS = 32  # of changes; a model has fewer classes


@dataclass(frozen=True, slots=True)
class _ActiveChange:
    """One kind of change, since it was last quiet."""

    severity: Severity
    count: int
    first: str
    last_track: int
    last_s: float


class EventAlarms:
    """Counts confirmed events. Used from one thread.

    Parameters
    ----------
    quiet_s
        A kind of change is over when it happened to no cell for so long; 0 raises none.
    active
        Alarms that an earlier process left open; they end after `quiet_s` too.
    """

    def __init__(
        self,
        quiet_s: float,
        active: Iterable[ActiveAlarm] = (),
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._quiet_s, self._monotonic = quiet_s, monotonic
        self._changes: dict[str, _ActiveChange] = {}
        for alarm in active if quiet_s > 0 else ():
            if alarm.code.startswith(EVENT_CODE_PREFIX):
                found = _ActiveChange(alarm.severity, 0, alarm.text, 0, monotonic())
                self._changes[alarm.code] = found

    def take(self, events: Iterable[Event]) -> None:
        """Note the events that one row confirms."""
        for event in events if self._quiet_s > 0 else ():
            alarm = alarm_of(event)
            if alarm is None:
                continue
            severity, text = alarm
            code = code_of(event.change)
            before = self._changes.get(code)
            if before is None and len(self._changes) >= MAX_KINDS:
                continue
            if before is None or before.count == 0:  # 0: of an earlier process
                before = _ActiveChange(severity, 0, text, 0, 0.0)
            self._changes[code] = replace(
                before,
                count=before.count + 1,
                last_track=event.track_id,
                last_s=self._monotonic(),
            )

    def conditions(self) -> dict[str, AlarmCondition]:
        """Return what is not over, by the code of its alarm."""
        now_s = self._monotonic()
        self._changes = {
            code: change
            for code, change in self._changes.items()
            if now_s - change.last_s < self._quiet_s
        }
        return {code: _condition(change) for code, change in self._changes.items()}


def code_of(change: str) -> str:
    """Return the code of the alarm of a kind of change."""
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in change.lower())
    return f"{EVENT_CODE_PREFIX}{plain}"[:32]


def _condition(change: _ActiveChange) -> AlarmCondition:
    text = change.first
    if change.count > 1:
        more = f"{change.count} cells so far, the last one {change.last_track}"
        text = f"{change.first}; {more}"
    return AlarmCondition(change.severity, text[:1000], len(str(change.count)))
