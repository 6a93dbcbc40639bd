"""What the run process does beside the frames: commands, alarms, figures.

Everything happens in the main thread, between two rows. Nothing here may cost a result:
what fails is logged.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from edge import clock
from edge.acquisition.pausable_source import PausableSource
from edge.errors import HemascopeError
from edge.ledger.ledger_state import InboxPosition
from edge.ledger.rows import LedgerFull, LedgerMoved, LedgerRow
from edge.ledger.writer import Ledger
from edge.monitoring.alarms import AlarmCondition, Latch
from edge.monitoring.metrics import Meter, RunMetrics, write_metrics
from edge.pipeline.calibration_drift import drift_of
from edge.remote.command_executor import CommandExecutor
from edge.run.lasting_commands import Snapshots
from edge.run.run_controller import RunController
from edge.schema.entries import Alarm, EntryContent
from edge.schema.results import Drift, FrameResult
from edge.settings.run import AlarmSettings
from edge.timelapse.event_alarms import EventAlarms

log = logging.getLogger(__name__)

_PERIOD_S = 1.0
_MAX_REJECTED_IN_A_ROW = 20


class Housekeeping:
    """Everything that is due beside the frames of one run. Used by the main thread.

    Parameters
    ----------
    ledger, folder
        The ledger, and the folder that it lies in.
    source
        Tells whether frames are to be expected now.
    executor, snapshots
        Carries out commands; keeps the pictures that a command asked for.
    controller
        Tells since when a planned frame is missing.
    alarms
        Limits beyond which something is an alarm.
    conditions
        Returns what else is wrong now, by the code of its alarm.
    """

    def __init__(
        self,
        ledger: Ledger,
        folder: Path,
        source: PausableSource,
        *,
        executor: CommandExecutor,
        snapshots: Snapshots,
        controller: RunController,
        alarms: AlarmSettings,
        conditions: Callable[[], dict[str, AlarmCondition]] = dict,
    ) -> None:
        self._ledger, self._folder, self._source = ledger, folder, source
        self.executor, self.snapshots = executor, snapshots
        self._controller, self._alarms = controller, alarms
        self._conditions = conditions
        self._meter = Meter()
        active = tuple(ledger.state.active_alarms())
        self._latch = Latch("run", active)
        self._event_alarms = EventAlarms(alarms.event_quiet_s, active)
        self._looked_s = 0.0
        self._frame_s = time.monotonic()
        self._reason = ""
        self._drift: Drift | None = None

    def note_row(
        self, row: LedgerRow, result: FrameResult, picture: bytes | None
    ) -> None:
        """Take note of a row that was written, and of the snapshot that shows it."""
        self._meter.count(result)
        self._event_alarms.take(result.events)
        if result.status != "gap":
            self._frame_s = time.monotonic()
            self._reason = result.reason or ""
            self._drift = result.drift or self._drift
        if picture is not None:
            self.snapshots.keep(row, picture)

    def step(self, queue: int) -> None:
        """Do what is due; called between rows, `queue` frames are in work.

        Raises
        ------
        LedgerFull
            The disk is full.
        LedgerMoved
            The ledger is no longer in its folder.
        """
        try:
            now_s = time.monotonic()
            if is_due := now_s - self._looked_s >= _PERIOD_S:
                self._looked_s = now_s
                # First of all: what follows would write into another ledger's folder.
                self._ledger.check_in_place()
            self.executor.step()
            if is_due:
                self._look_around(queue)
        except (LedgerFull, LedgerMoved):
            raise
        except Exception:
            # Where the folder is gone, everything fails that looks into it.
            self._ledger.check_in_place()
            log.exception("housekeeping failed")

    def close(self, error: HemascopeError | None) -> None:
        """End the commands at work; `error` is why the run ends, if it must."""
        try:
            if error is not None:
                condition = AlarmCondition("red", str(error)[:1000])
                self._record(self._latch.update({"acquisition-stopped": condition}))
        finally:
            self.executor.close()

    def _look_around(self, queue: int) -> None:
        """Once per second: figures, and what they mean."""
        figures = self._meter.read(
            self._folder,
            queue=queue,
            is_paused=self._source.is_paused,
            spare_bytes=self._ledger.spare_bytes,
        )
        self._record(self._latch.update(self._conditions_of(figures)))
        try:
            write_metrics(self._folder, figures)
        except OSError as error:
            log.warning("figures not written: %s", error)

    def _silent_s(self) -> float:
        """Seconds for which a frame was expected and none came."""
        now_s = time.monotonic()
        if self._source.is_paused or not self._source.is_live:
            self._frame_s = now_s
        silent_s = now_s - self._frame_s
        of_camera_s = self._controller.silent_s  # between two points no frame is due
        return silent_s if of_camera_s is None else min(silent_s, of_camera_s)

    def _record(self, alarms: Sequence[Alarm]) -> None:
        """Write alarms that begin or end into the log and the ledger."""
        for alarm in alarms:
            what = alarm.severity if alarm.until is None else "over"
            log.warning("alarm=%s %s: %s", alarm.code, what, alarm.text)
            append_entries(self._ledger, [alarm])

    def _conditions_of(self, figures: RunMetrics) -> dict[str, AlarmCondition]:
        """Return what is wrong now, by the code of its alarm."""
        found = {**self._event_alarms.conditions(), **self._conditions()}
        found |= self._frame_conditions() | self._machine_conditions(figures)
        if not clock.is_synchronised():
            found["clock-unsynchronised"] = AlarmCondition(
                "amber", "no time server is followed; times may be wrong"
            )
        return found

    def _frame_conditions(self) -> dict[str, AlarmCondition]:
        """Return what is wrong with the frames."""
        found: dict[str, AlarmCondition] = {}
        silent_s = self._silent_s()
        if silent_s > self._alarms.no_frame_s:
            found["no-frames"] = AlarmCondition("red", f"no frame for {silent_s:.0f} s")
        rejected = self._meter.rejected_in_a_row
        if rejected >= _MAX_REJECTED_IN_A_ROW:
            text = f"the last {rejected} frames were rejected: {self._reason}"
            found["frames-rejected"] = AlarmCondition("amber", text[:1000])
        drift = self._drift
        if drift is not None and (drift.status == "amber" or drift.status == "red"):
            text = f"{drift_of(drift)}: {drift.advice}"
            found["drifted"] = AlarmCondition(drift.status, text)
        return found

    def _machine_conditions(self, figures: RunMetrics) -> dict[str, AlarmCondition]:
        """Return what is wrong with the disk and the temperature."""
        found: dict[str, AlarmCondition] = {}
        amber, red = self._alarms.disk_share
        if figures.disk_used >= amber:
            found["disk-filling"] = AlarmCondition(
                "red" if figures.disk_used >= red else "amber",
                f"the ledger's disk is {100 * figures.disk_used:.0f} % full, "
                f"{figures.disk_free_bytes >> 20} MiB are free",
            )
        amber, red = self._alarms.temperature_c
        heat_c = figures.temperature_c
        if heat_c is not None and heat_c >= amber:
            found["hot"] = AlarmCondition(
                "red" if heat_c >= red else "amber",
                f"the hottest part has {heat_c:.0f} °C",
            )
        return found


def append_entries(
    ledger: Ledger, entries: Sequence[EntryContent], taken: InboxPosition | None = None
) -> None:
    """Write entries, and how far the inbox was taken over; make room on a full disk.

    Raises
    ------
    LedgerFull
        The disk is full, and nothing on it may go.
    """
    ledger.with_room(lambda: ledger.append_all(entries, taken))
