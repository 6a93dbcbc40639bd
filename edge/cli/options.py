"""Options that several commands share: the settings file, and the broker."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from edge.errors import ConfigurationInvalid
from edge.settings.delivery import BrokerSettings

CONFIG = click.option(
    "--config",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Settings file (TOML); see examples/.",
)
CHECK = click.option("--check", is_flag=True, help="Only check the settings, then end.")

_BROKER = (
    click.option("--host", default="127.0.0.1", show_default=True, help="The broker."),
    click.option(
        "--port", default=1883, show_default=True, type=click.IntRange(1, 65535)
    ),
    click.option(
        "--ca", type=click.Path(path_type=Path), help="CA file; turns TLS on."
    ),
    click.option("--cert", type=click.Path(path_type=Path), help="Our certificate."),
    click.option("--key", type=click.Path(path_type=Path), help="Its key."),
    click.option("--username", help="Our name at the broker."),
    click.option("--password-file", type=click.Path(path_type=Path)),
)


def with_broker(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a broker, as the one argument `broker`."""

    @wraps(command)
    def wrapped(**options: Any) -> None:
        names = ("host", "port", "ca", "cert", "key", "username", "password_file")
        given = {name: options.pop(name) for name in names}
        try:
            broker = BrokerSettings(**given)
        except ValueError as error:
            raise ConfigurationInvalid(f"broker: {error}") from error
        command(**options, broker=broker)

    for option in reversed(_BROKER):
        wrapped = option(wrapped)
    return wrapped
