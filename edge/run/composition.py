"""The composition root: build the run process from the settings of a device.

Command files read options and call `prepare_run`, which reads every file and refuses at
once what cannot be run, and `open_service`, which opens what must be closed again. A
replay builds the same service around a recording (`edge/replay/replay.py`), by the
functions that open a follower and a counter here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2

from edge.acquisition.pausable_source import PausableSource
from edge.acquisition.schedule import Plan, plan_of
from edge.acquisition.scheduled_source import ScheduledSource
from edge.engines.opening import open_engine
from edge.errors import ConfigurationInvalid
from edge.ledger.preview_file import PreviewWriter
from edge.ledger.writer import Ledger
from edge.monitoring.alarms import AlarmCondition
from edge.monitoring.systemd import Notifier
from edge.pipeline.calibration_drift import DriftWatch
from edge.pipeline.parts import Parts, parts_of
from edge.pipeline.pipeline import abstain_below
from edge.recording.opening import open_recorder
from edge.remote.command_executor import CommandExecutor
from edge.run.housekeeping import Housekeeping, append_entries
from edge.run.lasting_commands import SelfTest, Snapshots
from edge.run.run_controller import RunController, RunRequest
from edge.run.service import RunCollaborators, Service
from edge.settings.delivery import CommandSettings
from edge.settings.files import DeviceFile, ReplaySettings
from edge.settings.run import AlarmSettings, DifferentialSettings, RunSettings
from edge.settings.timelapse import EventSettings, PauseSettings, TrackingSettings
from edge.slide.confusion_correction import Correction, read_confusion
from edge.slide.run_state import RunState
from edge.slide.slide_counter import SlideCounter
from edge.sources.opening import open_source
from edge.taxonomy import NOT_A_CELL
from edge.timelapse.follower import Follower
from edge.timelapse.frame_intervals import FrameIntervals
from edge.timelapse.resume_state import (
    NOTHING_TO_RESUME,
    ResumeState,
    resume_state_of,
)
from edge.timelapse.sequence_model import SequenceModel


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PreparedRun:
    """A run whose files are read and found good; nothing is opened yet."""

    settings: DeviceFile
    request: RunRequest
    parts: Parts
    counter: SlideCounter | None
    plan: Plan | None


def prepare_run(settings: DeviceFile, request: RunRequest) -> PreparedRun:
    """Read the files that the settings name, and refuse at once what cannot be run.

    Raises
    ------
    BundleRefused, ConfigurationInvalid, ProfileMismatch
        A file is missing, altered or does not fit.
    RunRefused
        The request may name a patient.
    """
    parts = parts_of(settings)
    counter = open_slide_counter(parts, settings.differential)
    RunState().starting(request.slide, request.operator, request.note)
    return PreparedRun(
        settings=settings,
        request=request,
        parts=parts,
        counter=counter,
        plan=_plan_of(settings),
    )


@contextmanager
def open_service(
    prepared: PreparedRun, notifier: Notifier, *, is_left_open: Callable[[], bool]
) -> Iterator[Service]:
    """Open the ledger, the source and all else that a run needs.

    Parameters
    ----------
    prepared
        What `prepare_run` found good.
    notifier
        Is told of the steps, since building an engine takes minutes.
    is_left_open
        Asked at the end: whether the run is left for the next process to resume.

    Raises
    ------
    ConfigurationInvalid
        The watchdog of the service manager is too short for these settings.
    """
    settings, parts = prepared.settings, prepared.parts
    _demand_patience(notifier, settings.run)
    notifier.status("checking the engines; building one takes minutes")
    parts.build_stale_engines()
    notifier.status("self-test")
    cv2.setNumThreads(1)  # frames run in parallel, each on one core
    with ExitStack() as opened:
        ledger = Ledger(settings.ledger.folder, settings.device)
        opened.callback(ledger.close)
        source = PausableSource(open_source(settings.source))
        schedule = (
            None if prepared.plan is None else ScheduledSource(source, prepared.plan)
        )
        yield Service(
            schedule or source,
            parts.open_pipeline,
            ledger,
            PreviewWriter(settings.ledger.folder, settings.run.preview_hz),
            settings.run,
            keep_rows=settings.ledger.keep_rows,
            collaborators=_collaborators(
                prepared, notifier, ledger, source, schedule, is_left_open
            ),
        )


def _collaborators(
    prepared: PreparedRun,
    notifier: Notifier,
    ledger: Ledger,
    source: PausableSource,
    schedule: ScheduledSource | None,
    is_left_open: Callable[[], bool],
) -> RunCollaborators:
    """Return all that goes along with the run of a device."""
    settings, parts = prepared.settings, prepared.parts
    resume = resume_state_of(settings.ledger.folder, ledger.state.progress)
    runs = RunState()
    when_done = None if settings.schedule is None else settings.schedule.when_done
    controller = RunController(
        ledger,
        runs,
        source,
        schedule,
        request=prepared.request,
        resume_within_s=settings.run.resume_within_s,
        is_left_open=is_left_open,
        waits_when_done=when_done == "wait",
    )
    recording = open_recorder(settings, parts, ledger, resume, is_live=source.is_live)
    housekeeping = open_housekeeping(
        ledger,
        settings.ledger.folder,
        source,
        lambda: parts_of(settings).self_test(),
        controller=controller,
        commands=settings.commands,
        alarms=settings.alarms,
        conditions=recording.conditions,
    )
    return RunCollaborators(
        timeline=runs,
        counter=prepared.counter,
        controller=controller,
        open_follower=follower_opener(parts, settings, resume),
        drift=DriftWatch(parts.profile),
        housekeeping=housekeeping,
        notifier=notifier,
        recorder=recording.recorder,
    )


def open_housekeeping(
    ledger: Ledger,
    folder: Path,
    source: PausableSource,
    self_test: Callable[[], str],
    *,
    controller: RunController,
    commands: CommandSettings,
    alarms: AlarmSettings,
    conditions: Callable[[], dict[str, AlarmCondition]] = dict,
) -> Housekeeping:
    """Return the housekeeping of a run, with the table of what each command does.

    `folder` is the ledger's; `self_test` proves the models, in any thread;
    `conditions` says what else is wrong.
    """
    snapshots = Snapshots(folder, source, commands.keep_snapshots)
    executor = CommandExecutor(
        folder,
        ledger.state,
        partial(append_entries, ledger),
        {
            "start": controller.start,
            "pause": controller.pause,
            "resume": controller.resume,
            "stop": controller.stop,
            "note": controller.note,
            "snapshot": snapshots.ask,
            "self-test": SelfTest(self_test).start,
        },
        commands,
    )
    return Housekeeping(
        ledger,
        folder,
        source,
        executor=executor,
        snapshots=snapshots,
        controller=controller,
        alarms=alarms,
        conditions=conditions,
    )


def open_slide_counter(
    parts: Parts, settings: DifferentialSettings
) -> SlideCounter | None:
    """Return what counts the cells of a slide; None where nothing is counted.

    Raises
    ------
    ConfigurationInvalid
        The confusion file is not one of this classifier.
    """
    if not settings.is_on or parts.locator is None:
        return None
    correction = None
    if settings.confusion is not None:
        correction = Correction(read_confusion(settings.confusion))
        correction.check([n for n in parts.classifier.labels if n != NOT_A_CELL])
    return SlideCounter(
        parts.classifier.labels,
        abstain_below(parts.classifier, parts.profile),
        settings.wanted_width,
        correction,
    )


def follower_opener(
    parts: Parts, settings: DeviceFile | ReplaySettings, resume: ResumeState
) -> Callable[[], Follower] | None:
    """Return what opens a follower, None where cells are not followed.

    No number of a track or an event is given twice, whichever process gave it.
    """
    if settings.tracking is None:
        return None
    return partial(
        open_follower,
        parts,
        settings.tracking,
        settings.pauses,
        settings.events,
        resume=resume,
    )


def open_follower(
    parts: Parts,
    tracking: TrackingSettings,
    pauses: PauseSettings,
    events: EventSettings,
    *,
    resume: ResumeState = NOTHING_TO_RESUME,
) -> Follower:
    """Open the sequence model, if there is one, in this thread; follow with it."""
    intervals = FrameIntervals(pauses.lost_after, pauses.reset_after_s)
    if parts.sequence is None:
        return Follower(tracking, intervals, resume=resume)
    model = SequenceModel(
        parts.sequence,
        open_engine(parts.sequence, parts.sequence_engine),
        parts.profile,
        events,
        max_cells=tracking.most_tracks,
        max_batch=parts.sequence_engine.batch[2],
        memory_frames=parts.memory_frames,
        first_event=resume.next_event,
    )
    return Follower(tracking, intervals, model, resume=resume)


def _demand_patience(notifier: Notifier, settings: RunSettings) -> None:
    """Refuse a watchdog that would end us before we can say which frame hangs."""
    least_s = 1.5 * settings.most_frame_s
    if notifier.watchdog_s is not None and notifier.watchdog_s < least_s:
        raise ConfigurationInvalid(
            f"WatchdogSec is {notifier.watchdog_s:.0f} s, expected at least "
            f"{least_s:.0f} (1.5 times most_frame_s of [run]); change one of the two"
        )


def _plan_of(settings: DeviceFile) -> Plan | None:
    """Return what is planned; refuse points that no memory reaches across."""
    if settings.schedule is None:
        return None
    plan = plan_of(settings.schedule)
    if settings.tracking is not None:
        reach_s = settings.pauses.reset_after_s
        if plan.max_interval_s >= reach_s:
            raise ConfigurationInvalid(
                f"points of [schedule] lie up to {plan.max_interval_s:g} s apart, and "
                f"memories are new after {reach_s:g} s, reset_after_s of [pauses]; "
                "expected it above the longest interval"
            )
    return plan
