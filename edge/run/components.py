"""Open the follower and the slide counter that the settings of a device name."""

from __future__ import annotations

from edge.engines.opening import open_engine
from edge.pipeline.parts import Parts
from edge.pipeline.pipeline import abstain_below
from edge.settings.run import DifferentialSettings
from edge.settings.timelapse import EventSettings, PauseSettings, TrackingSettings
from edge.slide.confusion_correction import Correction, read_confusion
from edge.slide.run_state import RunState
from edge.slide.slide_counter import SlideCounter
from edge.taxonomy import NOT_A_CELL
from edge.timelapse.follower import Follower
from edge.timelapse.frame_intervals import FrameIntervals
from edge.timelapse.resume_state import NOTHING_TO_RESUME, ResumeState
from edge.timelapse.sequence_model import SequenceModel


def open_slide(
    parts: Parts,
    settings: DifferentialSettings,
    slide: type[SlideCounter] = SlideCounter,
    runs: type[RunState] = RunState,
) -> RunState:
    """Return what knows the run; a `slide`, which counts cells, where wanted.

    Raises
    ------
    ConfigurationInvalid
        The confusion file is not one of this classifier.
    """
    if not settings.is_on or parts.locator is None:
        return runs()
    correction = None
    if settings.confusion is not None:
        correction = Correction(read_confusion(settings.confusion))
        correction.check([n for n in parts.classifier.labels if n != NOT_A_CELL])
    return slide(
        parts.classifier.labels,
        abstain_below(parts.classifier, parts.profile),
        settings.wanted_width,
        correction,
    )


def open_follower(
    parts: Parts,
    tracking: TrackingSettings,
    pauses: PauseSettings,
    events: EventSettings,
    *,
    left: ResumeState = NOTHING_TO_RESUME,
) -> Follower:
    """Open the sequence model, if there is one, in this thread; follow with it."""
    pace = FrameIntervals(pauses.lost_after, pauses.reset_after_s)
    if parts.sequence is None:
        return Follower(tracking, pace, left=left)
    model = SequenceModel(
        parts.sequence,
        open_engine(parts.sequence, parts.sequence_engine),
        parts.profile,
        events,
        most_cells=tracking.most_tracks,
        most_rows=parts.sequence_engine.batch[2],
        memory_frames=parts.memory_frames,
        first_event=left.next_event,
    )
    return Follower(tracking, pace, model, left=left)
