"""Begin to record with a run, where the settings want it."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from edge import __version__, clock
from edge.ledger.writer import Ledger
from edge.monitoring.alarms import AlarmCondition
from edge.pipeline.parts import Parts
from edge.recording.format import PROFILE, SETTINGS, Head
from edge.recording.recorder import Recorder
from edge.recording.writer import RecordingWriter
from edge.schema.codec import write_toml
from edge.settings.files import DeviceFile, ReplaySettings
from edge.timelapse.resume_state import ResumeState

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class OpenedRecorder:
    """A recorder, None where nothing is recorded, and what is wrong with recording."""

    recorder: Recorder | None = None
    conditions: Callable[[], dict[str, AlarmCondition]] = dict


def open_recorder(
    settings: DeviceFile,
    parts: Parts,
    ledger: Ledger,
    resume: ResumeState,
    *,
    is_live: bool,
) -> OpenedRecorder:
    """Begin a recording, where the settings want one.

    A disk that is not there or full costs the recording, not the results: then the
    conditions say so, for an alarm.
    """
    wanted = settings.recording
    if wanted is None:
        return OpenedRecorder()
    head = partial(_head, settings, parts, ledger, resume, is_live=is_live)
    try:
        writer = RecordingWriter(wanted, head, partial(_add_settings, settings))
    except OSError as error:
        text = f"nothing is recorded: {wanted.folder}: {error.strerror}"
        log.error("%s", text)
        condition = AlarmCondition("amber", text)
        return OpenedRecorder(conditions=lambda: {"not-recorded": condition})
    recorder = Recorder(writer, every=wanted.every)
    return OpenedRecorder(recorder, recorder.conditions)


def _head(
    settings: DeviceFile,
    parts: Parts,
    ledger: Ledger,
    resume: ResumeState,
    name: str,
    *,
    is_live: bool,
) -> Head:
    """Return what a recording of this name says of itself."""
    recording = settings.recording
    return Head(
        id=name,
        device=settings.device,
        epoch=ledger.epoch,
        first_row=ledger.seq + 1,
        left=resume,
        began=clock.utc_now(),
        began_ns=time.monotonic_ns(),
        boot_id=clock.boot_id(),
        was_live=is_live,
        every=1 if recording is None else recording.every,
        model=parts.classifier.id,
        locator=None if parts.locator is None else parts.locator.id,
        sequence=None if parts.sequence is None else parts.sequence.id,
        calibration_id=parts.profile.calibration_id,
        software=__version__,
    )


def _add_settings(settings: DeviceFile, folder: Path) -> None:
    """Put profile and settings into a recording, so that it can be replayed alone."""
    needed = ReplaySettings.of(settings)
    if settings.profile is not None:
        shutil.copytree(settings.profile, folder / PROFILE)
        needed = msgspec.structs.replace(needed, profile=Path(PROFILE))
    write_toml(folder / SETTINGS, _with_absolute_paths(needed))


def _with_absolute_paths(settings: ReplaySettings) -> ReplaySettings:
    """Name bundles by absolute paths: they are not copied."""

    def absolute(table: msgspec.Struct | None, key: str) -> msgspec.Struct | None:
        path = None if table is None else getattr(table, key)
        if table is None or path is None:
            return table
        return msgspec.structs.replace(table, **{key: path.resolve()})

    return msgspec.structs.replace(
        settings,
        model=absolute(absolute(settings.model, "bundle"), "engines"),
        location=absolute(settings.location, "bundle"),
        sequence=absolute(absolute(settings.sequence, "bundle"), "engines"),
        differential=absolute(settings.differential, "confusion"),
    )
