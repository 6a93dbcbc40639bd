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
    """The MQTT 5 broker. `ca` turns TLS on; `cert` and `key` then prove who we are.

    `password_file` holds the password alone, so that it never stands in the settings.
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
    """`window`: rows sent beyond the last acknowledged; `ack_timeout_s`: then again."""

    window: Annotated[int, Meta(ge=1, le=5000)] = 200
    ack_timeout_s: Positive = 10.0


class CommandSettings(StrictSettings, frozen=True):
    """What may be asked of the device over MQTT; nothing unless it stands in `allow`.

    `most_age_s`: how long a request may live; `keep_snapshots`: the newest are kept.
    """

    allow: tuple[CommandName, ...] = ()
    most_age_s: Annotated[float, Meta(ge=1, le=3600)] = 60.0
    keep_snapshots: Annotated[int, Meta(ge=1, le=1000)] = 50
