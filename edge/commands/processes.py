"""The processes of a device and of the lab server: run, publish, archive."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

import click
import cv2

from edge.archive import Archive
from edge.assembly import Parts, read_parts
from edge.codec import read_toml
from edge.commands.signals import until_signalled
from edge.drift import DriftWatch
from edge.errors import ConfigurationInvalid
from edge.ledger import Ledger
from edge.preview import PreviewWriter
from edge.publish import Publisher
from edge.service import Service
from edge.settings import ArchiveFile, DeviceFile
from edge.sources.opening import open_source
from edge.store import Store

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
    settings = read_toml(config, DeviceFile)
    parts = _parts(settings)
    counted = parts.open_slide(settings.differential)
    if counted is not None:
        counted.start_run(slide, operator, note)
    elif slide or operator or note:
        raise ConfigurationInvalid(
            "--slide, --operator and --note are of a run that is counted; set is_on in "
            "[differential] and mode 'cells' in [location]"
        )
    if check:
        click.echo(f"{config}: good; model {parts.classifier.id}")
        return
    parts.build_stale_engines()
    cv2.setNumThreads(1)  # frames run in parallel, each on one core
    with ExitStack() as opened:
        ledger = Ledger(settings.ledger.folder, settings.device)
        opened.callback(ledger.close)
        previews = PreviewWriter(settings.ledger.folder, settings.run.preview_hz)
        source = open_source(settings.source)
        stop = opened.enter_context(until_signalled())
        service = Service(
            source,
            parts.open_pipeline,
            ledger,
            previews,
            settings.run,
            keep_rows=settings.ledger.keep_rows,
            drift=DriftWatch(parts.profile),
            slide=counted,
        )
        service.run(stop, frames=frames)


def _parts(settings: DeviceFile) -> Parts:
    return read_parts(
        classifier=settings.model.bundle,
        locator=settings.location.bundle,
        finds_cells=settings.location.mode == "cells",
        profile=settings.profile,
        engine=settings.model,
    )


@click.command("publish")
@_CONFIG
@_CHECK
def publish_command(config: Path, check: bool) -> None:
    """Publish the ledger over MQTT until the archive has it all."""
    settings = read_toml(config, DeviceFile)
    if check:
        click.echo(f"{config}: good")
        return
    publisher = Publisher(settings.ledger.folder, settings.broker, settings.publish)
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
        Archive(store, settings.broker, settings.archive.client_id).run(stop)
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
