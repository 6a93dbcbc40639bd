"""Watch the devices live: watch."""

from __future__ import annotations

import secrets

import click
from rich.console import Console

from edge.cli.options import with_broker
from edge.cli.signals import until_signalled
from edge.dashboard.display import show_live
from edge.dashboard.terminal import watch
from edge.settings.delivery import BrokerSettings


@click.command("watch")
@with_broker
@click.option("--page", type=click.IntRange(0, 65535), help="Serve the page on a port.")
@click.option(
    "--page-name", "names", multiple=True, help="Name that a reverse proxy asks by."
)
def watch_command(
    page: int | None, names: tuple[str, ...], broker: BrokerSettings
) -> None:
    """Show all devices live, from MQTT alone."""
    client_id = f"{broker.username or 'watch'}-{secrets.token_hex(4)}"
    with until_signalled() as stop, show_live(page, Console(), names=names) as show:
        watch(broker, stop, show, client_id)
