"""What the run process does beside the frames: commands, alarms, figures, snapshots.

Everything happens in the main thread, between two rows; only a self-test has a thread
of its own. Nothing here may cost a result: what fails is logged.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

from edge import clock
from edge.acquisition.pausable_source import PausableSource
from edge.errors import HemascopeError
from edge.frames import Counts
from edge.ledger.ledger_state import InboxPosition
from edge.ledger.rows import LedgerFull, LedgerRow
from edge.ledger.writer import Ledger
from edge.monitoring.alarms import AlarmCondition, Latch
from edge.monitoring.metrics import Meter, RunMetrics, write_metrics
from edge.remote.command_executor import CommandExecutor, CommandFailed, Done
from edge.rendering.annotation import draw, to_jpeg
from edge.run.event_alarms import EventAlarms
from edge.run.run_controller import RunController
from edge.schema.entries import Alarm, Entered
from edge.schema.requests import NoteRequest, Request, StartRequest
from edge.schema.results import Drift, FrameResult
from edge.settings.delivery import CommandSettings
from edge.settings.run import AlarmSettings

log = logging.getLogger(__name__)

SNAPSHOTS = "snapshots"
_PERIOD_S = 1.0
_REJECTED_IN_A_ROW = 20
_SNAPSHOT_BYTES = 4 << 20


class Housekeeping:
    """Attends one run; also the `CommandTarget` that commands are asked of."""

    def __init__(
        self,
        ledger: Ledger,
        folder: Path,
        source: PausableSource,
        self_test: Callable[[], str],
        *,
        conductor: RunController,
        commands: CommandSettings,
        alarms: AlarmSettings,
        look: Callable[[], dict[str, AlarmCondition]] = dict,
    ) -> None:
        """`folder`: the ledger's; `self_test` proves the models, in any thread.

        `look` says what else is wrong.
        """
        self._conductor = conductor
        self._ledger, self._folder, self._source = ledger, folder, source
        self._prove = self_test
        self._commands, self._alarms, self._look = commands, alarms, look
        self._meter = Meter()
        active = tuple(ledger.state.alarms())
        self._latch = Latch("run", active)
        self._stirs = EventAlarms(alarms.event_quiet_s, active)
        self._wanted: Future[str] | None = None
        self._test: Future[str] | None = None
        self._looked_s = 0.0
        self._frame_s = time.monotonic()
        self._reason = ""
        self._drift: Drift | None = None
        self._commander = CommandExecutor(
            folder, ledger.state, self.append, self, commands
        )

    # -- called by the service ---------------------------------------------------------

    @property
    def wants_snapshot(self) -> bool:
        """Whether the frame in hand shall be kept as a picture; from any thread."""
        return self._wanted is not None and not self._wanted.cancelled()

    def draw(self, pixels: Counts, result: FrameResult) -> bytes | None:
        """Draw a snapshot in full size; from any thread, never raises."""
        try:
            return to_jpeg(draw(pixels, result), _SNAPSHOT_BYTES)
        except Exception:
            log.exception("sequence=%d snapshot not drawn", result.frame.first)
            return None

    def wrote(self, row: LedgerRow, result: FrameResult, picture: bytes | None) -> None:
        """Take note of a row that was written, and of the snapshot that shows it."""
        self._meter.count(result)
        self._stirs.take(result.events)
        if result.status != "gap":
            self._frame_s = time.monotonic()
            self._reason = result.reason or ""
            self._drift = result.drift or self._drift
        if picture is not None and self._wanted is not None:
            self._keep(row, picture)

    def step(self, queue: int) -> None:
        """Do what is due; called between rows, `queue` frames are in work.

        Raises
        ------
        LedgerFull
            The disk is full.
        """
        try:
            self._commander.step()
            now_s = time.monotonic()
            if now_s - self._looked_s >= _PERIOD_S:
                self._looked_s = now_s
                self._look_around(queue)
        except LedgerFull:
            raise
        except Exception:
            log.exception("attending failed")

    def close(self, error: HemascopeError | None) -> None:
        """End the commands in work; `error` is why the run ends, if it must."""
        if error is not None:
            stopped = {"acquisition-stopped": AlarmCondition("red", str(error)[:1000])}
            self._tell(self._latch.look(stopped))
        self._commander.close()

    def append(
        self, entries: Sequence[Entered], taken: InboxPosition | None = None
    ) -> None:
        """Write entries; on a full disk make room once."""
        self._ledger.with_room(lambda: self._ledger.append_all(entries, taken))

    # -- what may be asked -------------------------------------------------------------

    def start(self, request: StartRequest) -> Done:
        """Begin a run; where one is under way and nothing is said, go on with it."""
        return self._conductor.start(request)

    def pause(self, request: Request) -> Done:
        """Examine nothing until told to resume; the run stays open."""
        return self._conductor.pause(request)

    def resume(self, request: Request) -> Done:
        """Examine again, in the run that is under way."""
        return self._conductor.resume(request)

    def stop(self, request: Request) -> Done:
        """End the run, and examine nothing until told to start."""
        return self._conductor.stop(request)

    def note(self, request: NoteRequest) -> Done:
        """Write a note to the run, or, where none is under way, among the results."""
        return self._conductor.note(request)

    def snapshot(self, request: Request) -> Future[str]:
        """Keep the annotated picture of the next frame that is examined."""
        if self._source.is_paused:
            raise CommandFailed("nothing is examined now, there is no next frame")
        if self._wanted is None or self._wanted.done():
            self._wanted = Future()
        return self._wanted

    def self_test(self, request: Request) -> Future[str]:
        """Read the models again and compare what they say of their golden inputs."""
        if self._test is not None and not self._test.done():
            raise CommandFailed("a self-test is at work already")
        self._test = Future()
        threading.Thread(
            target=_run_into, args=(self._test, self._prove), name="test", daemon=True
        ).start()
        return self._test

    # -- its own work ------------------------------------------------------------------

    def _keep(self, row: LedgerRow, picture: bytes) -> None:
        """Keep a snapshot, the newest of so many."""
        wanted, self._wanted = self._wanted, None
        if wanted is None or not wanted.set_running_or_notify_cancel():
            return
        folder = self._folder / SNAPSHOTS
        try:
            folder.mkdir(exist_ok=True)
            (folder / f"row-{row.seq:012d}.jpg").write_bytes(picture)
            kept = sorted(folder.glob("row-*.jpg"))
            for path in kept[: -self._commands.keep_snapshots]:
                path.unlink()
        except OSError as error:
            wanted.set_exception(CommandFailed(f"the picture is not kept: {error}"))
            return
        wanted.set_result(
            f"the picture of row {row.seq} is kept, {len(picture)} bytes, "
            f"{SNAPSHOTS}/row-{row.seq:012d}.jpg beside the ledger"
        )

    def _look_around(self, queue: int) -> None:
        """Once per second: figures, and what they mean."""
        figures = self._meter.read(
            self._folder,
            queue=queue,
            is_paused=self._source.is_paused,
            spare_bytes=self._ledger.spare_bytes,
        )
        self._tell(self._latch.look(self._findings(figures)))
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
        of_camera_s = self._conductor.silent_s  # between two points no frame is due
        return silent_s if of_camera_s is None else min(silent_s, of_camera_s)

    def _tell(self, alarms: Sequence[Alarm]) -> None:
        for alarm in alarms:
            what = alarm.severity if alarm.until is None else "over"
            log.warning("alarm=%s %s: %s", alarm.code, what, alarm.text)
            self.append([alarm])

    def _findings(self, figures: RunMetrics) -> dict[str, AlarmCondition]:
        """Say what is wrong now."""
        found = {**self._stirs.findings(), **self._look()}
        silent_s = self._silent_s()
        if silent_s > self._alarms.no_frame_s:
            found["no-frames"] = AlarmCondition("red", f"no frame for {silent_s:.0f} s")
        if self._meter.rejected_in_a_row >= _REJECTED_IN_A_ROW:
            found["frames-rejected"] = AlarmCondition(
                "amber",
                f"the last {self._meter.rejected_in_a_row} frames were rejected: "
                f"{self._reason}"[:1000],
            )
        drift = self._drift
        if drift is not None and (drift.status == "amber" or drift.status == "red"):
            text = f"{drift.of} left the calibration: {drift.advice}"
            found["drifted"] = AlarmCondition(drift.status, text)
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
        if not clock.is_synchronised():
            found["clock-unsynchronised"] = AlarmCondition(
                "amber", "no time server is followed; times may be wrong"
            )
        return found


def _run_into(future: Future[str], work: Callable[[], str]) -> None:
    """Run `work` into its future, also when it fails or nobody waits any more."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(work())
    except Exception as error:
        log.exception("a self-test failed")
        future.set_exception(error)
