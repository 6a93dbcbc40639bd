"""Which run is under way, and the marks that start, note and end it.

A run is one slide under the microscope, from its start to its end; every row knows of
which run it is. Marks are rows of the ledger: a run begins for the frames that come
after its mark was written, so that no row of a run stands before its start.
"""

from __future__ import annotations

import secrets
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from edge.clock import utc_now
from edge.privacy import RunRefused, checked_note, checked_operator, checked_slide
from edge.schema.entries import PlanNote, RunMark
from edge.schema.results import FrameResult


@dataclass(frozen=True, slots=True)
class CurrentRun:
    """The run that a frame belongs to.

    `id` is None between two runs. `is_resumed`: an earlier process began the run, so
    that its counts are not known here.
    """

    id: str | None = None
    is_resumed: bool = False


class RunTimeline(Protocol):
    """Tells which frame belongs to which run. Used by the thread that writes the rows.

    A live timeline changes by commands (`RunState`); a recorded one repeats what the
    recording says.
    """

    def run_of(self, result: FrameResult) -> CurrentRun:
        """Return the run of the next frame in order."""

    def is_under_way(self, run: str) -> bool:
        """Whether that run still goes on, so that its plan is in force."""

    def take_marks(self) -> list[RunMark]:
        """Take the marks that wait to become rows, in order."""

    def end_if_open(self) -> None:
        """End the run that is under way, if there is one; its mark then waits."""


class RunState:
    """The live timeline: which run is under way now.

    `run_of`, `take_marks` and `adopt` are for the thread that writes the rows; all
    other methods for any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._run = CurrentRun()  # with every mark that was made
        self._written = CurrentRun()  # with every mark that is a row
        self._waiting: deque[RunMark] = deque()

    @property
    def run(self) -> str | None:
        """The id of the run that is under way."""
        with self._lock:
            return self._run.id

    # -- marks that take effect when the thread of the rows takes them -----------------

    def start_run(
        self, slide: str | None = None, operator: str | None = None, note: str = ""
    ) -> str:
        """Start a run, ending the one before; return its id.

        Raises
        ------
        RunRefused
            `slide`, `operator` or `note` may name a patient.
        """
        marks = self.starting(slide, operator, note)
        self._queue(marks)
        return marks[-1].run

    def add_note(self, text: str) -> None:
        """Add a note to the run.

        Raises
        ------
        RunRefused
            There is no run, or the note may name a patient.
        """
        self._queue([self.noting(text)])

    def end_run(self) -> None:
        """End the run; later frames are examined and not counted.

        Raises
        ------
        RunRefused
            There is no run.
        """
        self._queue([self.ending()])

    def end_if_open(self) -> None:
        """See `RunTimeline.end_if_open`."""
        if self.run is not None:
            self.end_run()

    # -- marks for a caller who writes them as rows and then calls `adopt` -------------

    def starting(
        self,
        slide: str | None = None,
        operator: str | None = None,
        note: str = "",
        *,
        by: str | None = None,
        plan: PlanNote | None = None,
    ) -> list[RunMark]:
        """Return the marks that end the run before and start one.

        Raises
        ------
        RunRefused
            `slide`, `operator` or `note` may name a patient.
        """
        slide, operator = checked_slide(slide), checked_operator(operator)
        text = checked_note(note) if note else None
        start = RunMark(
            run=f"{utc_now():%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}",
            phase="start",
            slide=slide,
            operator=operator,
            text=text,
            by=by,
            plan=plan,
        )
        before = self.run
        return [*([] if before is None else [RunMark(run=before, phase="end")]), start]

    def noting(self, text: str, *, by: str | None = None) -> RunMark:
        """Return the mark of a note; raises as `add_note`."""
        text = checked_note(text)
        return RunMark(run=self._demand_run(), phase="note", text=text, by=by)

    def ending(
        self,
        *,
        by: str | None = None,
        text: str | None = None,
        is_waiting: bool = False,
    ) -> RunMark:
        """Return the mark that ends the run; raises as `end_run`."""
        return RunMark(
            run=self._demand_run(), phase="end", by=by, text=text, is_waiting=is_waiting
        )

    def adopt(self, marks: Sequence[RunMark]) -> None:
        """Let marks that are rows take effect on the frames from now on."""
        self._apply(marks)
        with self._lock:
            self._written = self._run

    # -- the timeline ------------------------------------------------------------------

    def take_marks(self) -> list[RunMark]:
        """See `RunTimeline.take_marks`; they take effect on the frames from now on."""
        with self._lock:
            taken = list(self._waiting)
            self._waiting.clear()
            self._written = self._run
        return taken

    def run_of(self, result: FrameResult) -> CurrentRun:
        """See `RunTimeline.run_of`: the run whose start is a row."""
        return self._written

    def is_under_way(self, run: str) -> bool:
        """See `RunTimeline.is_under_way`."""
        return run == self.run

    def _queue(self, marks: Sequence[RunMark]) -> None:
        self._apply(marks)
        with self._lock:
            self._waiting.extend(marks)

    def _apply(self, marks: Sequence[RunMark]) -> None:
        with self._lock:
            for mark in marks:
                if mark.phase != "note":
                    run = None if mark.phase == "end" else mark.run
                    self._run = CurrentRun(run, mark.phase == "resumed")

    def _demand_run(self) -> str:
        run = self.run
        if run is None:
            raise RunRefused("no run is under way; start one first")
        return run
