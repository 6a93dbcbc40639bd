"""Look at each JPEG of a pipeline before one of its own decoders does.

jpegdec and others fill up what is missing in a JPEG and say nothing, or lose the frame.
A probe in front of the first of them decodes each buffer strictly, at an eighth of its
size, and takes damaged ones out. It runs in the pipeline's thread, for every frame.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from edge.errors import FrameRejected
from edge.sources.decoding.jpeg import check_jpeg

_JPEG = "image/jpeg"
_MOST_WAITING = 64  # damaged frames that nobody asked for yet; more are one jump
_DECODING_S = 0.2  # whole frames before a damaged one are through by then
_PIECES = (
    "damage of its JPEGs could not be looked for, as the pipeline reads them in "
    "pieces: put jpegparse before the decoder"
)


@dataclass(frozen=True, slots=True)
class JpegPlace:
    """Where a buffer was: its `pts`, ns of the pipeline, and after how many whole ones.

    Without pts frames are counted: a pipeline that has none does not lose any either.
    """

    pts: int
    whole_before: int


@dataclass(frozen=True, slots=True)
class DamagedJpeg:
    """A buffer that was taken out, when (monotonic, s) and why.

    `rate` is in frames per seconds.
    """

    place: JpegPlace
    rate: tuple[int, int]
    noted_s: float
    reason: str


class JpegCheck:
    """Watches the elements of one pipeline that take JPEGs.

    Parameters
    ----------
    gst
        The module Gst.
    pipeline
        A pipeline that does not run yet. Elements that it adds later are watched, too.
    name
        The camera, as errors name it.
    """

    def __init__(self, gst: Any, pipeline: Any, name: str) -> None:
        self._gst, self._name = gst, name
        self._damaged: deque[DamagedJpeg] = deque(maxlen=_MOST_WAITING)
        self._checked_at: Any = None
        self._filler: deque[tuple[JpegPlace, int]] = deque()
        self._whole = self._given = 0
        self.notes: tuple[str, ...] = ()
        for element in self._elements(pipeline):
            self._watch(element)
        pipeline.connect("deep-element-added", lambda *those: self._watch(those[2]))

    def longest_wait_s(self, timeout_s: float) -> float:
        """Return how long to wait for a whole frame while a damaged one may be due."""
        if not self._damaged:
            return timeout_s
        waited_s = time.monotonic() - self._damaged[0].noted_s
        return min(timeout_s, max(0.0, _DECODING_S - waited_s))

    def take_damaged(self, next_pts: int | None) -> DamagedJpeg | None:
        """Return the oldest damaged frame, if it was before the next whole one.

        Parameters
        ----------
        next_pts
            Of the whole frame that comes next, ns; None where there is none yet.
        """
        if self._damaged and (
            next_pts is None or self._is_before(self._damaged[0].place, next_pts)
        ):
            return self._damaged.popleft()
        return None

    def take_filler_bytes(self, pts: int) -> int:
        """Return the filler bytes of the whole frame that comes next, `pts` in ns.

        Those of frames that the pipeline passed over are among them.
        """
        filler, self._given = 0, self._given + 1
        while self._filler and self._is_before(self._filler[0][0], pts + 1):
            filler += self._filler.popleft()[1]
        return filler

    def _is_before(self, place: JpegPlace, pts: int) -> bool:
        if place.pts == self._gst.CLOCK_TIME_NONE:
            return place.whole_before <= self._given
        return place.pts < pts

    def _elements(self, pipeline: Any) -> Iterator[Any]:
        found = pipeline.iterate_recurse()
        while True:
            result, element = found.next()
            if result != self._gst.IteratorResult.OK:
                return
            yield element

    def _watch(self, element: Any) -> None:
        """Put a probe before an element that takes JPEGs, and not just anything."""
        pad = element.get_static_pad("sink")
        if pad is None or isinstance(element, self._gst.Bin):
            return
        takes = pad.get_pad_template_caps()
        if takes.is_any() or not takes.can_intersect(self._gst.Caps.from_string(_JPEG)):
            return
        pad.add_probe(self._gst.PadProbeType.BUFFER, self._probe, None)

    def _probe(self, pad: Any, info: Any, _: None) -> Any:
        """Check a buffer where it first is a whole JPEG; take it out if damaged."""
        go_on = self._gst.PadProbeReturn.OK
        caps = pad.get_current_caps()
        is_jpeg = caps is not None and caps.get_structure(0).get_name() == _JPEG
        if not is_jpeg or self._checked_at not in (None, pad):
            return go_on
        buffer = info.get_buffer()
        place = JpegPlace(buffer.pts, self._whole)
        try:
            checked = check_jpeg(buffer.extract_dup(0, buffer.get_size()), self._name)
        except FrameRejected as error:
            if self._checked_at is None and not self._has_frames(pad):
                self._note_pieces(pad)
                return go_on
            self._checked_at = pad
            known, *rate = caps.get_structure(0).get_fraction("framerate")
            rates = (rate[0], rate[1]) if known else (0, 1)
            self._damaged.append(
                DamagedJpeg(place, rates, time.monotonic(), str(error))
            )
            return self._gst.PadProbeReturn.DROP
        self._checked_at, self.notes = pad, checked.notes
        self._whole += 1
        if checked.filler_bytes:
            self._filler.append(
                (replace(place, whole_before=self._whole), checked.filler_bytes)
            )
        return go_on

    def _has_frames(self, pad: Any) -> bool:
        """Whether a buffer is a frame for sure: a file by itself comes in pieces."""
        event = pad.get_sticky_event(self._gst.EventType.SEGMENT, 0)
        return bool(
            event is not None and event.parse_segment().format == self._gst.Format.TIME
        )

    def _note_pieces(self, pad: Any) -> None:
        """Note that a decoder gets what could not be looked at."""
        kind = pad.get_parent_element().get_factory().get_metadata("klass")
        if "Decoder" in kind:
            self.notes = (_PIECES,)
