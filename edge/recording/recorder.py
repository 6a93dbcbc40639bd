"""Record raw frames beside the loop of the run process, which never waits for it.

The loop hands over what it wrote to its ledger, and goes on. A thread of this module
encodes the frames and writes them to the disk. A bounded queue lies between the two.

The idea: results come first. When the disk or the processor is too slow, the queue is
full, and the newest frame is not recorded; the loop could only wait for it. What is not
recorded is a line in the recording, with its row numbers and the reason, and an alarm.

Invariant: everything that was handed over is in the recording once, in the order of
rows, as a frame, as a line, or within the rows of a `MissingFrames` line. So frames
leave the queue at its front, and a frame that finds it full takes its own place at the
end, as missing, without its pixels.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import replace

from edge.frames import Exposure, Gap
from edge.monitoring.alarms import AlarmCondition
from edge.pipeline.pipeline import ExaminedFrame
from edge.recording.format import FailedFrame, Frame, GapLine, MissingFrames
from edge.recording.frame_encoding import EncodedFrame
from edge.recording.writer import (
    NoRoom,
    RecordingWriter,
    merge_missing,
    missing_frames_of,
)
from edge.schema.results import FrameResult

log = logging.getLogger(__name__)

_MAX_WAITING_BYTES = 96 << 20  # of pixels: 14 frames of 1920x1200
_MAX_WAITING_ITEMS = 10_000  # also of items without pixels
_RETRY_S = 5.0  # after a failure nothing is tried for so long
_ALARM_HOLD_S = 10.0  # the alarm condition lasts so long after the last lost frame
_CLOSE_TIMEOUT_S, _LAST_TIMEOUT_S = 15.0, 5.0  # for what waits at the end
_TOO_LATE = "the run ended before they were written"
_TOO_SLOW = "the disk or the processor is too slow for all frames"

# Each write waits several times for the disk, however many frames it holds. So frames
# that wait are written together, but none waits long for others to be encoded.
_MAX_BATCH = 8
_MAX_BATCH_WAIT_S = 0.2

_Item = Frame | GapLine | FailedFrame
_Job = tuple[_Item | MissingFrames, ExaminedFrame | None]


class Recorder:
    """Feeds a recording's writer from a thread of its own.

    `take` is called by the loop; it never waits for the disk, and never raises.
    `conditions` may be called from any thread. Only the recorder's own thread uses the
    writer. What both threads change is guarded by `_changed`.

    `every`: one of so many frames is recorded. `close_timeout_s`: how long `close` lets
    it write what still waits.
    """

    def __init__(
        self,
        writer: RecordingWriter,
        *,
        every: int = 1,
        close_timeout_s: float = _CLOSE_TIMEOUT_S,
    ) -> None:
        self._writer, self._every = writer, every
        self._close_timeout_s = close_timeout_s
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._waiting_bytes = self._frames = 0
        self._is_closing = False
        self._last_loss: tuple[str, float] | None = None  # reason, monotonic time
        self._retry_s = 0.0
        self.recorded = self.lost = 0
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def take(
        self,
        seq: int,
        item: Exposure | Gap,
        result: FrameResult,
        examined: ExaminedFrame | None,
    ) -> None:
        """Record what row `seq` is about; `examined` is None where there is no picture.

        Parameters
        ----------
        seq
            The row of the ledger that holds `result`.
        item
            What the source delivered.
        result
            What the row says of it.
        examined
            The frame with its pixels.
        """
        is_planned = result.point is not None or result.missed_points is not None
        if not is_planned:  # the plan that it was taken for is over
            item = replace(item, planned=None)
        if isinstance(item, Gap):
            self._enqueue(GapLine(seq=seq, run=result.run, gap=item))
        elif examined is None:
            self._enqueue(_failed_frame(seq, item, result))
        else:
            self._take_frame(_frame(seq, item, result, examined), examined)

    def _take_frame(self, frame: Frame, examined: ExaminedFrame) -> None:
        """Enqueue one of `every` frames; the others are missing on purpose."""
        self._frames += 1
        if (self._frames - 1) % self._every:
            reason = f"one of {self._every} frames is recorded"
            self._enqueue(missing_frames_of(frame, reason))
        else:
            self._enqueue(frame, examined)

    def conditions(self) -> dict[str, AlarmCondition]:
        """Return what is wrong with the recording now, by the code of its alarm."""
        last_loss = self._last_loss
        if last_loss is None or time.monotonic() - last_loss[1] > _ALARM_HOLD_S:
            return {}
        text = (
            f"{self.lost} frames of this run are not recorded; the last reason: "
            f"{last_loss[0]}"
        )
        return {"not-recorded": AlarmCondition("amber", text[:1000])}

    def close(self) -> None:
        """Write what still waits, for a limited time, and end. Safe to call twice."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join(self._close_timeout_s)
        if self._thread.is_alive():
            self._drop_waiting()
            self._thread.join(_LAST_TIMEOUT_S)
        name = self._writer.recording.head.id
        if self._thread.is_alive():
            log.error(
                "recording=%s the disk hangs, so the recording does not say how it "
                "ended",
                name,
            )
        else:
            log.info(
                "recording=%s ended: %d frames, %d lost", name, self.recorded, self.lost
            )

    def _drop_waiting(self) -> None:
        """Replace what still waits by one line: the process must end."""
        with self._changed:
            jobs = list(self._jobs)
            self._jobs.clear()
            for item, _ in jobs:
                if isinstance(item, MissingFrames):
                    self._enqueue(item)
                else:
                    self._count_loss(_TOO_LATE)
                    self._enqueue(missing_frames_of(item, _TOO_LATE))

    def _enqueue(
        self, item: _Item | MissingFrames, examined: ExaminedFrame | None = None
    ) -> None:
        size = 0 if examined is None else examined.raw.pixels.nbytes
        with self._changed:
            # One frame always fits, however large: else nothing would be recorded.
            is_full = (
                size > 0
                and self._waiting_bytes > 0
                and self._waiting_bytes + size > _MAX_WAITING_BYTES
            )
            has_too_many = len(self._jobs) >= _MAX_WAITING_ITEMS
            if (is_full or has_too_many) and not isinstance(item, MissingFrames):
                item, examined, size = missing_frames_of(item, _TOO_SLOW), None, 0
                self._count_loss(_TOO_SLOW)
            last = self._jobs[-1][0] if self._jobs else None
            if (
                isinstance(item, MissingFrames)
                and isinstance(last, MissingFrames)
                and (last.reason == item.reason or has_too_many)
            ):
                # Neighbours become one line. So the queue does not grow while nothing
                # can be written, even over days.
                self._jobs[-1] = merge_missing(last, item), None
            else:
                self._jobs.append((item, examined))
            self._waiting_bytes += size
            self._changed.notify_all()

    def _count_loss(self, reason: str) -> None:
        """Count a frame that is not recorded; log it, but not every time."""
        now_s = time.monotonic()
        if self._last_loss is None or now_s - self._last_loss[1] > _ALARM_HOLD_S:
            log.warning("frames are not recorded: %s", reason)
        self.lost += 1
        self._last_loss = reason, now_s

    def _run(self) -> None:
        """Write what was taken, whatever fails, until there is no more."""
        while jobs := self._next_batch():
            size = sum(s.raw.pixels.nbytes for _, s in jobs if s is not None)
            unwritten = [item for item, _ in jobs]
            try:
                self._write(jobs, unwritten)
            except (OSError, NoRoom) as error:
                self._report_missing(unwritten, str(error))
            except Exception as error:
                # Our own error must cost frames of the recording, never results.
                log.exception("row=%d not recorded", unwritten[0].seq)
                self._report_missing(unwritten, f"recording failed: {error!r}")
            del jobs  # the pixels, before their bytes are given to others
            with self._changed:
                self._waiting_bytes -= size
        self._writer.close()

    def _next_batch(self) -> list[_Job]:
        """Return the next item, with the frames behind it if it is a frame.

        It waits until there is one; [] means that the recorder is closing.
        """
        with self._changed:
            while not self._jobs and not self._is_closing:
                self._changed.wait()
            jobs: list[_Job] = []
            while self._jobs and len(jobs) < _MAX_BATCH:
                if jobs and self._jobs[0][1] is None:
                    break
                jobs.append(self._jobs.popleft())
                if jobs[0][1] is None:
                    break
            return jobs

    def _write(self, jobs: list[_Job], unwritten: list[_Item | MissingFrames]) -> None:
        """Write these jobs; what is on the disk is removed from `unwritten`.

        So after an error the caller knows which of them are missing.
        """
        item = jobs[0][0]
        if isinstance(item, MissingFrames):
            self._writer.add_missing(item)
            return
        if time.monotonic() < self._retry_s and self._last_loss is not None:
            # The disk has just failed. Trying each frame would cost seconds each.
            raise NoRoom(self._last_loss[0])
        if not isinstance(item, Frame):
            self._writer.write_line(item)
            return
        encoded: list[tuple[Frame, EncodedFrame]] = []
        begin_s = time.monotonic()
        for frame, examined in jobs:
            if isinstance(frame, Frame) and examined is not None:
                encoded.append((frame, self._writer.encode_frame(examined.raw.pixels)))
            is_last = len(encoded) == len(unwritten)
            while encoded and (
                is_last or time.monotonic() - begin_s > _MAX_BATCH_WAIT_S
            ):
                written = self._writer.write_frames(encoded)
                self.recorded += written
                del encoded[:written], unwritten[:written]
                if not encoded:
                    begin_s = time.monotonic()

    def _report_missing(
        self, unwritten: list[_Item | MissingFrames], reason: str
    ) -> None:
        """Write in the recording that these are missing; the results go on."""
        if time.monotonic() >= self._retry_s:
            self._retry_s = time.monotonic() + _RETRY_S
        for item in unwritten:
            if isinstance(item, MissingFrames):
                self._writer.add_missing(item)
                continue
            with self._changed:
                self._count_loss(reason)
            self._writer.add_missing(missing_frames_of(item, reason[:1000]))


def _frame(
    seq: int, item: Exposure, result: FrameResult, examined: ExaminedFrame
) -> Frame:
    return Frame(
        seq=seq,
        run=result.run,
        shot=examined.raw.shot,
        planned=item.planned,
        passed_over=result.frame.passed_over,
        scale=examined.scale,
    )


def _failed_frame(seq: int, item: Exposure, result: FrameResult) -> FailedFrame:
    return FailedFrame(
        seq=seq,
        run=result.run,
        shot=item.shot,
        planned=item.planned,
        passed_over=result.frame.passed_over,
        reason=result.reason or "examining it failed",
    )
