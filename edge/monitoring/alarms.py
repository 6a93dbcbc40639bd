"""Which alarms there are, and when one begins and ends.

Both are delayed, so that a condition that comes and goes is one alarm, not many.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import msgspec

from edge.clock import utc_now
from edge.schema.entries import Alarm, Severity
from edge.schema.messages import ActiveAlarm

EVENT_CODE_PREFIX = "event-"  # of the alarms about changes of cells
ENDS_AFTER_S = 10.0  # without the condition


@dataclass(frozen=True, slots=True)
class AlarmKind:
    """A kind of alarm: which process raises it, after how long, and what to do."""

    by: Literal["run", "publish"]
    after_s: float
    advice: str


@dataclass(frozen=True, slots=True)
class AlarmCondition:
    """Something that is wrong now; it is an alarm again when its `level` rises."""

    severity: Severity
    text: str
    level: int = 0


ALARM_KINDS: dict[str, AlarmKind] = {
    "acquisition-stopped": AlarmKind(
        "run", 0, "read the text, remove the cause; systemd starts it again"
    ),
    "no-frames": AlarmKind("run", 0, "check the camera's cable and power"),
    "frames-rejected": AlarmKind(
        "run", 0, "look at the preview; focus, light the field, or move the slide"
    ),
    "drifted": AlarmKind(
        "run", 0, "do what the text says, then calibrate again if it goes on"
    ),
    "disk-filling": AlarmKind(
        "run", 0, "free space on the ledger's disk, or bring the archive back"
    ),
    "not-recorded": AlarmKind(
        "run",
        0,
        "do what the text asks for, or record fewer frames (every, in "
        "[recording]); results are complete",
    ),
    "hot": AlarmKind(
        "run", 10, "clear the air inlets, lower the power mode or the rate"
    ),
    "clock-unsynchronised": AlarmKind(
        "run", 60, "connect the device to a time server (chrony, systemd-timesyncd)"
    ),
    "archive-away": AlarmKind(
        "publish", 60, "start `hemascope archive` on the lab server, check its network"
    ),
    "archive-disagrees": AlarmKind(
        "publish", 0, "run `hemascope archive --verify`; do not delete the ledger"
    ),
    "archive-went-back": AlarmKind(
        "publish", 0, "look whether an older archive was put back; see its holes"
    ),
    "row-damaged": AlarmKind(
        "publish", 0, "check the disk; the archive's holes name the rows that are gone"
    ),
    "ledger-gone": AlarmKind(
        "publish", 0, "put nothing back; deliver the moved ledger from where it is"
    ),
    "name-taken": AlarmKind(
        "publish", 0, "find the other program, give each device a name of its own"
    ),
    "broker-refuses": AlarmKind(
        "publish", 0, "compare the broker's access list with docs/mqtt.md"
    ),
    "run-silent": AlarmKind(
        "publish", 15, "read `journalctl -u hemascope-run`, start it again"
    ),
    "requests-flooded": AlarmKind(
        "publish", 0, "find who sends them; restrict cmd/req in the access list"
    ),
}


_EVENT_ALARM = AlarmKind(
    "run", 0, "look at the cells: the rows of these frames name them"
)


def alarm_kind(code: str) -> AlarmKind | None:
    """Return the kind of an alarm; None where there is no alarm with this code.

    All alarms of events share one kind: their codes depend on the classes of the model.
    """
    return _EVENT_ALARM if code.startswith(EVENT_CODE_PREFIX) else ALARM_KINDS.get(code)


class Latch:
    """Turns conditions, which are checked again and again, into alarms.

    An alarm begins when its condition has lasted for `after_s`. It ends when there was
    none for `ENDS_AFTER_S`; its text is then that of the last condition. An alarm that
    turns red, or rises to a higher level, is returned again. Used from one thread.
    """

    def __init__(
        self,
        by: Literal["run", "publish"],
        active: Iterable[ActiveAlarm] = (),
        *,
        monotonic: Callable[[], float] = time.monotonic,
        utc: Callable[[], datetime] = utc_now,
    ) -> None:
        """`active`: the alarms that are not over, as the ledger says."""
        self._monotonic, self._utc = monotonic, utc
        self._by = by
        self._active: dict[str, Alarm] = {}
        self._ended: dict[str, datetime] = {}  # code to `since` of the last one ended
        self._last_true_s: dict[str, float] = {}
        self._levels: dict[str, int] = {}
        self._first_true: dict[str, tuple[float, datetime]] = {}
        self.adopt(active)

    def adopt(self, active: Iterable[ActiveAlarm]) -> None:
        """Take over alarms of this process that an earlier one began.

        One that ended here is left out: the row that ends it may not be written yet.
        """
        for alarm in active:
            kind, ended = alarm_kind(alarm.code), self._ended.get(alarm.code)
            is_known = alarm.code in self._active or (
                ended is not None and alarm.since <= ended
            )
            if kind is None or kind.by != self._by or is_known:
                continue
            self._active[alarm.code] = Alarm(
                severity=alarm.severity,
                code=alarm.code,
                text=alarm.text,
                advice=kind.advice,
                since=alarm.since,
            )
            self._last_true_s[alarm.code] = self._monotonic()

    def update(self, conditions: Mapping[str, AlarmCondition]) -> list[Alarm]:
        """Return the alarms that begin, get worse or end with these conditions."""
        now_s = self._monotonic()
        changes: list[Alarm] = []
        for code, condition in conditions.items():
            self._last_true_s[code] = now_s
            changes += self._check(code, condition, now_s)
        for code in [c for c in self._first_true if c not in conditions]:
            if code not in self._active:
                del self._first_true[code]
        for code, alarm in list(self._active.items()):
            if code in conditions or now_s - self._last_true_s[code] < ENDS_AFTER_S:
                continue
            del self._active[code]
            self._ended[code] = alarm.since
            self._first_true.pop(code, None)
            self._levels.pop(code, None)
            changes.append(msgspec.structs.replace(alarm, until=self._utc()))
        return changes

    @property
    def active(self) -> list[Alarm]:
        """The alarms that are not over."""
        return list(self._active.values())

    def _check(self, code: str, condition: AlarmCondition, now_s: float) -> list[Alarm]:
        """Return the alarm of a condition if it begins or gets worse now."""
        first_s, since = self._first_true.setdefault(code, (now_s, self._utc()))
        kind, active = alarm_kind(code), self._active.get(code)
        if kind is None:
            raise KeyError(f"no alarm has the code {code!r}")
        is_worse = (
            active is None
            or (active.severity, condition.severity) == ("amber", "red")
            or condition.level > self._levels.get(code, condition.level)
        )
        self._levels.setdefault(code, condition.level)
        if active is not None and not is_worse:
            self._active[code] = msgspec.structs.replace(active, text=condition.text)
        if now_s - first_s < kind.after_s or not is_worse:
            return []
        alarm = Alarm(
            severity=condition.severity,
            code=code,
            text=condition.text,
            advice=kind.advice,
            since=since if active is None else active.since,
        )
        self._active[code], self._levels[code] = alarm, condition.level
        return [alarm]
