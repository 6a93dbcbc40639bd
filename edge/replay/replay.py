"""Let a recording go through the same code again, and write what it says now.

The source gives what was recorded, in the same order, with the same numbers and times;
gaps are gaps again. Pipeline, follower, differential and loop are those of a live run.
What a live run settled by chance, the pixel size that its workers read off the first
frames, is taken from the recording.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec

from edge.errors import FrameRejected
from edge.frames import Exposure, Gap, RawFrame, Shot, SourceEnded
from edge.ledger.preview_file import PreviewWriter
from edge.ledger.writer import Ledger
from edge.pipeline.calibration_drift import DriftWatch
from edge.pipeline.parts import Parts
from edge.pipeline.pixel_size import PixelSize, Scale
from edge.recording.format import (
    FailedFrame,
    Frame,
    GapLine,
    Head,
    MissingFrames,
    RecordedItem,
    Recording,
)
from edge.recording.frame_encoding import StoredFrame
from edge.run.components import open_follower, open_slide
from edge.run.service import RunCollaborators, Service
from edge.schema.entries import RunMark
from edge.schema.results import FrameResult
from edge.settings.files import ReplaySettings
from edge.slide.run_state import RunState
from edge.slide.slide_counter import SlideCounter
from edge.timelapse.follower import Follower

_Moment = tuple[int, int]  # number and monotonic time: unique within a recording


class RecordedSource:
    """A recording that behaves like a camera, and waits for its reader."""

    def __init__(self, recorded: Sequence[RecordedItem], name: str) -> None:
        self._recorded, self._name = iter(recorded), name

    @property
    def is_live(self) -> bool:
        """A recording waits."""
        return False

    def read(self, timeout_s: float) -> Exposure | Gap | None:
        """Return what comes next; see `Source.read`."""
        recorded = next(self._recorded, None)
        if recorded is None:
            raise SourceEnded(f"recording {self._name} is over")
        item = recorded.item
        if isinstance(item, GapLine):
            return item.gap
        if isinstance(item, MissingFrames):
            reason = f"not recorded: {item.reason}"
            return Gap(item.first, item.count, reason, item.monotonic_ns, item.utc)
        if isinstance(item, FailedFrame) or recorded.page is None:
            reason = item.reason if isinstance(item, FailedFrame) else "has no picture"
            return Exposure(item.shot, partial(_reject, reason), item.planned)
        develop = partial(_develop, item.shot, recorded.page)
        return Exposure(item.shot, develop, item.planned)

    def close(self) -> None:
        """Nothing to release."""


class RecordedScale(Scale):
    """The pixel sizes that frames were examined with where nobody told them."""

    def __init__(
        self, profile_um: float | None, recorded: Sequence[RecordedItem]
    ) -> None:
        super().__init__(profile_um)
        self._known = {
            r.item.shot.sequence: r.item.scale
            for r in recorded
            if isinstance(r.item, Frame)
            and r.item.scale is not None
            and r.item.scale.origin not in ("profile", "source")
        }

    def of(
        self,
        source_um: float | None,
        estimate: Callable[[], float | None],
        sequence: int | None = None,
    ) -> PixelSize:
        """Return what was recorded of this frame; see `Scale.of`."""
        if sequence in self._known:
            return self._known[sequence]
        return super().of(source_um, estimate, sequence)


class RecordedRuns(RunState):
    """Runs begin and end with the frames that they began and ended with.

    Their marks stand in the ledger of the recording; a replay makes none.
    """

    _runs: Mapping[_Moment, str | None] = {}
    _left: str | None = None

    def know(self, left: str | None, recorded: Sequence[RecordedItem]) -> None:
        """Take from a recording which frame is of which run, and which one went on."""
        self._left = left
        items = [r.item for r in recorded if not isinstance(r.item, MissingFrames)]
        self._runs = {_moment(item): item.run for item in items}

    def judge(self, result: FrameResult) -> FrameResult:
        """See `RunState.judge`."""
        moment = result.frame.first, result.monotonic_ns
        run = self._runs.get(moment, self._written)
        self._is_resumed = run is not None and run == self._left
        self._turn_to(run)
        return super().judge(result)

    def is_under_way(self, run: str) -> bool:
        """Believe it: what was recorded of a plan was said in its run."""
        return True

    def marks(self) -> list[RunMark]:
        """Nothing is started, noted or ended now."""
        return []


class RecordedSlide(RecordedRuns, SlideCounter):
    """The same of a slide that is counted."""


def replay(
    recording: Recording,
    parts: Parts,
    settings: ReplaySettings,
    folder: Path,
    stop: threading.Event,
    on_row: Callable[[], None] = lambda: None,
) -> None:
    """Examine a recording again, into a new ledger in `folder`.

    Raises
    ------
    RunFailed
        As in a live run.
    """
    head, recorded = recording.head, recording.items()
    scale = RecordedScale(parts.profile.record.pixel_size_um, recorded)
    parts = replace(parts, scale=scale)
    ledger = Ledger(folder, head.device)
    try:
        service = Service(
            RecordedSource(recorded, head.id),
            parts.open_pipeline,
            ledger,
            PreviewWriter(folder, 0),
            msgspec.structs.replace(settings.run, workers=None),
            keep_rows=len(recorded) + 1,
            company=RunCollaborators(
                DriftWatch(parts.profile),
                open_follower=_follower(parts, settings, head),
                runs=_runs(parts, settings, head, recorded),
                was_live=head.was_live,
            ),
        )
        service.run(stop, on_row=lambda row, result: on_row())
    finally:
        ledger.close()


def _follower(
    parts: Parts, settings: ReplaySettings, head: Head
) -> Callable[[], Follower] | None:
    tracking = settings.tracking
    if tracking is None:
        return None
    return lambda: open_follower(
        parts,
        tracking,
        settings.pauses,
        settings.events,
        left=head.left,
    )


def _runs(
    parts: Parts, settings: ReplaySettings, head: Head, recorded: Sequence[RecordedItem]
) -> RunState:
    runs = open_slide(parts, settings.differential, RecordedSlide, RecordedRuns)
    if isinstance(runs, RecordedRuns):
        runs.know(head.left.run, recorded)
    return runs


def _moment(item: Frame | GapLine | FailedFrame) -> _Moment:
    if isinstance(item, GapLine):
        return item.gap.first, item.gap.monotonic_ns
    return item.shot.sequence, item.shot.monotonic_ns


def _reject(reason: str) -> RawFrame:
    raise FrameRejected(reason)


def _develop(shot: Shot, page: StoredFrame) -> RawFrame:
    return RawFrame(shot, page.read())
