"""Options that several commands share: the settings file, and the broker."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from edge.errors import ConfigurationInvalid


class ChoiceOf(click.Choice):  # type: ignore[type-arg]
    """One of the names in `module:NAME`, which is imported when they are needed.

    So that `hemascope --help`, which shows no option, need not import it.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self.case_sensitive = True

    @property
    def choices(self) -> tuple[str, ...]:  # type: ignore[override]
        """The names."""
        module, _, name = self._where.partition(":")
        return tuple(getattr(import_module(module), name))


class PixelSizeOption(click.ParamType):  # type: ignore[type-arg]
    """Micrometres per pixel; what no microscope can have is refused."""

    name = "µm"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number; see `click.ParamType.convert`."""
        from edge.schema.pixel_sizes import why_not_sensible

        um: float = click.FLOAT.convert(value, param, ctx)
        refused = why_not_sensible(um)
        if refused is not None:
            self.fail(refused, param, ctx)
        return um


PIXEL_SIZE_UM = PixelSizeOption()
CONFIG = click.option(
    "--config",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Settings file (TOML). The folder examples/ of the project has some.",
)
CHECK = click.option(
    "--check", is_flag=True, help="Only check the settings, and start nothing."
)

_BROKER = (
    click.option(
        "--host", default="127.0.0.1", help="Name or address of the MQTT broker."
    ),
    click.option(
        "--port", default=1883, type=click.IntRange(1, 65535), help="Its port."
    ),
    click.option(
        "--ca",
        type=click.Path(path_type=Path),
        help="File with the certificate of the authority that signed the broker's "
        "certificate. Turns TLS on; without it the connection is not encrypted.",
    ),
    click.option(
        "--cert",
        type=click.Path(path_type=Path),
        help="File with the certificate that proves who connects. Needs --key and "
        "--ca.",
    ),
    click.option(
        "--key",
        type=click.Path(path_type=Path),
        help="File with the private key of --cert.",
    ),
    click.option("--username", help="User name at the broker, if it wants one."),
    click.option(
        "--password-file",
        type=click.Path(path_type=Path),
        help="File that holds the password of --username and nothing else.",
    ),
)


def with_broker(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a broker, as the one argument `broker`."""

    @wraps(command)
    def wrapped(**options: Any) -> None:
        from edge.settings.delivery import BrokerSettings

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
