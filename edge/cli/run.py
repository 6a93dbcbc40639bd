"""The processes of a device and of the lab server: run, publish, archive.

What only `run` needs is imported there: those who have the network load no engine.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge.cli.options import CHECK, CONFIG
from edge.cli.signals import service_notifier, until_signalled
from edge.errors import ConfigurationInvalid
from edge.ledger.writer import Ledger
from edge.monitoring.systemd import Notifier
from edge.run.components import open_follower, open_slide
from edge.schema.codec import read_toml
from edge.settings.files import DeviceFile
from edge.settings.run import RunSettings

if TYPE_CHECKING:
    from edge.acquisition.schedule import Plan
    from edge.pipeline.parts import Parts
    from edge.timelapse.follower import Follower
    from edge.timelapse.resume_state import ResumeState


@click.command("run")
@CONFIG
@CHECK
@click.option("--frames", type=click.IntRange(1), help="End after so many frames.")
@click.option("--slide", help="The slide's number, such as S26-00123; no patient data.")
@click.option("--operator", help="Your short code, such as op7; no full name.")
@click.option("--note", default="", help="A line that is kept with the run.")
def run_command(
    config: Path,
    check: bool,
    frames: int | None,
    slide: str | None,
    operator: str | None,
    note: str,
) -> None:
    """Examine frames, count cells, and write every result to the ledger."""
    import cv2

    from edge.acquisition.pausable_source import PausableSource
    from edge.acquisition.scheduled_source import ScheduledSource
    from edge.cli.recordings import open_recorder
    from edge.ledger.preview_file import PreviewWriter
    from edge.pipeline.calibration_drift import DriftWatch
    from edge.pipeline.parts import parts_of
    from edge.run.housekeeping import Housekeeping
    from edge.run.resume import resume_state_of
    from edge.run.run_controller import RunController, RunRequest
    from edge.run.service import RunCollaborators, Service
    from edge.sources.opening import open_source

    settings = read_toml(config, DeviceFile)
    parts = parts_of(settings)
    runs = open_slide(parts, settings.differential)
    runs.starting(slide, operator, note)  # refuse at once what it refuses
    plan = _plan_of(settings)
    if check:
        click.echo(f"{config}: good; model {parts.classifier.id}")
        return
    notifier = service_notifier()
    _demand_patience(notifier, settings.run)
    notifier.status("looking at the engines; building one takes minutes")
    parts.build_stale_engines()
    notifier.status("self-test")
    cv2.setNumThreads(1)  # frames run in parallel, each on one core
    with ExitStack() as opened:
        ledger = Ledger(settings.ledger.folder, settings.device)
        opened.callback(ledger.close)
        left = resume_state_of(settings.ledger.folder, ledger.state.progress)
        previews = PreviewWriter(settings.ledger.folder, settings.run.preview_hz)
        held = PausableSource(open_source(settings.source))
        schedule = None if plan is None else ScheduledSource(held, plan)
        ending = opened.enter_context(until_signalled())
        conductor = RunController(
            ledger,
            runs,
            held,
            schedule,
            wish=RunRequest(slide, operator, note),
            resume_within_s=settings.run.resume_within_s,
            is_left_open=lambda: not ending.is_by_hand,
            waits_when_done=settings.schedule is not None
            and settings.schedule.when_done == "wait",
        )
        recorder, look = open_recorder(
            settings, parts, ledger, left, is_live=held.is_live
        )
        attendant = Housekeeping(
            ledger,
            settings.ledger.folder,
            held,
            lambda: parts_of(settings).self_test(),
            conductor=conductor,
            commands=settings.commands,
            alarms=settings.alarms,
            look=look,
        )
        service = Service(
            schedule or held,
            parts.open_pipeline,
            ledger,
            previews,
            settings.run,
            keep_rows=settings.ledger.keep_rows,
            company=RunCollaborators(
                DriftWatch(parts.profile),
                attendant,
                notifier,
                _open_follower(settings, parts, left),
                runs,
                conductor,
                recorder,
            ),
        )
        service.run(ending, frames=frames)
        notifier.stopping()


def _demand_patience(notifier: Notifier, settings: RunSettings) -> None:
    """Refuse a watchdog that would end us before we can say which frame hangs."""
    least_s = 1.5 * settings.most_frame_s
    if notifier.watchdog_s is not None and notifier.watchdog_s < least_s:
        raise ConfigurationInvalid(
            f"WatchdogSec is {notifier.watchdog_s:.0f} s, expected at least "
            f"{least_s:.0f} (1.5 times most_frame_s of [run]); change one of the two"
        )


def _open_follower(
    settings: DeviceFile, parts: Parts, left: ResumeState
) -> Callable[[], Follower] | None:
    """Return what opens a follower, None where cells are not followed.

    No number of a track or an event is given twice, whatever process gave it.
    """
    tracking = settings.tracking
    if tracking is None:
        return None
    return lambda: open_follower(
        parts,
        tracking,
        settings.pauses,
        settings.events,
        left=left,
    )


def _plan_of(settings: DeviceFile) -> Plan | None:
    """Return what is planned; refuse points that no memory reaches across."""
    from edge.acquisition.schedule import plan_of

    if settings.schedule is None:
        return None
    plan = plan_of(settings.schedule)
    if settings.tracking is not None:
        reach_s = settings.pauses.reset_after_s
        if plan.most_interval_s >= reach_s:
            raise ConfigurationInvalid(
                f"points of [schedule] lie up to {plan.most_interval_s:g} s apart, and "
                f"memories are new after {reach_s:g} s, reset_after_s of [pauses]; "
                "expected it above the longest interval"
            )
    return plan
