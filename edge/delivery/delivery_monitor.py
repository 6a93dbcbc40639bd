"""What the publisher sees go wrong, and what it says of the device's standing."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from edge.clock import utc_now
from edge.ledger.reader import LedgerReader
from edge.monitoring.alarms import AlarmCondition, Latch
from edge.monitoring.metrics import Metrics, read_metrics
from edge.schema.entries import Alarm
from edge.schema.messages import ActiveAlarm

_LINGER_S = 60.0  # so long after it was seen, what is wrong counts as going on


class DeliveryMonitor:
    """Alarms of delivery, and the figures of the device. Used from one thread."""

    def __init__(
        self,
        folder: Path,
        ledger: LedgerReader,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._ledger, self._monotonic = folder, ledger, monotonic
        self._latch = Latch("publish", ledger.state.alarms(), monotonic=monotonic)
        self._seen_s: dict[str, float] = {}
        self._unrecorded = 0

    def saw(self, code: str) -> None:
        """Note that something of `_SEEN` happened."""
        self._seen_s[code] = self._monotonic()

    def look(self, *, archive_is_there: bool, unrecorded: int) -> list[Alarm]:
        """Return the alarms that begin or end; `unrecorded` requests got no row.

        What an earlier process handed over may become a row only now: it is ours too.
        """
        self._latch.adopt(self._ledger.state.alarms())
        found: dict[str, AlarmCondition] = {}
        if not archive_is_there:
            text = "no archive listens; rows are kept here"
            found["archive-away"] = AlarmCondition("amber", text)
        if read_metrics(self._folder) is None:
            found["run-silent"] = AlarmCondition("red", "no process examines frames")
        if unrecorded > self._unrecorded:  # the count stays until the next refusal
            text = f"{unrecorded} refused requests got no row of their own"
            found["requests-flooded"] = AlarmCondition("amber", text)
        self._unrecorded = unrecorded
        since_s = self._monotonic() - _LINGER_S
        for code, text in _SEEN.items():
            if self._seen_s.get(code, since_s) > since_s:
                found[code] = AlarmCondition("red", text)
        return self._latch.look(found)

    def device_status(self) -> tuple[bool, tuple[ActiveAlarm, ...]]:
        """Whether examination is stopped, and the alarms that are not over.

        Alarms of our own count at once, before the run process has given them a row.
        """
        state = self._ledger.state
        alarms = {alarm.code: alarm for alarm in state.alarms()}
        for alarm in self._latch.active:
            young = ActiveAlarm(
                severity=alarm.severity,
                code=alarm.code,
                text=alarm.text,
                since=alarm.since,
            )
            alarms.setdefault(alarm.code, young)
        return state.is_paused, tuple(alarms[code] for code in sorted(alarms))

    def figures(self, acknowledged: int) -> Metrics:
        """Return the figures of this moment."""
        _, newest = self._ledger.span()
        return Metrics(
            device=self._ledger.device,
            utc=utc_now(),
            newest=newest,
            acknowledged=acknowledged,
            backlog=max(0, newest - acknowledged),
            run=read_metrics(self._folder),
        )


_SEEN = {
    "archive-disagrees": "the archive acknowledges a row that the ledger does not hold",
    "broker-refuses": "the broker refuses what this device publishes",
}
