"""The processes of a device and of the lab server: run, publish, archive.

What only `run` needs is imported there: those who have the network load no engine.
"""

from __future__ import annotations

import faulthandler
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge.archive import Archive
from edge.codec import read_toml
from edge.commands.signals import until_signalled
from edge.errors import ConfigurationInvalid
from edge.ledger import Ledger
from edge.notify import Notifier, notifier_of
from edge.publish import Publisher
from edge.settings import ArchiveFile, DeviceFile, RunSettings
from edge.store import Store

if TYPE_CHECKING:
    from edge.assembly import Parts
    from edge.following import Follower
    from edge.left import Left
    from edge.schedule import Plan

_CONFIG = click.option(
    "--config",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Settings file (TOML); see examples/.",
)
_CHECK = click.option(
    "--check", is_flag=True, help="Only check the settings, then end."
)


@click.command("run")
@_CONFIG
@_CHECK
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

    from edge.assembly import parts_of
    from edge.attending import Attendant
    from edge.commands.recordings import open_recorder
    from edge.conducting import Conductor, Wish
    from edge.drift import DriftWatch
    from edge.left import left_in
    from edge.pausing import Pausable
    from edge.preview import PreviewWriter
    from edge.scheduled import Scheduled
    from edge.service import Company, Service
    from edge.sources.opening import open_source

    settings = read_toml(config, DeviceFile)
    parts = parts_of(settings)
    runs = parts.open_slide(settings.differential)
    runs.starting(slide, operator, note)  # refuse at once what it refuses
    plan = _plan_of(settings)
    if check:
        click.echo(f"{config}: good; model {parts.classifier.id}")
        return
    notifier = _notifier()
    _demand_patience(notifier, settings.run)
    notifier.status("looking at the engines; building one takes minutes")
    parts.build_stale_engines()
    notifier.status("self-test")
    cv2.setNumThreads(1)  # frames run in parallel, each on one core
    with ExitStack() as opened:
        ledger = Ledger(settings.ledger.folder, settings.device)
        opened.callback(ledger.close)
        left = left_in(settings.ledger.folder, ledger.standing.progress)
        previews = PreviewWriter(settings.ledger.folder, settings.run.preview_hz)
        held = Pausable(open_source(settings.source))
        schedule = None if plan is None else Scheduled(held, plan)
        ending = opened.enter_context(until_signalled())
        conductor = Conductor(
            ledger,
            runs,
            held,
            schedule,
            wish=Wish(slide, operator, note),
            resume_within_s=settings.run.resume_within_s,
            is_left_open=lambda: not ending.is_by_hand,
            waits_when_done=settings.schedule is not None
            and settings.schedule.when_done == "wait",
        )
        recorder, look = open_recorder(
            settings, parts, ledger, left, is_live=held.is_live
        )
        attendant = Attendant(
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
            company=Company(
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


def _notifier() -> Notifier:
    """Return systemd's ear; if it ends us as hung, all threads say where they are."""
    faulthandler.enable()
    return notifier_of()


def _demand_patience(notifier: Notifier, settings: RunSettings) -> None:
    """Refuse a watchdog that would end us before we can say which frame hangs."""
    least_s = 1.5 * settings.most_frame_s
    if notifier.watchdog_s is not None and notifier.watchdog_s < least_s:
        raise ConfigurationInvalid(
            f"WatchdogSec is {notifier.watchdog_s:.0f} s, expected at least "
            f"{least_s:.0f} (1.5 times most_frame_s of [run]); change one of the two"
        )


def _open_follower(
    settings: DeviceFile, parts: Parts, left: Left
) -> Callable[[], Follower] | None:
    """Return what opens a follower, None where cells are not followed.

    No number of a track or an event is given twice, whatever process gave it.
    """
    tracking = settings.tracking
    if tracking is None:
        return None
    return lambda: parts.open_follower(
        tracking,
        settings.pauses,
        settings.events,
        left=left,
    )


def _plan_of(settings: DeviceFile) -> Plan | None:
    """Return what is planned; refuse points that no memory reaches across."""
    from edge.schedule import plan_of

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


@click.command("publish")
@_CONFIG
@_CHECK
def publish_command(config: Path, check: bool) -> None:
    """Publish the ledger over MQTT until the archive has it all."""
    settings = read_toml(config, DeviceFile)
    if check:
        click.echo(f"{config}: good")
        return
    publisher = Publisher(
        settings.ledger.folder,
        settings.broker,
        settings.publish,
        settings.commands,
        _notifier(),
    )
    with until_signalled() as stop:
        publisher.run(stop)


@click.command("archive")
@_CONFIG
@_CHECK
@click.option("--verify", is_flag=True, help="Check every stored row, then end.")
def archive_command(config: Path, check: bool, verify: bool) -> None:
    """Store what devices publish, and acknowledge it."""
    settings = read_toml(config, ArchiveFile)
    if check:
        click.echo(f"{config}: good")
        return
    store = Store(settings.archive.file, must_exist=verify)
    if verify:
        _verify(store)
        return
    with until_signalled() as stop:
        archive = Archive(
            store, settings.broker, settings.archive.client_id, _notifier()
        )
        archive.run(stop)
    store.close()


def _verify(store: Store) -> None:
    broken = False
    for chain in store.chains():
        wrong = store.verify(chain)
        last, _ = store.cursor(chain)
        verdict = "intact" if wrong is None else f"broken at row {wrong}"
        click.echo(f"{chain.device} {chain.epoch}: {last} rows, {verdict}")
        broken = broken or wrong is not None
    for device, epoch, first, last in store.holes():
        click.echo(f"{device} {epoch}: rows {first} to {last} never came")
    if broken:
        sys.exit(1)
