"""Settings of the connection: broker, publisher, commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from msgspec import Meta

from edge.schema.requests import CommandName
from edge.settings.values import (
    Port,
    Positive,
    StrictSettings,
)


class BrokerSettings(StrictSettings, frozen=True, kw_only=True):
    """The MQTT 5 broker. `ca` turns TLS on; `cert` and `key` then identify this client.

    `password_file` holds only the password, so that the settings never contain it.
    """

    host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    port: Port = 1883
    keepalive_s: Annotated[int, Meta(ge=2, le=600)] = 10
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    username: str | None = None
    password_file: Path | None = None

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key go together: give both or neither")
        if self.cert is not None and self.ca is None:
            raise ValueError("cert and key need ca, which turns TLS on")


class PublishSettings(StrictSettings, frozen=True):
    """How rows are sent.

    `window`: most rows sent beyond the last acknowledged one; `ack_timeout_s`: rows not
    acknowledged within this time are sent again.
    """

    window: Annotated[int, Meta(ge=1, le=5000)] = 200
    ack_timeout_s: Positive = 10.0


class CommandSettings(StrictSettings, frozen=True):
    """Which commands the device accepts over MQTT: those in `allow`, and no others.

    `most_age_s`: an older request is refused; `keep_snapshots`: so many of the newest
    snapshots are kept.
    """

    allow: tuple[CommandName, ...] = ()
    most_age_s: Annotated[float, Meta(ge=1, le=3600)] = 60.0
    keep_snapshots: Annotated[int, Meta(ge=1, le=1000)] = 50
