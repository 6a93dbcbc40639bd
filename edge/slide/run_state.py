"""Which run is under way, and what is said of it.

A run is one slide under the microscope, from its start to its end; every row knows of
which run it is. What is said of a run must not name a patient.
"""

from __future__ import annotations

import secrets
import threading
from collections import deque
from collections.abc import Sequence

import msgspec

from edge.clock import utc_now
from edge.privacy import RunRefused, checked_note, checked_operator, checked_slide
from edge.schema.entries import PlanNote, RunMark
from edge.schema.results import FrameResult
from edge.stages.thumbnail import Thumbnail


class RunState:
    """The run that is under way; rows get its id.

    `judge`, `count` and `adopt` from one thread, that which writes the rows; the rest
    from any.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._run: str | None = None
        self._is_resumed = False
        self._marks: deque[RunMark] = deque()
        self._written: str | None = None  # the run whose start is a row
        self._begin()

    @property
    def run(self) -> str | None:
        """The id of the run that is under way."""
        with self._lock:
            return self._run

    def start_run(
        self, slide: str | None = None, operator: str | None = None, note: str = ""
    ) -> str:
        """Start a run, ending the one before; return its id.

        Raises
        ------
        RunRefused
            What was said of it may name a patient.
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
        """End the run; frames are examined on, and not counted.

        Raises
        ------
        RunRefused
            There is no run.
        """
        self._queue([self.ending()])

    def starting(
        self,
        slide: str | None = None,
        operator: str | None = None,
        note: str = "",
        *,
        by: str | None = None,
        plan: PlanNote | None = None,
    ) -> list[RunMark]:
        """Return the marks that start a run and end the one before; raises as above.

        They have no effect yet: who writes them as rows calls `adopt`.
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
        with self._lock:
            before = self._run
        return [*([] if before is None else [RunMark(run=before, phase="end")]), start]

    def noting(self, text: str, *, by: str | None = None) -> RunMark:
        """Return the mark of a note; raises as `add_note`."""
        text = checked_note(text)
        return RunMark(run=self._under_way(), phase="note", text=text, by=by)

    def ending(
        self,
        *,
        by: str | None = None,
        text: str | None = None,
        is_waiting: bool = False,
    ) -> RunMark:
        """Return the mark that ends the run; raises as `end_run`."""
        return RunMark(
            run=self._under_way(), phase="end", by=by, text=text, is_waiting=is_waiting
        )

    def adopt(self, marks: Sequence[RunMark]) -> None:
        """Let marks that are rows have their effect on the frames from now on."""
        self._follow(marks)
        self._turn_to(self.run)

    def marks(self) -> list[RunMark]:
        """Take what was started, noted and ended since the last time, in order.

        Frames that come after are of the run that is then under way, so that no row of
        a run stands before its start. Call it where `judge` is called.
        """
        with self._lock:
            taken, run = list(self._marks), self._run
            self._marks.clear()
        self._turn_to(run)
        return taken

    def is_under_way(self, run: str) -> bool:
        """Whether that run goes on, so that its plan holds."""
        return run == self.run

    def judge(self, result: FrameResult) -> FrameResult:
        """Say of which run a frame is, and whether it is any good."""
        return msgspec.structs.replace(result, run=self._written)

    def count(self, result: FrameResult, thumbnail: Thumbnail | None) -> FrameResult:
        """Count what is new on a frame that was judged; `thumbnail` tells its place."""
        return result

    def _begin(self) -> None:
        """Know nothing of the slide yet."""

    def _turn_to(self, run: str | None) -> None:
        if run != self._written:
            self._written = run
            self._begin()

    def _queue(self, marks: Sequence[RunMark]) -> None:
        self._follow(marks)
        with self._lock:
            self._marks.extend(marks)

    def _follow(self, marks: Sequence[RunMark]) -> None:
        with self._lock:
            for mark in marks:
                if mark.phase != "note":
                    self._run = None if mark.phase == "end" else mark.run
                    self._is_resumed = mark.phase == "resumed"

    def _under_way(self) -> str:
        run = self.run
        if run is None:
            raise RunRefused("no run is under way; start one first")
        return run
