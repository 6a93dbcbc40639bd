"""Alarms of delivery, and the status and metrics that the publisher sends."""

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

_EVENT_LASTS_S = 60.0  # a reported event counts as a condition for this long


class DeliveryMonitor:
    """Alarms of delivery, and the metrics of the device. Used from one thread."""

    def __init__(
        self,
        folder: Path,
        ledger: LedgerReader,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._ledger, self._monotonic = folder, ledger, monotonic
        self._latch = Latch(
            "publish", ledger.state.active_alarms(), monotonic=monotonic
        )
        self._reported: dict[str, tuple[float, str]] = {}  # moment, text
        self._unrecorded_requests = 0

    def report(self, code: str, text: str | None = None) -> None:
        """Note that an event happened; without `text`, one of `_EVENT_TEXTS`."""
        self._reported[code] = self._monotonic(), text or _EVENT_TEXTS[code]

    def update_alarms(
        self, *, archive_is_online: bool, unrecorded_requests: int
    ) -> list[Alarm]:
        """Return the alarms that begin or end now.

        Parameters
        ----------
        archive_is_online
            Whether the archive has said so on this connection.
        unrecorded_requests
            How many refused requests got no row, since the last one that got one.
        """
        # An alarm that an earlier publisher handed over may become a row only now. It
        # is ours to end.
        self._latch.adopt(self._ledger.state.active_alarms())
        conditions: dict[str, AlarmCondition] = {}
        if not archive_is_online:
            text = "no archive listens; rows are kept here"
            conditions["archive-away"] = AlarmCondition("amber", text)
        if read_metrics(self._folder) is None:
            conditions["run-silent"] = AlarmCondition(
                "red", "no process examines frames"
            )
        # The count stays as it is until the next refusal gets a row. So only a rising
        # count shows that the flood goes on.
        if unrecorded_requests > self._unrecorded_requests:
            text = f"{unrecorded_requests} refused requests got no row of their own"
            conditions["requests-flooded"] = AlarmCondition("amber", text)
        self._unrecorded_requests = unrecorded_requests
        since_s = self._monotonic() - _EVENT_LASTS_S
        for code, (reported_s, text) in self._reported.items():
            if reported_s > since_s:
                conditions[code] = AlarmCondition("red", text)
        return self._latch.update(conditions)

    def device_status(self) -> tuple[bool, tuple[ActiveAlarm, ...]]:
        """Return whether examination is paused, and the alarms that are not over.

        Alarms of the publisher count at once, before the run process has written a row
        about them.
        """
        state = self._ledger.state
        alarms = {alarm.code: alarm for alarm in state.active_alarms()}
        for alarm in self._latch.active:
            without_row = ActiveAlarm(
                severity=alarm.severity,
                code=alarm.code,
                text=alarm.text,
                since=alarm.since,
            )
            alarms.setdefault(alarm.code, without_row)
        return state.is_paused, tuple(alarms[code] for code in sorted(alarms))

    def metrics(self, acknowledged: int) -> Metrics:
        """Return the metrics of this moment; row `acknowledged` is archived."""
        _, newest = self._ledger.span()
        return Metrics(
            device=self._ledger.device,
            utc=utc_now(),
            newest=newest,
            acknowledged=acknowledged,
            backlog=max(0, newest - acknowledged),
            run=read_metrics(self._folder),
        )


_EVENT_TEXTS = {
    "archive-went-back": "the archive no longer holds rows that it acknowledged",
    "ledger-gone": "the ledger is no longer in its folder; nothing is delivered",
    "archive-disagrees": "the archive acknowledges a row that the ledger does not hold",
    "name-taken": "another program connects with the name of this device",
    "broker-refuses": "the broker refuses what this device publishes",
}
