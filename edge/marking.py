"""Which run is under way, and what is said of it.

A run is one slide under the microscope, from its start to its end; every row knows of
which run it is. What is said of a run must not name a patient.
"""

from __future__ import annotations

import re
import secrets
import threading
from collections import deque
from collections.abc import Sequence

import msgspec

from edge.clock import utc_now
from edge.entries import PlanNote, RunMark
from edge.errors import ConfigurationInvalid
from edge.registration import View
from edge.results import Examination

_SLIDE = re.compile(r"(?=.*[0-9])[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
_WORD = re.compile(r"[A-Za-z]{5,}")
_OPERATOR = re.compile(r"[a-z][a-z0-9]{0,7}")
_DATE = re.compile(
    r"(?<!\d)((19|20)\d\d[-./ ]?(0[1-9]|1[0-2])[-./ ]?(0[1-9]|[12]\d|3[01])"
    r"|(0?[1-9]|[12]\d|3[01])[-./ ](0?[1-9]|[12]\d|3[01])[-./ ]((19|20)?\d\d))(?!\d)"
)
_MOST_NOTE = 200


class RunRefused(ConfigurationInvalid):
    """What was said of a run may name a patient, or there is no run to say it of.

    `discreet` is the text without the value, for what others may read.
    """

    def __init__(self, text: str, discreet: str | None = None) -> None:
        super().__init__(text)
        self.discreet = discreet or text


class Runs:
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

    def judge(self, said: Examination) -> Examination:
        """Say of which run a frame is, and whether it is any good."""
        return msgspec.structs.replace(said, run=self._written)

    def count(self, said: Examination, view: View | None) -> Examination:
        """Count what is new on a frame that was judged; `view` tells its place."""
        return said

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


def checked_slide(slide: str | None) -> str | None:
    """Return a slide's id, if it is one.

    Raises
    ------
    RunRefused
        It may be a name or a date of birth, or has other signs than an id.
    """
    if slide is None:
        return None
    if not _SLIDE.fullmatch(slide) or _WORD.search(slide) or _DATE.search(slide):
        raise _refused(
            "slide",
            slide,
            "a number of the laboratory such as 'S26-00123': letters, digits and "
            ". _ -, at most 32, with a digit, at most four letters in a row, and no "
            "date; never a patient's name",
        )
    return slide


def checked_operator(operator: str | None) -> str | None:
    """Return an operator's short code, if it is one; raises as `checked_slide`."""
    if operator is not None and not _OPERATOR.fullmatch(operator):
        raise _refused(
            "operator",
            operator,
            "a short code such as 'op7': a-z and 0-9, at most 8, a letter first; "
            "never a full name",
        )
    return operator


def checked_note(text: str) -> str:
    """Return a note, if it is short and plain; raises as `checked_slide`.

    Nothing but a person can keep a name out of a sentence.
    """
    text = text.strip()
    if not text or len(text) > _MOST_NOTE or not text.isprintable():
        raise RunRefused(
            f"the note has {len(text)} characters, expected 1 to {_MOST_NOTE} that can "
            "be printed, on one line"
        )
    if _DATE.search(text):
        raise RunRefused(
            "the note holds a date, which may be one of birth; rows have their own "
            "time, leave it out"
        )
    return text


def _refused(what: str, value: str, expected: str) -> RunRefused:
    return RunRefused(
        f"{what} is {value!r}, expected {expected}",
        f"the {what} is none, and not repeated here; expected {expected}",
    )
