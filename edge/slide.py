"""A run: one slide under the microscope, from its start to its end.

Frames come here in their order, already examined. The gate turns bad ones away, the
mosaic says where the others lie, the census knows every cell once, and the running
differential goes into the row. People and programs start, note on and end runs from
any thread; the marks become rows among those of the frames.
"""

from __future__ import annotations

import re
import secrets
import threading
from collections import Counter, deque

import msgspec
import numpy as np

from edge.census import Census, Sights, sights_of
from edge.clock import utc_now
from edge.confusion import Correction
from edge.differential import differentiate
from edge.entries import RunMark
from edge.errors import ConfigurationInvalid
from edge.following import MOST_SAID
from edge.gate import Gate
from edge.mosaic import Mosaic, Place
from edge.registration import View
from edge.results import Differential, Examination

MARGIN_UM = 9.0  # half of the largest cell: what is centred further inside is whole
_MOST_MARGIN = 0.15  # of the shorter side, where the field itself is small

_SLIDE = re.compile(r"(?=.*[0-9])[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
_WORD = re.compile(r"[A-Za-z]{5,}")
_OPERATOR = re.compile(r"[a-z][a-z0-9]{0,7}")
_DATE = re.compile(
    r"(?<!\d)((19|20)\d\d[-./ ]?(0[1-9]|1[0-2])[-./ ]?(0[1-9]|[12]\d|3[01])"
    r"|(0?[1-9]|[12]\d|3[01])[-./ ](0?[1-9]|[12]\d|3[01])[-./ ]((19|20)?\d\d))(?!\d)"
)
_MOST_NOTE = 200


class RunRefused(ConfigurationInvalid):
    """What was said of a run may name a patient, or there is no run to say it of."""


class SlideRun:
    """The slide that is being counted.

    `take`, and the state it changes (`gate`, `mosaic`, `census`), from one thread; the
    rest from any.
    """

    def __init__(
        self,
        labels: tuple[str, ...],
        abstain_below: float,
        wanted_width: float,
        correction: Correction | None = None,
    ) -> None:
        self._labels, self._abstain_below = labels, abstain_below
        self._wanted_width, self._correction = wanted_width, correction
        self._lock = threading.Lock()
        self._run: str | None = None
        self._marks: deque[RunMark] = deque()
        self._counted: str | None = None  # the run that frames are counted for
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
        slide, operator = checked_slide(slide), checked_operator(operator)
        text = checked_note(note) if note else None
        run = f"{utc_now():%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
        mark = RunMark(
            run=run, phase="start", slide=slide, operator=operator, text=text
        )
        with self._lock:
            if self._run is not None:
                self._marks.append(RunMark(run=self._run, phase="end"))
            self._run = run
            self._marks.append(mark)
        return run

    def add_note(self, text: str) -> None:
        """Add a note to the run.

        Raises
        ------
        RunRefused
            There is no run, or the note may name a patient.
        """
        text = checked_note(text)
        with self._lock:
            run = self._under_way()
            self._marks.append(RunMark(run=run, phase="note", text=text))

    def end_run(self) -> None:
        """End the run; frames are examined on, and not counted.

        Raises
        ------
        RunRefused
            There is no run.
        """
        with self._lock:
            run = self._under_way()
            self._marks.append(RunMark(run=run, phase="end"))
            self._run = None

    def marks(self) -> list[RunMark]:
        """Take what was started, noted and ended since the last time, in order.

        Frames that come after are of the run that is then under way, so that no row of
        a run stands before its start. Call it where `take` is called.
        """
        with self._lock:
            taken, run = list(self._marks), self._run
            self._marks.clear()
        if run != self._counted:
            self._counted = run
            self._begin()
        return taken

    def take(self, said: Examination, view: View | None) -> Examination:
        """Judge a frame, count what is new on it, and return what is now said of it."""
        said, run = self.gate.judge(said), self._counted
        if run is None:
            return said
        place = None
        if view is not None and said.status in ("ok", "degraded"):
            if _is_cut_short(said):
                reason = f"{said.reason}; nothing is counted on it"
                said = msgspec.structs.replace(said, reason=reason)
            else:
                place = self._count(said, view)
        differential = self._differentiate()
        if place is not None and view is not None:
            differential = msgspec.structs.replace(
                differential, patch=place.patch, place_um=_in_um(place, said, view)
            )
        return msgspec.structs.replace(said, run=run, differential=differential)

    def _begin(self) -> None:
        """Know nothing yet."""
        self.gate, self.mosaic = Gate(), Mosaic()
        self.census = Census(self._labels, self._abstain_below)
        self._said: tuple[Counter[str], int, Differential] | None = None

    def _differentiate(self) -> Differential:
        """Say what was counted so far; where nothing changed, that is said again."""
        counts, patches = self.census.counts(), self.mosaic.patches
        if self._said is None or self._said[:2] != (counts, patches):
            differential = differentiate(
                counts, self._labels, self._wanted_width, patches, self._correction
            )
            self._said = counts, patches, differential
        return self._said[2]

    def _under_way(self) -> str:
        if self._run is None:
            raise RunRefused("no run is under way; start one first")
        return self._run

    def _count(self, said: Examination, view: View) -> Place:
        size = (view.shape[1], view.shape[0])
        sights = _sights(said, self._labels, size)
        landing = self.mosaic.lay(view, lambda: self.census.nominate(sights))
        for join in landing.joins:
            self.census.join(join)
        if landing.snap is not None:
            self.census.snap(landing.place, size, landing.snap)
        margin_px = counting_margin(size, _um_per_px(said, view))
        self.census.look(landing.place, size, margin_px, sights)
        return landing.place


def _is_cut_short(said: Examination) -> bool:
    """Whether cells were left out because they are followed: they would seem gone."""
    return said.following is not None and len(said.cells) >= MOST_SAID


def counting_margin(size: tuple[int, int], um_per_px: float) -> float:
    """How far inside a picture of this size the centre of a counted cell lies (px)."""
    return float(min(MARGIN_UM / um_per_px, _MOST_MARGIN * min(size)))


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
        raise RunRefused(
            f"slide is {slide!r}, expected a number of the laboratory such as "
            "'S26-00123': letters, digits and . _ -, at most 32, with a digit, at most "
            "four letters in a row, and no date; never a patient's name"
        )
    return slide


def checked_operator(operator: str | None) -> str | None:
    """Return an operator's short code, if it is one; raises as `checked_slide`."""
    if operator is not None and not _OPERATOR.fullmatch(operator):
        raise RunRefused(
            f"operator is {operator!r}, expected a short code such as 'op7': a-z and "
            "0-9, at most 8, a letter first; never a full name"
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


def _sights(
    said: Examination, labels: tuple[str, ...], view_px: tuple[int, int]
) -> Sights:
    boxes = np.array([cell.box for cell in said.cells], np.float64).reshape(-1, 4)
    likely = np.array(
        [[cell.probabilities[label] for label in labels] for cell in said.cells]
    ).reshape(-1, len(labels))
    return sights_of(boxes, likely, (said.width_px, said.height_px), view_px)


def _um_per_px(said: Examination, view: View) -> float:
    """Micrometres per pixel of a view, which is only made where a pixel's are known."""
    if said.pixel_size_um is None:
        raise ValueError("a frame of unknown scale has a view")
    return float(said.pixel_size_um * said.width_px / view.shape[1])


def _in_um(place: Place, said: Examination, view: View) -> tuple[float, float]:
    um = _um_per_px(said, view)
    return round(place.x_px * um, 2), round(place.y_px * um, 2)
