"""Record raw frames beside the loop, which never waits for it.

What the loop wrote to its ledger is handed over here; a thread of its own packs it and
writes it to the disk. Where it cannot follow, frames are lacking in the recording and
never in the results, and the recording says which.
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
from edge.recording.writer import NoRoom, RecordingWriter, joined, lacking_of
from edge.schema.results import FrameResult

log = logging.getLogger(__name__)

_MOST_BYTES_WAITING = 96 << 20
_MOST_WAITING = 10_000  # things without a picture
_RETRY_S = 5.0  # so long after there was no room it is looked again
_LINGERS_S = 10.0  # so long after a frame was lost that is still said
_FAREWELL_S, _LAST_S = 15.0, 5.0  # for what waits at the end
_LATE = "the run ended before they were written"
_SLOW = "the disk or the processor is too slow for all frames"

_AT_ONCE = 8  # frames that wait are written together,
_GATHER_S = 0.2  # but those that are packed wait no longer

_Item = Frame | GapLine | FailedFrame
_Job = tuple[_Item | MissingFrames, ExaminedFrame | None]


class Recorder:
    """Feeds a reel from a thread of its own. `take` never waits, and never raises.

    `every`: of so many frames one is kept; `farewell_s`: how long the end may take.
    """

    def __init__(
        self,
        reel: RecordingWriter,
        *,
        every: int = 1,
        farewell_s: float = _FAREWELL_S,
    ) -> None:
        self._reel, self._every = reel, every
        self._farewell_s = farewell_s
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._waiting_bytes = self._frames = 0
        self._is_over = False
        self._trouble: tuple[str, float] | None = None
        self._retry_s = 0.0
        self.recorded = self.lost = 0
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def take(
        self,
        seq: int,
        item: Exposure | Gap,
        result: FrameResult,
        seen: ExaminedFrame | None,
    ) -> None:
        """Record what row `seq` was written of; `seen` is None without a picture."""
        run, passed_over = result.run, result.frame.passed_over
        holds = result.point is not None or result.missed_points is not None
        if not holds:  # the run that it was planned in is over
            item = replace(item, planned=None)
        if isinstance(item, Gap):
            self._put(GapLine(seq=seq, run=run, gap=item))
        elif seen is None:
            reason = result.reason or "examining it failed"
            self._put(
                FailedFrame(
                    seq=seq,
                    run=run,
                    shot=item.shot,
                    planned=item.planned,
                    passed_over=passed_over,
                    reason=reason,
                )
            )
        else:
            frame = Frame(
                seq=seq,
                run=run,
                shot=seen.raw.shot,
                planned=item.planned,
                passed_over=passed_over,
                scale=seen.scale,
            )
            self._frames += 1
            if (self._frames - 1) % self._every:
                self._put(lacking_of(frame, f"one of {self._every} frames is recorded"))
            else:
                self._put(frame, seen)

    def findings(self) -> dict[str, AlarmCondition]:
        """Say what is wrong with the recording now."""
        trouble = self._trouble
        if trouble is None or time.monotonic() - trouble[1] > _LINGERS_S:
            return {}
        text = f"{self.lost} frames of this run are not recorded, now as {trouble[0]}"
        return {"not-recorded": AlarmCondition("amber", text[:1000])}

    def close(self) -> None:
        """Write what is in hand, for a while, and end. Safe to call twice."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        self._thread.join(self._farewell_s)
        if self._thread.is_alive():
            self._leave_out()
            self._thread.join(_LAST_S)
        name = self._reel.recording.head.id
        if self._thread.is_alive():
            log.error("recording=%s its disk hangs, the end is not said in it", name)
        else:
            log.info(
                "recording=%s ended: %d frames, %d lost", name, self.recorded, self.lost
            )

    def _leave_out(self) -> None:
        """Do not write what still waits, but say so: the process must end."""
        with self._changed:
            jobs = list(self._jobs)
            self._jobs.clear()
            for item, _ in jobs:
                if isinstance(item, MissingFrames):
                    self._put(item)
                else:
                    self._lose(_LATE)
                    self._put(lacking_of(item, _LATE))

    def _put(
        self, item: _Item | MissingFrames, seen: ExaminedFrame | None = None
    ) -> None:
        size = 0 if seen is None else seen.raw.pixels.nbytes
        with self._changed:
            is_full = bool(size) and self._waiting_bytes + size > _MOST_BYTES_WAITING
            is_full = is_full and self._waiting_bytes > 0  # one has room always
            if (is_full or len(self._jobs) >= _MOST_WAITING) and not isinstance(
                item, MissingFrames
            ):
                item, seen, size = lacking_of(item, _SLOW), None, 0
                self._lose(_SLOW)
            last = self._jobs[-1][0] if self._jobs else None
            if (
                isinstance(item, MissingFrames)
                and isinstance(last, MissingFrames)
                and (last.reason == item.reason or len(self._jobs) >= _MOST_WAITING)
            ):
                self._jobs[-1] = joined(last, item), None
            else:
                self._jobs.append((item, seen))
            self._waiting_bytes += size
            self._changed.notify_all()

    def _lose(self, reason: str) -> None:
        """Take note that a frame is not recorded, and say so, but not each time."""
        now_s = time.monotonic()
        if self._trouble is None or now_s - self._trouble[1] > _LINGERS_S:
            log.warning("frames are not recorded: %s", reason)
        self.lost += 1
        self._trouble = reason, now_s

    def _run(self) -> None:
        """Write down what was taken, whatever fails, until there is no more."""
        while jobs := self._next():
            size = sum(s.raw.pixels.nbytes for _, s in jobs if s is not None)
            left = [item for item, _ in jobs]
            try:
                self._write(jobs, left)
            except (OSError, NoRoom) as error:
                self._give_up(left, str(error))
            except Exception as error:
                log.exception("row=%d not recorded", left[0].seq)
                self._give_up(left, f"recording failed: {error!r}")
            del jobs
            with self._changed:
                self._waiting_bytes -= size
        self._reel.close()

    def _next(self) -> list[_Job]:
        """Return what comes next, with the frames that wait behind a frame."""
        with self._changed:
            while not self._jobs and not self._is_over:
                self._changed.wait()
            jobs: list[_Job] = []
            while self._jobs and len(jobs) < _AT_ONCE:
                if jobs and self._jobs[0][1] is None:
                    break
                jobs.append(self._jobs.popleft())
                if jobs[0][1] is None:
                    break
            return jobs

    def _write(self, jobs: list[_Job], left: list[_Item | MissingFrames]) -> None:
        """Write down these; what is not yet on the disk stays in `left`."""
        item = jobs[0][0]
        if isinstance(item, MissingFrames):
            self._reel.lack(item)
            return
        if time.monotonic() < self._retry_s and self._trouble is not None:
            raise NoRoom(self._trouble[0])
        if not isinstance(item, Frame):
            self._reel.write_line(item)
            return
        shown: list[tuple[Frame, EncodedFrame]] = []
        begin_s = time.monotonic()
        for frame, seen in jobs:
            if isinstance(frame, Frame) and seen is not None:
                shown.append((frame, self._reel.pack(seen.raw.pixels)))
            is_last = len(shown) == len(left)
            while shown and (is_last or time.monotonic() - begin_s > _GATHER_S):
                done = self._reel.write_some(shown)
                self.recorded += done
                del shown[:done], left[:done]
                if not shown:
                    begin_s = time.monotonic()

    def _give_up(self, left: list[_Item | MissingFrames], reason: str) -> None:
        """Let the results go on without these in the recording."""
        if time.monotonic() >= self._retry_s:
            self._retry_s = time.monotonic() + _RETRY_S
        for item in left:
            if isinstance(item, MissingFrames):
                self._reel.lack(item)
                continue
            with self._changed:
                self._lose(reason)
            self._reel.lack(lacking_of(item, reason[:1000]))
