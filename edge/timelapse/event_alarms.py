"""What happened to cells lately, one finding for each kind of change.

However many cells burst, there is one alarm: it tells when the first one did, again as
their number passes 10, 100, 1000, and in the end how many there were.
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

MOST_KINDS = 32  # of changes; a model names fewer


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
        A kind of change is over when it happened to no cell for so long; 0 tells none.
    active
        Alarms that an earlier process left; they too need so long without an event.
    """

    def __init__(
        self,
        quiet_s: float,
        active: Iterable[ActiveAlarm] = (),
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._quiet_s, self._monotonic = quiet_s, monotonic
        self._stirs: dict[str, _ActiveChange] = {}
        for alarm in active if quiet_s > 0 else ():
            if alarm.code.startswith(EVENT_CODE_PREFIX):
                found = _ActiveChange(alarm.severity, 0, alarm.text, 0, monotonic())
                self._stirs[alarm.code] = found

    def take(self, events: Iterable[Event]) -> None:
        """Note what is confirmed with one row."""
        for event in events if self._quiet_s > 0 else ():
            told = alarm_of(event)
            if told is None:
                continue
            code = code_of(event.change)
            before = self._stirs.get(code)
            if before is None and len(self._stirs) >= MOST_KINDS:
                continue
            if before is None or before.count == 0:  # only known from a row
                before = _ActiveChange(told[0], 0, told[1], 0, 0.0)
            self._stirs[code] = replace(
                before,
                count=before.count + 1,
                last_track=event.track_id,
                last_s=self._monotonic(),
            )

    def findings(self) -> dict[str, AlarmCondition]:
        """Return what is not over, by the code of its alarm."""
        now_s = self._monotonic()
        self._stirs = {
            code: stir
            for code, stir in self._stirs.items()
            if now_s - stir.last_s < self._quiet_s
        }
        return {code: _finding(stir) for code, stir in self._stirs.items()}


def code_of(change: str) -> str:
    """Return the code of the alarm of a kind of change."""
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in change.lower())
    return f"{EVENT_CODE_PREFIX}{plain}"[:32]


def _finding(stir: _ActiveChange) -> AlarmCondition:
    text = stir.first
    if stir.count > 1:
        more = f"{stir.count} cells so far, the last one {stir.last_track}"
        text = f"{stir.first}; {more}"
    return AlarmCondition(stir.severity, text[:1000], len(str(stir.count)))
