"""Let a recording go through the same code again, and write what it says now.

The source gives what was recorded, in the same order, with the same numbers and times;
gaps are gaps again. Pipeline, follower, counter and loop are those of a live run. What
a live run settled by chance, the pixel size that its workers read off the first frames,
is taken from the recording.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec

from edge.ledger.preview_file import PreviewWriter
from edge.ledger.writer import Ledger
from edge.pipeline.calibration_drift import DriftWatch
from edge.pipeline.parts import Parts
from edge.pipeline.pixel_size import Scale
from edge.recording.format import Recording
from edge.replay.completeness import missing_in
from edge.replay.recorded import RecordedScale, RecordedSource, RecordedTimeline
from edge.run.composition import follower_opener, open_slide_counter
from edge.run.service import RunCollaborators, Service
from edge.settings.files import ReplaySettings


def replay(
    recording: Recording,
    parts: Parts,
    settings: ReplaySettings,
    folder: Path,
    stop: threading.Event,
    on_row: Callable[[], None] = lambda: None,
) -> list[str]:
    """Examine a recording again, into a new ledger in `folder`.

    Returns what is missing from the recording, a line each: see `completeness`.
    Frames whose stored bytes are not those that were written are among it.

    Raises
    ------
    RunFailed
        As in a live run.
    """
    head, recorded = recording.head, recording.items()
    scale = RecordedScale(Scale(parts.profile.record.pixel_size_um), recorded)
    parts = replace(parts, scale=scale)
    source = RecordedSource(recorded, head.id)
    ledger = Ledger(folder, head.device)
    try:
        service = Service(
            source,
            parts.open_pipeline,
            ledger,
            PreviewWriter(folder, 0),
            msgspec.structs.replace(settings.run, workers=None),
            keep_rows=len(recorded) + 1,
            collaborators=RunCollaborators(
                timeline=RecordedTimeline(head.left.run, recorded),
                counter=open_slide_counter(parts, settings.differential),
                open_follower=follower_opener(parts, settings, head.left),
                drift=DriftWatch(parts.profile),
                was_live=head.was_live,
            ),
        )
        service.run(stop, on_row=lambda row, result: on_row())
    finally:
        ledger.close()
    missing = [*missing_in(recording, recorded), *source.unreadable]
    return missing if source.is_over else [*missing, "it was told to end before"]
