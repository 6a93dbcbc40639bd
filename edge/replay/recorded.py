"""What a recording says in place of a camera: frames, runs and pixel sizes.

Each of these stands where a live one stands in a run: `RecordedSource` for a camera,
`RecordedTimeline` for commands that start and end runs, `RecordedScale` for the pixel
size that workers read off the first frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from edge.errors import FrameRejected
from edge.frames import Exposure, Gap, RawFrame, SourceEnded
from edge.pipeline.pixel_size import Estimate, FindCells, PixelSize, Scale
from edge.recording.format import (
    FailedFrame,
    Frame,
    GapLine,
    MissingFrames,
    RecordedItem,
)
from edge.recording.frame_encoding import StoredFrame
from edge.schema.entries import RunMark
from edge.schema.pixel_sizes import why_not_sensible
from edge.schema.results import FrameResult
from edge.slide.run_state import CurrentRun

_Moment = tuple[int, int]  # number and monotonic time: unique within a recording


class RecordedSource:
    """A recording that behaves like a camera, and waits for its reader."""

    def __init__(self, recorded: Sequence[RecordedItem], name: str) -> None:
        self._recorded, self._name = iter(recorded), name
        self.unreadable: list[str] = []  # frames whose stored bytes are damaged
        self.is_over = False  # everything was read

    @property
    def is_live(self) -> bool:
        """A recording waits."""
        return False

    def read(self, timeout_s: float) -> Exposure | Gap | None:
        """Return what comes next; see `Source.read`."""
        recorded = next(self._recorded, None)
        if recorded is None:
            self.is_over = True
            raise SourceEnded(f"recording {self._name} is over")
        item = recorded.item
        if isinstance(item, GapLine):
            return item.gap
        if isinstance(item, MissingFrames):
            reason = f"not recorded: {item.reason}"
            return Gap(item.first, item.count, reason, item.monotonic_ns, item.utc)
        if isinstance(item, FailedFrame) or recorded.stored_frame is None:
            reason = item.reason if isinstance(item, FailedFrame) else "has no picture"
            return Exposure(item.shot, partial(_reject, reason), item.planned)
        develop = partial(self._develop, item, recorded.stored_frame)
        return Exposure(item.shot, develop, item.planned)

    def close(self) -> None:
        """Nothing to release."""

    def _develop(self, frame: Frame, stored: StoredFrame) -> RawFrame:
        try:
            return RawFrame(frame.shot, stored.read())
        except FrameRejected as error:
            self.unreadable.append(f"row {frame.seq}: {error}")
            raise


class RecordedScale:
    """The pixel sizes of the frames as they were recorded, and the doubts of them.

    Parameters
    ----------
    otherwise
        Asked about frames whose pixel size is known from the profile or the source.
    recorded
        What the recording holds.
    """

    def __init__(self, otherwise: Scale, recorded: Sequence[RecordedItem]) -> None:
        self._otherwise = otherwise
        self._known: dict[int | None, PixelSize] = {
            r.item.shot.sequence: r.item.scale
            for r in recorded
            if isinstance(r.item, Frame) and r.item.scale is not None
        }

    def of(
        self,
        source_um: float | None,
        estimate: Estimate,
        sequence: int | None = None,
    ) -> PixelSize:
        """Return what was recorded of this frame; see `FrameScale.of`."""
        known = self._known.get(sequence)
        if known is not None and known.origin not in ("profile", "source"):
            refused = None if known.um is None else why_not_sensible(known.um)
            if refused is not None:
                raise FrameRejected(f"recorded: {refused}")
            return known
        return self._otherwise.of(source_um, estimate, sequence)

    def check(
        self,
        told: PixelSize,
        cells: FindCells,
        estimate: Estimate,
        sequence: int | None = None,
    ) -> PixelSize:
        """Return the doubt that was recorded; see `FrameScale.check`.

        Workers pool the cells of frames in whichever order they come to them.
        """
        known = self._known.get(sequence)
        if known is not None and (known.um, known.origin) == (told.um, told.origin):
            return replace(told, doubt=known.doubt)
        return self._otherwise.check(told, cells, estimate, sequence)


class RecordedTimeline:
    """Runs begin and end with the frames that they began and ended with.

    Their marks stand in the ledger of the recording; a replay makes none.

    Parameters
    ----------
    resumed
        The run that an earlier process left open when the recording began.
    recorded
        What the recording holds; each item knows its run.
    """

    def __init__(self, resumed: str | None, recorded: Sequence[RecordedItem]) -> None:
        self._resumed = resumed
        items = [r.item for r in recorded if not isinstance(r.item, MissingFrames)]
        self._runs: Mapping[_Moment, str | None] = {_moment(i): i.run for i in items}
        self._current: str | None = None

    def run_of(self, result: FrameResult) -> CurrentRun:
        """See `RunTimeline.run_of`; a frame that is not recorded goes on in the run."""
        moment = result.frame.first, result.monotonic_ns
        self._current = self._runs.get(moment, self._current)
        is_resumed = self._current is not None and self._current == self._resumed
        return CurrentRun(self._current, is_resumed)

    def is_under_way(self, run: str) -> bool:
        """Return True: what was recorded of a plan belongs to its own run."""
        return True

    def take_marks(self) -> list[RunMark]:
        """Nothing is started, noted or ended now."""
        return []

    def end_if_open(self) -> None:
        """Do nothing: the end of the run stands in the ledger of the recording."""


def _moment(item: Frame | GapLine | FailedFrame) -> _Moment:
    if isinstance(item, GapLine):
        return item.gap.first, item.gap.monotonic_ns
    return item.shot.sequence, item.shot.monotonic_ns


def _reject(reason: str) -> RawFrame:
    raise FrameRejected(reason)
