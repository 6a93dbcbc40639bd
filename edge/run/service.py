"""The run process: whole frames in parallel, results in order, nothing lost in silence.

Threads, and what each may touch:

- the camera thread (`CameraThread`) reads the source and fills the queue;
- each worker (`FrameWorker`) owns a pipeline and takes frames from the queue;
- the follower's thread (`DeadlineWorker`) owns the sequence model;
- the main thread owns everything else: it puts outcomes back in order, adds what a
  frame owes to the ones before, and writes the rows.

They meet in `FrameQueue`, in the queue of messages to the main thread, and in events;
each of these locks itself. This is the one place where everything is caught: a frame
that fails becomes a rejected row, and only several in a row end the process.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from edge.errors import HemascopeError
from edge.frames import Source
from edge.ledger.preview_file import PreviewWriter
from edge.ledger.writer import Ledger
from edge.monitoring.systemd import Notifier
from edge.pipeline.calibration_drift import DriftWatch
from edge.pipeline.pipeline import Pipeline
from edge.recording.recorder import Recorder
from edge.run.camera_thread import CameraThread
from edge.run.deadline_worker import DeadlineWorker
from edge.run.failure_policy import FailurePolicy, HangWatch
from edge.run.frame_queue import FrameQueue
from edge.run.frame_worker import (
    FrameOutcome,
    FrameWorker,
    WorkerMessage,
    failures_to,
    rejected,
)
from edge.run.frozen_image import FrozenImageCheck
from edge.run.housekeeping import Housekeeping
from edge.run.ordered_stages import OrderedStages
from edge.run.result_order import ResultOrder
from edge.run.result_writer import OnRow, ResultWriter
from edge.run.run_controller import RunController
from edge.settings.run import RunSettings
from edge.slide.run_state import RunTimeline
from edge.slide.slide_counter import SlideCounter
from edge.timelapse.follower import Follower

log = logging.getLogger(__name__)

_FAREWELL_S = 5.0
_AHEAD = 8  # frames that may wait to be written, beside those in work


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RunCollaborators:
    """What may go along with a run; all of it may be missing.

    `timeline` knows of which run a frame is, and `counter` counts the run's cells.
    `controller` begins, resumes and ends the run; without one it ends with the
    process, and with its schedule no planned frame is passed over. With
    `open_follower`, cells are followed, in a thread of its own. `drift` compares what
    is seen with the calibration, `housekeeping` answers requests and raises alarms,
    `notifier` tells the service manager of progress, `recorder` keeps raw frames.
    `was_live`: the source is a recording of a live camera, whose frozen picture is
    still one.
    """

    timeline: RunTimeline | None = None
    counter: SlideCounter | None = None
    controller: RunController | None = None
    open_follower: Callable[[], Follower] | None = None
    drift: DriftWatch | None = None
    housekeeping: Housekeeping | None = None
    notifier: Notifier = field(default_factory=Notifier)
    recorder: Recorder | None = None
    was_live: bool = False


class Service:
    """Runs a source through pipelines into a ledger. Used once, by the main thread."""

    def __init__(
        self,
        source: Source,
        open_pipeline: Callable[[], Pipeline],
        ledger: Ledger,
        previews: PreviewWriter,
        settings: RunSettings,
        *,
        keep_rows: int,
        collaborators: RunCollaborators | None = None,
    ) -> None:
        self._source, self._open_pipeline = source, open_pipeline
        self._ledger, self._previews, self._settings = ledger, previews, settings
        self._keep_rows = keep_rows
        self._with = collaborators or RunCollaborators()
        opens = self._with.open_follower
        self._follower = None if opens is None else DeadlineWorker(opens)
        self._messages: queue.Queue[WorkerMessage] = queue.Queue(maxsize=8)
        self._failures = FailurePolicy(settings.most_failures)
        self._hang = HangWatch(settings.most_frame_s)
        self._order, self._stages = ResultOrder(), self._open_stages()

    def run(
        self,
        stop: threading.Event,
        *,
        frames: int | None = None,
        on_row: OnRow = lambda row, result: None,
    ) -> None:
        """Work until the recording ends, `frames` were looked at, or `stop`.

        Raises
        ------
        RunFailed
            `most_failures` frames in a row failed, or a worker could not start.
        LedgerFull
            The disk is full.
        """
        count = self._settings.workers or os.cpu_count() or 1
        ahead = _AHEAD if self._follower is None else 1
        self._frames = FrameQueue(
            is_live=self._source.is_live, max_frames=frames, max_in_work=count + ahead
        )
        self._camera = CameraThread(self._source, self._frames, self._messages, stop)
        self._workers = [self._open_worker() for _ in range(count)]
        self._writer = self._open_writer(on_row)
        camera, workers, others = self._threads()
        for thread in (camera, *workers, *others):
            thread.start()
        try:
            self._write_in_order(workers, stop)
            self._close_housekeeping(None)
        except HemascopeError as error:
            self._close_housekeeping(error)
            self._writer.write_end(error)
            raise
        finally:
            stop.set()
            self._frames.close()
            self._close(camera, [camera, *workers, *others])

    # -- what there is ----------------------------------------------------------------

    def _open_stages(self) -> OrderedStages:
        is_live = self._source.is_live or self._with.was_live
        return OrderedStages(
            frozen=FrozenImageCheck(self._settings.frozen_after) if is_live else None,
            timeline=self._with.timeline,
            counter=self._with.counter,
            follower=self._follower,
            drift=self._with.drift,
            failures=self._failures,
            hang=self._hang,
        )

    def _open_worker(self) -> FrameWorker:
        housekeeping = self._with.housekeeping
        return FrameWorker(
            open_pipeline=self._open_pipeline,
            frames=self._frames,
            messages=self._messages,
            previews=self._previews,
            preview_width_px=self._settings.preview_width_px,
            snapshots=None if housekeeping is None else housekeeping.snapshots,
            keeps_frames=self._follower is not None or self._with.recorder is not None,
        )

    def _open_writer(self, on_row: OnRow) -> ResultWriter:
        return ResultWriter(
            self._ledger,
            self._previews,
            keep_rows=self._keep_rows,
            recorder=self._with.recorder,
            housekeeping=self._with.housekeeping,
            notifier=self._with.notifier,
            on_row=on_row,
        )

    def _threads(
        self,
    ) -> tuple[threading.Thread, list[threading.Thread], list[threading.Thread]]:
        """Return the thread of the camera, those of the workers, and the follower's."""
        others = [] if self._follower is None else [_thread("follower", self._follow)]
        workers = [
            _thread(f"worker-{n}", worker.run) for n, worker in enumerate(self._workers)
        ]
        return _thread("camera", self._camera.run), workers, others

    def _follow(self) -> None:
        """Open the follower, and do what is asked of it until the end."""
        if self._follower is not None:
            with failures_to(self._messages, "the follower"):
                self._follower.run()

    # -- the loop ----------------------------------------------------------------------

    def _write_in_order(
        self, workers: Sequence[threading.Thread], stop: threading.Event
    ) -> None:
        """Write outcomes by their numbers until all workers have ended.

        After a failure nothing new is taken, but what is in work is still written.
        """
        self._hang.restart()
        while any(w.is_alive() for w in workers) or not self._messages.empty():
            self._write_marks()
            self._between_rows()
            self._receive()
            self._write_due()
            if self._failures.error is not None:
                self._frames.close()
            if not self._frames.in_work:
                self._hang.restart()
                self._report_idle()
                self._end_plan()
            elif self._hang.is_hung:
                self._failures.give_up(self._hang.error())
                break
        self._write_given_up()
        self._end_run(is_over=self._failures.error is None and not stop.is_set())
        if self._failures.error is not None:
            raise self._failures.error

    def _between_rows(self) -> None:
        """Do what is due beside the frames."""
        if self._with.housekeeping is not None:
            self._with.housekeeping.step(queue=len(self._frames.in_work))
        proven = [worker.is_proven.is_set() for worker in self._workers]
        if any(proven):
            self._begin_run()
        if all(proven):
            self._with.notifier.ready()

    def _receive(self) -> None:
        """Wait a moment for what a thread has to say."""
        try:
            message = self._messages.get(timeout=0.1)
        except queue.Empty:
            return
        if isinstance(message, FrameOutcome):
            self._order.add(message)
        else:
            self._failures.give_up(message)

    def _write_due(self) -> None:
        """Write what is due; nothing before the follower is there."""
        while not self._is_follower_opening:
            outcome = self._order.take_due()
            if outcome is None:
                return
            self._write(outcome)

    def _write(self, outcome: FrameOutcome) -> None:
        self._begin_run()
        self._write_marks()
        outcome = self._stages.complete(outcome)
        self._writer.write(outcome)
        self._frames.finish(outcome.queued.number)
        self._hang.restart()
        self._failures.count(outcome)

    def _write_given_up(self) -> None:
        """Write what is in work behind a frame that hangs, or after a failure."""
        for queued in self._frames.in_work:
            reason = f"given up: {self._failures.error or self._hang.error()}"
            outcome = self._order.take(queued.number)
            self._write(outcome or rejected(queued, reason))

    @property
    def _is_follower_opening(self) -> bool:
        """Whether the follower is not there yet; we do not wait for it idly."""
        return self._follower is not None and self._follower.is_opening

    # -- runs --------------------------------------------------------------------------

    def _begin_run(self) -> None:
        """Begin the run, or go on with it; before its first row."""
        if self._with.controller is not None:
            self._with.controller.begin()

    def _end_plan(self) -> None:
        """End the run after its last planned frame; nothing is in work."""
        controller = self._with.controller
        if controller is None or not controller.is_plan_over:
            return
        if self._frames.is_empty and controller.end_plan():
            self._frames.close()

    def _end_run(self, *, is_over: bool) -> None:
        """Leave the run for the next process, or end it."""
        if self._with.controller is not None:
            self._with.controller.finish(is_over=is_over)
        elif self._with.timeline is not None:
            self._with.timeline.end_if_open()
        self._write_marks()

    def _write_marks(self) -> None:
        if self._with.timeline is not None:
            self._writer.write_marks(self._with.timeline.take_marks())

    # -- the end -----------------------------------------------------------------------

    def _report_idle(self) -> None:
        """Nothing is in work: that is progress as long as the camera answers."""
        if self._camera.take_answer():
            self._with.notifier.progress()

    def _close_housekeeping(self, error: HemascopeError | None) -> None:
        """End the commands at work, and raise the alarm if we must stop."""
        if self._with.housekeeping is None:
            return
        try:
            self._with.housekeeping.close(error)
        except HemascopeError as last:
            log.error("not written at the end: %s", last)

    def _close(
        self, camera: threading.Thread, threads: Sequence[threading.Thread]
    ) -> None:
        """Let every thread end, and release what they used; a hung one stays."""
        if self._follower is not None:
            self._follower.close()
        deadline_s = time.monotonic() + _FAREWELL_S
        while any(t.is_alive() for t in threads) and time.monotonic() < deadline_s:
            try:  # a thread that waits to hand something over may go on
                self._messages.get(timeout=0.05)
            except queue.Empty:
                continue
        if self._with.recorder is not None:
            self._with.recorder.close()
        if not camera.is_alive():
            self._source.close()


def _thread(name: str, target: Callable[[], None]) -> threading.Thread:
    return threading.Thread(target=target, name=name, daemon=True)
