"""Start a run, resume one that an earlier process left open, pause it, and end it.

The mark of a run is written before it takes effect, so that the ledger always knows
what a later process must go on with. Used by the main thread.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

import msgspec

from edge import clock
from edge.acquisition.pausable_source import PausableSource
from edge.acquisition.schedule import SchedulePosition
from edge.acquisition.scheduled_source import ScheduledSource
from edge.ledger.run_progress import Progress
from edge.ledger.writer import Ledger
from edge.remote.command_executor import CommandFailed, Done
from edge.schema.entries import Lost, Note, PlanNote, RunMark
from edge.schema.requests import NoteRequest, Request, StartRequest
from edge.slide.run_state import RunState

log = logging.getLogger(__name__)

_SET_NS = 1_000_000_000  # a clock that is further off was set


@dataclass(frozen=True, slots=True)
class RunRequest:
    """The run that was asked for on the command line."""

    slide: str | None = None
    operator: str | None = None
    note: str = ""

    @property
    def says_nothing(self) -> bool:
        """Whether nothing was asked for."""
        return not (self.slide or self.operator or self.note)


class RunController:
    """Starts, resumes, pauses and ends the runs of one process.

    Parameters
    ----------
    ledger, state, source, schedule
        Where marks are written, which run is under way, the camera that may be paused,
        and the points that are planned.
    request
        The run that was asked for on the command line.
    resume_within_s
        A run without a schedule that was interrupted for longer is ended instead.
    is_left_open
        Whether a run that is interrupted now is left for the next process.
    waits_when_done
        After the last planned point, wait for the command to start another run.
    """

    def __init__(
        self,
        ledger: Ledger,
        state: RunState,
        source: PausableSource,
        schedule: ScheduledSource | None = None,
        *,
        request: RunRequest = RunRequest(),
        resume_within_s: float = 900.0,
        is_left_open: Callable[[], bool] = lambda: False,
        waits_when_done: bool = False,
    ) -> None:
        self._ledger, self._state, self._source = ledger, state, source
        self._schedule, self._request = schedule, request
        self._resume_within_s, self._is_left_open = resume_within_s, is_left_open
        self._waits_when_done = waits_when_done
        self._has_begun = False
        if ledger.state.is_paused:
            source.pause()
            log.warning("paused by command; `start` or `resume` ends the pause")

    # -- called by the service ---------------------------------------------------------

    def begin(self) -> None:
        """Resume the run that was left open, or start one; once, when all is ready."""
        if self._has_begun:
            return
        self._has_begun = True
        progress = self._ledger.state.progress
        marks: list[RunMark] = []
        if progress is not None and progress.is_open:
            why = self._why_not_resumed(progress)
            if why is None:
                marks = self._resumed(progress)
            else:
                marks = [RunMark(run=progress.run, phase="end", text=why)]
        goes_on = any(mark.phase == "resumed" for mark in marks)
        if not goes_on and (
            not self._source.is_paused or not self._request.says_nothing
        ):
            marks += self._starting(self._request.slide, self._request.operator)
        self._append(marks)
        self._adopt(marks, progress)

    def end_plan(self) -> bool:
        """End the run, its last point is over; return whether the process ends too."""
        if self._state.run is None:
            return False
        waits = self._waits_when_done
        self._end("the schedule is over", is_waiting=waits)
        if waits:
            self._source.pause()
        return not waits

    @property
    def is_plan_over(self) -> bool:
        """Whether nothing more is planned in the run under way."""
        return (
            self._schedule is not None
            and self._state.run is not None
            and self._schedule.is_over
        )

    def finish(self, *, is_over: bool) -> None:
        """End the run with the process, unless it is interrupted and left for later."""
        if self._state.run is None:
            return
        if is_over or not self._is_left_open():
            self._end(None)
        else:
            log.info(
                "run=%s is left open, the next process resumes it", self._state.run
            )

    @property
    def silent_s(self) -> float | None:
        """Seconds without any frame; None where every frame is looked at."""
        return None if self._schedule is None else self._schedule.silent_s

    # -- commands ----------------------------------------------------------------------

    def start(self, request: StartRequest) -> Done:
        """Start a run; without any detail, resume the one that is under way."""
        if request.is_empty and self._state.run is not None:
            return self.resume(request)
        marks = self._starting(
            request.slide, request.operator, request.note or "", by=request.by
        )
        text = f"run {marks[-1].run} is started"
        return Done(text, tuple(marks), partial(self._adopt, marks))

    def pause(self, request: Request) -> Done:
        """Examine nothing until told to resume; the run stays open."""
        if self._state.run is None:
            raise CommandFailed("no run is under way; `start` begins one")
        if self._source.is_paused:
            return Done("it was paused already")
        return Done("paused; `resume` lets it go on", then=self._source.pause)

    def resume(self, request: Request) -> Done:
        """Examine again, in the run that is under way."""
        if self._state.run is None:
            raise CommandFailed("no run is under way; `start` begins one")
        if not self._source.is_paused:
            return Done("it was examining already")
        return Done("examining again", then=self._source.resume)

    def stop(self, request: Request) -> Done:
        """End the run, and examine nothing until told to start."""
        if self._state.run is None:
            if self._source.is_paused:
                return Done("it was stopped already")
            return Done("stopped; `start` begins a run", then=self._source.pause)
        mark = self._state.ending(by=request.by)
        text = f"run {mark.run} is ended; `start` begins another"
        return Done(text, (mark,), partial(self._stop, mark))

    def note(self, request: NoteRequest) -> Done:
        """Write a note to the run, or, where none is under way, among the results."""
        if self._state.run is None:
            return Done("noted", (Note(text=request.text, by=request.by),))
        return Done("noted", (self._state.noting(request.text, by=request.by),))

    # -- marks -------------------------------------------------------------------------

    def _starting(
        self,
        slide: str | None,
        operator: str | None,
        note: str | None = None,
        by: str | None = None,
    ) -> list[RunMark]:
        plan = None if self._schedule is None else self._schedule.plan_note()
        text = self._request.note if note is None else note
        return self._state.starting(slide, operator, text, by=by, plan=plan)

    def _adopt(
        self, marks: Sequence[RunMark], progress: Progress | None = None
    ) -> None:
        """Let marks that are rows have their effect."""
        self._state.adopt(marks)
        for mark in marks:
            if mark.phase == "start":
                self._source.resume()
            if self._schedule is None:
                continue
            if mark.phase == "end":
                self._schedule.end()
            elif mark.plan is not None:
                lost = None if mark.lost is None else mark.lost.points
                self._schedule.begin(mark.run, mark.plan, _place(mark, progress), lost)

    def _stop(self, mark: RunMark) -> None:
        self._adopt([mark])
        self._source.pause()

    def _end(self, text: str | None, *, is_waiting: bool = False) -> None:
        mark = self._state.ending(text=text, is_waiting=is_waiting)
        self._append([mark])
        self._adopt([mark])

    def _append(self, marks: Sequence[RunMark]) -> None:
        self._ledger.with_room(lambda: self._ledger.append_all(marks))

    def _why_not_resumed(self, progress: Progress) -> str | None:
        """Return why an open run is not resumed; None if it is."""
        plan = None if self._schedule is None else self._schedule.plan.sha256
        if self._request.slide is not None and self._request.slide != progress.slide:
            return "another slide is started"
        if plan != (None if progress.plan is None else progress.plan.sha256):
            return "not resumed: the schedule in the settings is another one"
        away_s = _away_s(progress)
        if plan is None and (away_s is None or away_s > self._resume_within_s):
            away = "an unknown time" if away_s is None else f"{away_s:.0f} s"
            return (
                f"not resumed after {away}, more than the {self._resume_within_s:.0f} "
                "s of resume_within_s"
            )
        return None

    def _resumed(self, progress: Progress) -> list[RunMark]:
        """Return the marks of a run that is resumed; they say exactly what it lost."""
        note, place = progress.plan, SchedulePosition(progress.index, progress.frame)
        if note is not None and note.boot_id != clock.boot_id():
            note = self._by_wall_time(note, progress)
        missed = None
        if note is not None and self._schedule is not None:
            plan = self._schedule.plan
            elapsed_ns = self._schedule.now_ns() - note.zero_ns
            now = (
                plan.points if elapsed_ns >= plan.end_ns else plan.index_at(elapsed_ns)
            )
            if now > place.index:
                missed = plan.missed(place, now)
        lost = Lost(
            row=progress.row,
            away_s=_away_s(progress),
            points=missed,
            counted=progress.counted,
            next_track=progress.next_track,
            next_event=progress.next_event,
            is_rebooted=progress.boot_id != clock.boot_id(),
        )
        mark = RunMark(
            run=progress.run,
            phase="resumed",
            slide=progress.slide,
            operator=self._request.operator or progress.operator,
            text=_told(lost, has_plan=note is not None),
            plan=note,
            lost=lost,
        )
        if not self._request.note:
            return [mark]
        return [mark, RunMark(run=progress.run, phase="note", text=self._request.note)]

    def _by_wall_time(self, note: PlanNote, progress: Progress) -> PlanNote:
        """Place the beginning of a plan on the clock of another boot.

        A clock that is behind the last row is not believed: the plan then goes on as
        if no time had passed since.
        """
        now_ns = 0 if self._schedule is None else self._schedule.now_ns()
        utc = max(clock.utc_now(), progress.utc)
        since_ns = self._reached_ns(note, progress) + _between_ns(progress.utc, utc)
        return msgspec.structs.replace(
            note,
            zero_ns=now_ns - since_ns,
            zero_utc=utc - timedelta(microseconds=since_ns / 1000),
            boot_id=clock.boot_id(),
        )

    def _reached_ns(self, note: PlanNote, progress: Progress) -> int:
        """Return how far the plan was at the last row, whose boot is over.

        By wall time, but where points tell that it was set since the plan began, by the
        monotonic clock, which knows nothing of suspended time.
        """
        by_wall_ns = _between_ns(note.zero_utc, progress.utc)
        if self._schedule is None or progress.boot_id != note.boot_id:
            return by_wall_ns
        running_ns = max(progress.monotonic_ns - note.zero_ns, 0)
        index = self._schedule.plan.index_at(by_wall_ns)
        agrees = index in (progress.index - 1, progress.index)
        if agrees or abs(by_wall_ns - running_ns) < _SET_NS:
            return by_wall_ns
        return running_ns


def _between_ns(first: datetime, last: datetime) -> int:
    return int((last - first).total_seconds() * 1e9)


def _place(mark: RunMark, progress: Progress | None) -> SchedulePosition:
    """Return where the plan of a run begins, or was left."""
    if mark.phase != "resumed" or progress is None:
        return SchedulePosition(0)
    return SchedulePosition(progress.index, progress.frame)


def _away_s(progress: Progress, now: datetime | None = None) -> float | None:
    """Seconds since the last frame of a run; None where the clocks cannot tell."""
    if progress.boot_id == clock.boot_id():
        return round(max(time.monotonic_ns() - progress.monotonic_ns, 0) * 1e-9, 3)
    away_s = ((now or clock.utc_now()) - progress.utc).total_seconds()
    return None if away_s < 0 else round(away_s, 3)


def _told(lost: Lost, *, has_plan: bool) -> str:
    """Return in one line what was lost."""
    parts = [
        "the time away is unknown, the clock is behind the last row"
        if lost.away_s is None
        else f"{lost.away_s:.1f} s after the last frame"
    ]
    if lost.points is not None:
        parts.append(f"points {lost.points.first} to {lost.points.last} missed")
    elif has_plan:
        parts.append("no point missed")
    if lost.is_rebooted:
        parts.append("booted in between, times follow the wall clock")
    counted = ", ".join(f"{label} {count}" for label, count in lost.counted.items())
    parts.append(f"counting begins anew, counted before: {counted or 'nothing'}")
    parts.append(
        "states are new, cells of the last frame keep their numbers where they are "
        f"found again, other tracks begin with {lost.next_track}"
    )
    return "; ".join(parts)[:1000]
