"""Watch the devices live: watch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edge.cli.groups import Section, in_section
from edge.cli.options import with_broker

if TYPE_CHECKING:
    from edge.settings.delivery import BrokerSettings


@in_section(Section.LOOK)
@click.command("watch")
@with_broker
@click.option(
    "--page",
    type=click.IntRange(0, 65535),
    help="Also serve a web page on this port of this machine; 0 takes a free port.",
)
@click.option(
    "--page-name",
    "names",
    multiple=True,
    help="Host name by which a reverse proxy asks for the page. May be given several "
    "times.",
)
def watch_command(
    page: int | None, names: tuple[str, ...], broker: BrokerSettings
) -> None:
    """Show all devices live, from what they publish over MQTT."""
    import secrets

    from rich.console import Console

    from edge.cli.signals import until_signalled
    from edge.dashboard.display import show_live
    from edge.dashboard.terminal import watch

    client_id = f"{broker.username or 'watch'}-{secrets.token_hex(4)}"
    with until_signalled() as stop, show_live(page, Console(), names=names) as show:
        watch(broker, stop, show, client_id)
