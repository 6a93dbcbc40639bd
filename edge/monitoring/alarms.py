"""Which alarms there are, and when one begins and ends: late enough not to flicker."""

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

EVENT = "event-"  # begins the codes of what happens to cells
ENDS_AFTER_S = 10.0  # without the finding


@dataclass(frozen=True, slots=True)
class AlarmKind:
    """An alarm that may be raised: who looks, how long it must last, what to do."""

    by: Literal["run", "publish"]
    after_s: float
    advice: str


@dataclass(frozen=True, slots=True)
class AlarmCondition:
    """Something that is wrong now; it is told again when its `level` rises."""

    severity: Severity
    text: str
    level: int = 0


KINDS: dict[str, AlarmKind] = {
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


_OF_EVENTS = AlarmKind(
    "run", 0, "look at the cells: the rows of these frames name them"
)


def alarm_kind(code: str) -> AlarmKind | None:
    """Return the kind of an alarm; those of events are as many as a model has classes.

    None where there is no such alarm.
    """
    return _OF_EVENTS if code.startswith(EVENT) else KINDS.get(code)


class Latch:
    """Turns findings, looked at again and again, into beginnings and ends of alarms.

    An alarm begins when its finding has lasted for `after_s` and ends when there was
    none for `ENDS_AFTER_S`; then its text is that of the last finding. One that turns
    red, or rises to another level, is told again. Used from one thread.
    """

    def __init__(
        self,
        by: Literal["run", "publish"],
        active: Iterable[ActiveAlarm] = (),
        *,
        monotonic: Callable[[], float] = time.monotonic,
        utc: Callable[[], datetime] = utc_now,
    ) -> None:
        """`active`: what an earlier process began, as the ledger says."""
        self._monotonic, self._utc = monotonic, utc
        self._by = by
        self._active: dict[str, Alarm] = {}
        self._ended: dict[str, datetime] = {}  # since when the last one had lasted
        self._seen_s: dict[str, float] = {}
        self._levels: dict[str, int] = {}
        self._first: dict[str, tuple[float, datetime]] = {}
        self.adopt(active)

    def adopt(self, active: Iterable[ActiveAlarm]) -> None:
        """Take on alarms that the ledger has and an earlier process began.

        One that was ended here stays ended: the row that says so may be on its way.
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
            self._seen_s[alarm.code] = self._monotonic()

    def look(self, findings: Mapping[str, AlarmCondition]) -> list[Alarm]:
        """Return the alarms that begin, worsen or end by what is found now."""
        now_s, told = self._monotonic(), []
        for code, finding in findings.items():
            self._seen_s[code] = now_s
            told += self._begin(code, finding, now_s)
        for code in [c for c in self._first if c not in findings]:
            if code not in self._active:
                del self._first[code]
        for code, alarm in list(self._active.items()):
            if code in findings or now_s - self._seen_s[code] < ENDS_AFTER_S:
                continue
            del self._active[code]
            self._ended[code] = alarm.since
            self._first.pop(code, None)
            self._levels.pop(code, None)
            told.append(msgspec.structs.replace(alarm, until=self._utc()))
        return told

    @property
    def active(self) -> list[Alarm]:
        """The alarms that are not over."""
        return list(self._active.values())

    def _begin(self, code: str, finding: AlarmCondition, now_s: float) -> list[Alarm]:
        first_s, since = self._first.setdefault(code, (now_s, self._utc()))
        kind, before = alarm_kind(code), self._active.get(code)
        if kind is None:
            raise KeyError(f"no alarm has the code {code!r}")
        is_worse = (
            before is None
            or (before.severity, finding.severity) == ("amber", "red")
            or finding.level > self._levels.get(code, finding.level)
        )
        self._levels.setdefault(code, finding.level)
        if before is not None and not is_worse:
            self._active[code] = msgspec.structs.replace(before, text=finding.text)
        if now_s - first_s < kind.after_s or not is_worse:
            return []
        alarm = Alarm(
            severity=finding.severity,
            code=code,
            text=finding.text,
            advice=kind.advice,
            since=since if before is None else before.since,
        )
        self._active[code], self._levels[code] = alarm, finding.level
        return [alarm]
