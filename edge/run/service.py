"""The run process: whole frames in parallel, results in order, nothing lost in silence.

One thread reads the source and keeps only the newest exposure, undecoded. Each worker
takes it when free and says what it shows alone. The main thread puts what they say
back in order, adds what a frame owes to the ones before it, and writes it into the
ledger. It is the one place where everything is caught: a frame that fails becomes a
rejected row, and only several in a row end the process.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial

import msgspec

from edge.errors import FrameRejected, HemascopeError
from edge.frames import Counts, Gap, Source, SourceEnded
from edge.ledger.preview_file import MAX_PREVIEW_BYTES, Preview, PreviewWriter
from edge.ledger.rows import LedgerRow, RowRefused
from edge.ledger.writer import Ledger
from edge.monitoring.systemd import Notifier
from edge.pipeline.calibration_drift import DriftWatch
from edge.pipeline.pipeline import ExaminedFrame, Pipeline
from edge.recording.recorder import Recorder
from edge.rendering.annotation import draw, to_jpeg
from edge.run.deadline_worker import DeadlineWorker, JobTimedOut
from edge.run.empty_results import STOPPED, empty_result
from edge.run.frame_queue import FrameQueue, QueuedFrame
from edge.run.housekeeping import Housekeeping
from edge.run.run_controller import RunController
from edge.schema.results import FrameResult
from edge.settings.run import RunSettings
from edge.slide.run_state import RunState
from edge.stages.thumbnail import Thumbnail
from edge.timelapse.follower import Follower

log = logging.getLogger(__name__)

_READ_S = 0.5
_PRUNE_EVERY = 1000
_FAREWELL_S = 5.0
_AHEAD = 8  # frames that may wait to be written, beside those in work
_LEAST_S = 1.0  # that following a frame may take, however long it was in work before


class RunFailed(HemascopeError):
    """Frame after frame fails: something is broken, the next will fail too."""


@dataclass(frozen=True, slots=True, eq=False)
class FrameOutcome:
    """What a worker says of one ticket.

    `digest` is of the frame's pixels, None without a frame. `failure` is set where the
    fault was ours and not the frame's. `preview` is a JPEG when one was due, `snapshot`
    one in full size when it was asked for. `thumbnail` tells the
    frame's place on the slide; `seen` is the whole frame, only where cells are
    followed or it is recorded.
    """

    number: int
    result: FrameResult
    digest: int | None = None
    failure: str | None = None
    preview: bytes | None = None
    snapshot: bytes | None = None
    thumbnail: Thumbnail | None = None
    seen: ExaminedFrame | None = None


@dataclass(frozen=True, slots=True, eq=False)
class RunCollaborators:
    """Who goes along with a run: sees its rows, does what is due beside the frames.

    `drift` compares what is seen with the calibration, `attendant` answers requests and
    raises alarms, `notifier` tells systemd of progress. With `open_follower`, cells are
    followed, in a thread of its own. `runs` knows of which run a frame is, turns it
    away if it is no good, and counts its cells; `conductor` begins and ends the run,
    and without one it ends with the process.
    With a `conductor` that has a schedule no planned frame is passed over.
    `recorder` keeps raw frames. `was_live`: the source is a recording of a live camera,
    whose frozen picture is still one.
    """

    drift: DriftWatch | None = None
    attendant: Housekeeping | None = None
    notifier: Notifier = field(default_factory=Notifier)
    open_follower: Callable[[], Follower] | None = None
    runs: RunState | None = None
    conductor: RunController | None = None
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
        company: RunCollaborators | None = None,
    ) -> None:
        self._source, self._open_pipeline = source, open_pipeline
        self._ledger, self._previews, self._settings = ledger, previews, settings
        self._keep_rows, company = keep_rows, company or RunCollaborators()
        self._drift, self._attendant = company.drift, company.attendant
        self._notifier, self._runs = company.notifier, company.runs
        self._conductor = company.conductor
        self._recorder, self._was_live = company.recorder, company.was_live
        opens = company.open_follower
        self._follower = None if opens is None else DeadlineWorker(opens)
        self._proven: list[str] = []  # workers whose engines passed the self-test
        self._camera_answered = False
        self._outcomes: queue.Queue[FrameOutcome | HemascopeError] = queue.Queue(
            maxsize=8
        )
        self._last_digest: int | None = None
        self._identical = self._failures = 0
        self._failed: RunFailed | None = None
        self._in_hand: dict[int, QueuedFrame] = {}
        self._moved_s = time.monotonic()
        self._stop = threading.Event()

    def run(
        self,
        stop: threading.Event,
        *,
        frames: int | None = None,
        on_row: Callable[[LedgerRow, FrameResult], None] = lambda row, result: None,
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
        desk = FrameQueue(
            is_live=self._source.is_live, most_frames=frames, most_out=count + ahead
        )
        self._stop = stop
        camera = threading.Thread(
            target=self._watch_camera, args=(desk, stop), name="camera", daemon=True
        )
        workers = [
            threading.Thread(
                target=self._work, args=(desk,), name=f"worker-{n}", daemon=True
            )
            for n in range(count)
        ]
        follower = [
            threading.Thread(
                target=self._keep, args=(aside,), name="follower", daemon=True
            )
            for aside in filter(None, [self._follower])
        ]
        for thread in (camera, *workers, *follower):
            thread.start()
        try:
            self._write_in_order(desk, workers, on_row)
            self._dismiss(None)
        except HemascopeError as error:
            self._dismiss(error)
            self._say_why(error)
            raise
        finally:
            stop.set()
            desk.close()
            if self._follower is not None:
                self._follower.close()
            self._drain([camera, *workers, *follower])
            if self._recorder is not None:
                self._recorder.close()
            if not camera.is_alive():
                self._source.close()

    def _watch_camera(self, desk: FrameQueue, stop: threading.Event) -> None:
        """Read the source until it ends; the desk decides what is kept."""
        try:
            while not stop.is_set():
                item = self._source.read(_READ_S)
                self._camera_answered = True
                if item is not None and not desk.put(item):
                    break
        except SourceEnded as end:
            log.info("%s", end)
        except Exception as error:
            log.exception("the source failed")
            self._outcomes.put(RunFailed(f"the source failed: {error!r}"))
        finally:
            desk.close()

    def _keep(self, aside: DeadlineWorker[Follower]) -> None:
        """Open the follower, and do what is asked of it until the end."""
        try:
            aside.run()
        except HemascopeError as error:
            self._outcomes.put(error)
        except Exception as error:
            log.exception("the follower failed")
            self._outcomes.put(RunFailed(f"the follower failed: {error!r}"))

    def _work(self, desk: FrameQueue) -> None:
        """Take tickets the whole way until the desk closes."""
        try:
            with closing(self._open_pipeline()) as pipeline:
                self._proven.append(threading.current_thread().name)
                while (ticket := desk.take()) is not None:
                    self._in_hand[ticket.number] = ticket
                    self._outcomes.put(self._settle(pipeline, ticket))
        except HemascopeError as error:
            self._outcomes.put(error)
        except Exception as error:
            log.exception("a worker failed")
            self._outcomes.put(RunFailed(f"a worker failed: {error!r}"))

    def _settle(self, pipeline: Pipeline, ticket: QueuedFrame) -> FrameOutcome:
        """Say something of a ticket, whatever happens."""
        item = ticket.item
        if isinstance(item, Gap):
            return FrameOutcome(ticket.number, empty_result("gap", item.reason, item))
        try:
            seen = pipeline.examine(item)
        except FrameRejected as error:
            result = empty_result("rejected", str(error), item, ticket.passed_over)
            return FrameOutcome(ticket.number, result)
        except Exception as error:
            log.exception("sequence=%d failed", item.shot.sequence)
            return self._rejected(ticket.number, str(error) or repr(error))
        frame = msgspec.structs.replace(
            seen.result.frame, passed_over=ticket.passed_over
        )
        result = msgspec.structs.replace(
            seen.result,
            frame=frame,
            point=None if item.planned is None else item.planned.what,
            timings_ms={"wait": ticket.waited_ms, **seen.result.timings_ms},
        )
        pixels, preview, snapshot = seen.raw.pixels, None, None
        is_asked = self._attendant is not None and self._attendant.wants_snapshot
        if self._attendant is not None and is_asked:
            snapshot = self._attendant.draw(pixels, result)
        if self._previews.is_due() or (is_asked and self._previews.is_allowed):
            preview = self._draw(pixels, result)
        is_kept = self._follower is not None or self._recorder is not None
        return FrameOutcome(
            ticket.number,
            result,
            _digest(pixels),
            None,
            preview,
            snapshot,
            seen.thumbnail,
            seen if is_kept else None,
        )

    def _draw(self, pixels: Counts, result: FrameResult) -> bytes | None:
        """Draw a preview; a result never waits or fails for a picture of it."""
        try:
            picture = draw(pixels, result, self._settings.preview_width_px)
            return to_jpeg(picture, MAX_PREVIEW_BYTES)
        except Exception:
            log.exception("sequence=%d preview not drawn", result.frame.first)
            return None

    def _write_in_order(
        self,
        desk: FrameQueue,
        workers: list[threading.Thread],
        on_row: Callable[[LedgerRow, FrameResult], None],
    ) -> None:
        """Append outcomes by their numbers until all workers have gone home.

        After a failure nothing new is taken, but what is in hand is still written.
        """
        waiting: dict[int, FrameOutcome] = {}
        failed: HemascopeError | None = None
        due, self._moved_s = 0, time.monotonic()
        while any(w.is_alive() for w in workers) or not self._outcomes.empty():
            self._write_marks()
            self._go_round(len(workers))
            outcome = self._next_outcome()
            if isinstance(outcome, FrameOutcome):
                waiting[outcome.number] = outcome
            else:
                failed = failed or outcome
            while due in waiting and not self._is_opening:
                self._write(waiting.pop(due), on_row)
                self._in_hand.pop(due)
                desk.finish()
                due += 1
                failed = failed or self._failed
            if failed is not None:
                desk.close()
            if desk.taken == due:
                self._moved_s = time.monotonic()
                self._say_idle()
                self._end_plan(desk)
            elif time.monotonic() - self._moved_s > self._settings.most_frame_s:
                failed = failed or self._hung()
                break
        for number in sorted({*waiting, *list(self._in_hand)}):  # behind one that hangs
            given_up = self._rejected(number, f"given up: {failed or self._hung()}")
            self._write(waiting.get(number) or given_up, on_row)
        failed = failed or self._failed
        self._end_run(is_over=failed is None and not self._stop.is_set())
        if failed is not None:
            raise failed

    def _go_round(self, workers: int) -> None:
        """Do what is due beside the frames."""
        if self._attendant is not None:
            self._attendant.step(queue=len(self._in_hand))
        if self._proven:
            self._begin()
        if len(self._proven) == workers:
            self._notifier.ready()

    def _begin(self) -> None:
        """Begin the run, or go on with it; before its first row."""
        if self._conductor is not None:
            self._conductor.begin()

    def _end_plan(self, desk: FrameQueue) -> None:
        """End the run after its last planned frame; nothing is in hand."""
        conductor = self._conductor
        if conductor is None or not conductor.is_plan_over or not desk.is_empty:
            return
        if conductor.end_plan():
            desk.close()

    def _end_run(self, *, is_over: bool) -> None:
        """Say how the run is left."""
        if self._conductor is not None:
            self._conductor.finish(is_over=is_over)
        elif self._runs is not None and self._runs.run is not None:
            self._runs.end_run()
        self._write_marks()

    def _say_idle(self) -> None:
        """Nothing is in hand: that is progress while the camera's thread goes round."""
        if self._camera_answered:
            self._camera_answered = False
            self._notifier.progress()

    @property
    def _is_opening(self) -> bool:
        """Whether the follower is not there yet; we do not wait for that idly."""
        return self._follower is not None and self._follower.is_opening

    def _next_outcome(self) -> FrameOutcome | HemascopeError | None:
        try:
            return self._outcomes.get(timeout=0.1)
        except queue.Empty:
            return None

    def _hung(self) -> RunFailed:
        return RunFailed(
            f"a frame has been in work for {self._settings.most_frame_s:.0f} s without "
            "a result; the engine or a driver hangs, start again"
        )

    def _rejected(self, number: int, reason: str) -> FrameOutcome:
        """Say nothing of a frame, by our own fault."""
        ticket = self._in_hand[number]
        result = empty_result("rejected", reason, ticket.item, ticket.passed_over)
        return FrameOutcome(number, result, failure=reason)

    def _dismiss(self, error: HemascopeError | None) -> None:
        """End what was asked beside the frames, and raise the alarm if we must stop."""
        if self._attendant is None:
            return
        try:
            self._attendant.close(error)
        except HemascopeError as last:
            log.error("not written at the end: %s", last)

    def _say_why(self, error: HemascopeError) -> None:
        """End the ledger with the reason why there are no more results."""
        try:
            self._append(empty_result("gap", f"{STOPPED}{error}", None))
        except HemascopeError as last:
            log.error("the ledger does not say why acquisition stopped: %s", last)

    def _continue(self, outcome: FrameOutcome) -> FrameOutcome:
        """Say what needs the frames before it: whether it is good, tracks, counts."""
        result = self._of_this_run(outcome.number, self._reject_frozen(outcome))
        result = self._tell(result, lambda runs: runs.judge(result))
        outcome = self._follow(replace(outcome, result=result))
        followed, thumbnail = outcome.result, outcome.thumbnail
        counted = self._tell(followed, lambda runs: runs.count(followed, thumbnail))
        return replace(outcome, result=self._follow_drift(counted))

    def _follow(self, outcome: FrameOutcome) -> FrameOutcome:
        """Follow the cells of a frame; what fails here fails like an examination."""
        result, seen = outcome.result, outcome.seen
        if self._follower is None or seen is None:
            return outcome
        judged = replace(seen, result=result)
        left_s = self._settings.most_frame_s - (time.monotonic() - self._moved_s)
        try:
            followed = self._follower.do(
                lambda follower: follower.follow(judged), max(left_s, _LEAST_S)
            )
            return replace(outcome, result=followed)
        except JobTimedOut:
            self._failed = self._hung()
            failed = self._rejected(outcome.number, f"given up: {self._failed}")
        except Exception as error:
            log.exception("sequence=%d failed", result.frame.first)
            failed = self._rejected(outcome.number, str(error) or repr(error))
        nothing = msgspec.structs.replace(
            failed.result, run=result.run, point=result.point
        )
        return replace(failed, result=nothing)

    def _tell(
        self, result: FrameResult, tell: Callable[[RunState], FrameResult]
    ) -> FrameResult:
        """Tell what the run has to say; a result never fails for its place."""
        if self._runs is None:
            return result
        try:
            return tell(self._runs)
        except Exception as error:
            log.exception("sequence=%d not counted", result.frame.first)
            reason = f"not counted: {error!r}; say so to the makers"
            return msgspec.structs.replace(result, status="degraded", reason=reason)

    def _write_marks(self) -> None:
        """Append what was started, noted and ended since the last time."""
        for mark in self._runs.marks() if self._runs is not None else ():
            self._ledger.with_room(partial(self._ledger.append, mark))

    def _write(
        self, outcome: FrameOutcome, on_row: Callable[[LedgerRow, FrameResult], None]
    ) -> None:
        self._begin()
        self._write_marks()
        outcome = self._continue(outcome)
        result = outcome.result
        row = self._ledger.with_room(lambda: self._append(result))
        if outcome.preview is not None:
            self._previews.write(Preview(row.seq, outcome.preview))
        if self._recorder is not None:
            item = self._in_hand[outcome.number].item
            self._recorder.take(row.seq, item, result, outcome.seen)
        if self._attendant is not None:
            self._attendant.wrote(row, result, outcome.snapshot)
        if row.seq % _PRUNE_EVERY == 0:
            self._ledger.prune(self._keep_rows)
        on_row(row, result)
        self._notifier.progress(f"row {row.seq}: {result.status} {result.reason or ''}")
        self._moved_s = time.monotonic()
        self._count_failures(outcome)

    def _of_this_run(self, number: int, result: FrameResult) -> FrameResult:
        """Say nothing of the plan of a run that is over by now."""
        planned = self._in_hand[number].item.planned
        if (
            planned is None
            or self._runs is None
            or self._runs.is_under_way(planned.run)
        ):
            return result
        return msgspec.structs.replace(result, point=None, missed_points=None)

    def _count_failures(self, outcome: FrameOutcome) -> None:
        """Give up after several in a row; what had no chance to fail counts nothing."""
        if outcome.failure is not None:
            self._failures += 1
        elif outcome.digest is not None:
            self._failures = 0
        if self._failures >= self._settings.most_failures:
            self._failed = RunFailed(
                f"{self._failures} frames in a row failed, the last one: "
                f"{outcome.failure}"
            )

    def _append(self, result: FrameResult) -> LedgerRow:
        try:
            return self._ledger.append(result)
        except RowRefused as error:
            log.error("row refused: %s", error)
            bare = msgspec.structs.replace(
                result,
                status="rejected",
                reason=str(error),
                source="",
                cells=(),
                counts={},
                quality=None,
            )
            return self._ledger.append(bare)

    def _follow_drift(self, result: FrameResult) -> FrameResult:
        """Say how far the microscope is from its calibration, by its good frames."""
        if self._drift is None or result.quality is None or result.colours is None:
            return result
        if result.status == "rejected":
            return result
        drift = self._drift.follow(
            result.colours, result.quality.focus, result.monotonic_ns
        )
        return msgspec.structs.replace(result, drift=drift)

    def _reject_frozen(self, outcome: FrameOutcome) -> FrameResult:
        """Reject what cannot be live: a camera never sends the same noise twice."""
        result = outcome.result
        if outcome.digest is None or not (self._source.is_live or self._was_live):
            return result
        is_same = outcome.digest == self._last_digest
        self._identical = self._identical + 1 if is_same else 1
        self._last_digest = outcome.digest
        if self._identical < self._settings.frozen_after:
            return result
        reason = (
            f"frozen image: the last {self._identical} frames are identical; unplug "
            "the camera and plug it in again"
        )
        return msgspec.structs.replace(
            result, status="rejected", reason=reason, cells=(), counts={}
        )

    def _drain(self, threads: list[threading.Thread]) -> None:
        """Let threads that wait to hand something over finish; a hung one stays."""
        deadline_s = time.monotonic() + _FAREWELL_S
        while any(t.is_alive() for t in threads) and time.monotonic() < deadline_s:
            try:
                self._outcomes.get(timeout=0.05)
            except queue.Empty:
                continue


def _digest(pixels: Counts) -> int:
    """Return a checksum over every eighth pixel of every eighth row."""
    return zlib.crc32(pixels[::8, ::8].tobytes())
