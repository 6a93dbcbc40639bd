"""The processes with a network: publish on a device, archive on the lab server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge.cli.groups import Section, in_section
from edge.cli.options import CHECK, CONFIG

if TYPE_CHECKING:
    from edge.archive.store import Store


@in_section(Section.DEVICE)
@click.command("publish")
@CONFIG
@CHECK
def publish_command(config: Path, check: bool) -> None:
    """Publish the rows of the ledger over MQTT, until the archive has stored them.

    Runs beside `hemascope run`, until it is told to end.
    """
    from edge.cli.signals import service_notifier, until_signalled
    from edge.delivery.publisher import Publisher
    from edge.schema.codec import read_toml
    from edge.settings.files import DeviceFile

    settings = read_toml(config, DeviceFile)
    if check:
        click.echo(f"{config}: good")
        return
    publisher = Publisher(
        settings.ledger.folder,
        settings.broker,
        settings.publish,
        settings.commands,
        service_notifier(),
    )
    with until_signalled() as stop:
        publisher.run(stop)


@in_section(Section.SERVER)
@click.command("archive")
@CONFIG
@CHECK
@click.option("--verify", is_flag=True, help="Check every stored row, then end.")
def archive_command(config: Path, check: bool, verify: bool) -> None:
    """Store what devices publish, and acknowledge it."""
    from edge.archive.receiver import Archive
    from edge.archive.store import Store
    from edge.cli.signals import service_notifier, until_signalled
    from edge.schema.codec import read_toml
    from edge.settings.files import ArchiveFile

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
            store, settings.broker, settings.archive.client_id, service_notifier()
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
