"""One connection to an MQTT 5 broker, driven from the caller's own thread.

There is no client thread that could die unseen: the network moves in `poll`, callbacks
only put events into a list, and whatever goes wrong is raised where it can be handled.
"""

from __future__ import annotations

import logging
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from threading import Event
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edge.backoff import Backoff
from edge.errors import ConfigurationInvalid, HemascopeError
from edge.settings.delivery import BrokerSettings

log = logging.getLogger(__name__)

ROOT = "cells/v1"
REQUESTS, RESPONSES = "cmd/req", "cmd/resp"
ARCHIVE_STATE = f"{ROOT}/archive/state"
MAX_PAYLOAD_BYTES = 256_000
_MOST_PACKET_BYTES = 300_000  # the broker keeps larger ones from us
_CONNECT_S = 5.0
_GOODBYE_S = 2.0
_IN_FLIGHT = 200
_REFUSED_PAUSE_S = 60.0


class BrokerUnreachable(HemascopeError):
    """No broker answers, or the connection broke. Trying again may help."""


class BrokerRefused(HemascopeError):
    """The broker answers but does not let us in."""


class PayloadRefused(HemascopeError):
    """Any broker would refuse this message, so it is not sent."""


def topic(device: str, name: str) -> str:
    """Topic `name` of a device; "+" as the device stands for all."""
    return f"{ROOT}/{device}/{name}"


def device_of(topic_text: str) -> tuple[str, str]:
    """Device and name that a topic of ours speaks of."""
    _, _, device, name = topic_text.split("/", 3)
    return device, name


@dataclass(frozen=True, slots=True)
class Message:
    """What arrived. `is_retained`: its sender had it kept, whenever it was sent."""

    topic: str
    payload: bytes
    is_retained: bool
    properties: tuple[tuple[str, str], ...] = ()
    correlation: bytes | None = None
    qos: int = 1


@dataclass(frozen=True, slots=True)
class Published:
    """The broker's answer to a QoS 1 message. Not delivery: nothing is stored yet."""

    message_id: int
    reason_code: int


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker says for us when we vanish; retained, QoS 1."""

    topic: str
    payload: bytes


class Link:
    """A connection. Used from one thread; when it breaks, make a new one."""

    def __init__(
        self,
        settings: BrokerSettings,
        client_id: str,
        subscriptions: list[str],
        will: Will | None = None,
    ) -> None:
        """Connect, and subscribe at QoS 1.

        Raises
        ------
        BrokerUnreachable
            Nobody answers in time.
        BrokerRefused
            Identity, password, certificate or a subscription is not accepted.
        ConfigurationInvalid
            A certificate or password file cannot be read.
        """
        self._where = f"{settings.host}:{settings.port}"
        self._events: deque[Message | Published] = deque()
        self._refusal: ReasonCode | None = None
        self._farewell: ReasonCode | None = None
        self._unanswered: set[int] = set()
        self._is_up = False
        self._granted = False
        self._client = self._prepare(settings, client_id, will)
        most = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        most.MaximumPacketSize = _MOST_PACKET_BYTES
        try:
            self._client.connect(
                settings.host,
                settings.port,
                settings.keepalive_s,
                clean_start=True,
                properties=most,
            )
        except ssl.SSLError as error:
            raise BrokerRefused(f"broker {self._where}: TLS failed: {error}") from error
        except UnicodeError as error:
            raise ConfigurationInvalid(
                f"broker {self._where}: {error}; expected a host's name"
            ) from error
        except OSError as error:
            raise BrokerUnreachable(
                f"broker {self._where}: {error}; is it running, and does a firewall "
                "stand between?"
            ) from error
        self._await("_is_up")
        if subscriptions:
            self._client.subscribe(
                [
                    (name, SubscribeOptions(qos=1, retainAsPublished=True))
                    for name in subscriptions
                ]
            )
            self._await("_granted")

    def poll(self, timeout_s: float) -> list[Message | Published]:
        """Move the network for up to `timeout_s` and return what arrived.

        Raises
        ------
        BrokerUnreachable
            The connection is gone.
        """
        code = self._client.loop(timeout_s)
        if code is not MQTTErrorCode.MQTT_ERR_SUCCESS or not self._is_up:
            self._is_up = False
            why = str(self._farewell or paho.error_string(code))
            if why == "Session taken over":
                why += ": another program came with our name; give each its own"
            raise BrokerUnreachable(f"broker {self._where}: connection lost ({why})")
        events = list(self._events)
        self._events.clear()
        return events

    def publish(
        self,
        topic_text: str,
        payload: bytes,
        *,
        qos: int = 1,
        is_retained: bool = False,
        properties: tuple[tuple[str, str], ...] = (),
        correlation: bytes | None = None,
        expires_s: int | None = None,
    ) -> int:
        """Send a message; return its id, as in `Published`.

        `correlation` tells which answer belongs to which request; after `expires_s`
        the broker no longer delivers it.

        Raises
        ------
        PayloadRefused
            It is larger than brokers take.
        BrokerUnreachable
            The connection is gone.
        """
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise PayloadRefused(
                f"{topic_text}: {len(payload)} bytes, brokers take {MAX_PAYLOAD_BYTES}"
            )
        extra = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        if properties:
            extra.UserProperty = list(properties)
        if correlation is not None:
            extra.CorrelationData = correlation
        if expires_s is not None:
            extra.MessageExpiryInterval = expires_s
        sent = self._client.publish(topic_text, payload, qos, is_retained, extra)
        if sent.rc not in (
            MQTTErrorCode.MQTT_ERR_SUCCESS,
            MQTTErrorCode.MQTT_ERR_QUEUE_SIZE,
        ):
            raise BrokerUnreachable(
                f"broker {self._where}: {paho.error_string(sent.rc)}"
            )
        if qos > 0:
            self._unanswered.add(sent.mid)
        return sent.mid

    def close(self) -> None:
        """Say goodbye, so that the will is not published. Safe to call twice.

        What the broker still has to say is read first: closing a socket with unread
        data resets the connection, and the goodbye would be lost with it.
        """
        deadline = time.monotonic() + _GOODBYE_S
        while self._is_up and self._unanswered and time.monotonic() < deadline:
            if self._client.loop(0.05) is not MQTTErrorCode.MQTT_ERR_SUCCESS:
                self._is_up = False
        if self._is_up:
            self._client.disconnect()
            self._is_up = False

    def _prepare(
        self, settings: BrokerSettings, client_id: str, will: Will | None
    ) -> paho.Client:
        client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=client_id, protocol=paho.MQTTv5
        )
        client.connect_timeout = _CONNECT_S
        client.max_inflight_messages_set(_IN_FLIGHT)
        try:
            for file in filter(None, (settings.ca, settings.cert, settings.key)):
                file.open("rb").close()  # ssl would not say which one is missing
            if settings.ca is not None:
                client.tls_set(
                    str(settings.ca),
                    None if settings.cert is None else str(settings.cert),
                    None if settings.key is None else str(settings.key),
                )
            if settings.username is not None:
                client.username_pw_set(settings.username, _password(settings))
        except ssl.SSLError as error:
            raise ConfigurationInvalid(
                f"ca {settings.ca}, cert {settings.cert}, key {settings.key}: "
                f"{error}; expected PEM files that belong together"
            ) from error
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationInvalid(
                f"{getattr(error, 'filename', settings.password_file)}: {error}; check "
                "the [broker] settings"
            ) from error
        if will is not None:
            client.will_set(will.topic, will.payload, qos=1, retain=True)
        client.on_socket_open = _without_delay
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        return client

    def _await(self, flag: str) -> None:
        deadline = time.monotonic() + _CONNECT_S
        while not getattr(self, flag):
            if self._refusal is not None:
                raise BrokerRefused(
                    f"broker {self._where}: refuses us: {self._refusal}; check user "
                    "name, password, certificate and access list"
                )
            if time.monotonic() > deadline:
                raise BrokerUnreachable(
                    f"broker {self._where}: no answer within {_CONNECT_S:.0f} s; is it "
                    "an MQTT 5 broker?"
                )
            code = self._client.loop(0.05)
            if code is not MQTTErrorCode.MQTT_ERR_SUCCESS and self._refusal is None:
                raise BrokerUnreachable(
                    f"broker {self._where}: closed the connection "
                    f"({paho.error_string(code)})"
                )

    def _on_connect(
        self,
        _client: Any,
        _data: Any,
        _flags: Any,
        reason: ReasonCode,
        _properties: Any,
    ) -> None:
        self._is_up = not reason.is_failure
        self._refusal = reason if reason.is_failure else None

    def _on_disconnect(
        self,
        _client: Any,
        _data: Any,
        _flags: Any,
        reason: ReasonCode,
        _properties: Any,
    ) -> None:
        self._is_up = False
        if reason.is_failure:
            self._farewell = reason
            log.warning("broker=%s disconnected reason=%s", self._where, reason)

    def _on_subscribe(
        self, _client: Any, _data: Any, _id: int, reasons: list[ReasonCode], _props: Any
    ) -> None:
        failed = [reason for reason in reasons if reason.is_failure]
        self._granted = not failed
        self._refusal = failed[0] if failed else None

    def _on_message(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        pairs = getattr(message.properties, "UserProperty", [])
        self._events.append(
            Message(
                message.topic,
                bytes(message.payload),
                message.retain,
                tuple(pairs),
                getattr(message.properties, "CorrelationData", None),
                message.qos,
            )
        )

    def _on_publish(
        self, _client: Any, _data: Any, message_id: int, reason: ReasonCode, _props: Any
    ) -> None:
        self._unanswered.discard(message_id)
        self._events.append(Published(message_id, reason.value))


def _without_delay(_client: Any, _data: Any, opened: Any) -> None:
    """Send small messages at once: waiting to join them costs 40 ms each (Nagle)."""
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _password(settings: BrokerSettings) -> str | None:
    if settings.password_file is None:
        return None
    return settings.password_file.read_text(encoding="utf-8").rstrip("\n")


def keep_serving(
    connect: Callable[[], Link],
    serve: Callable[[Link, Event], None],
    stop: Event,
    on_wait: Callable[[str], None] = lambda reason: None,
) -> None:
    """Connect and serve until `stop`, again and again, whatever the broker does.

    `on_wait` is told why, every second before the next try.

    Raises
    ------
    ConfigurationInvalid
        A certificate or password file cannot be read.
    """
    backoff = Backoff()
    while not stop.is_set():
        try:
            link = connect()
            backoff.reset()
            serve(link, stop)
        except BrokerUnreachable as error:
            wait_s = backoff.next_s()
            log.warning("%s; next try in %.1f s", error, wait_s)
            _wait(stop, wait_s, partial(on_wait, str(error)))
        except BrokerRefused as error:
            log.error("%s; next try in %.0f s", error, _REFUSED_PAUSE_S)
            _wait(stop, _REFUSED_PAUSE_S, partial(on_wait, str(error)))


def _wait(stop: Event, wait_s: float, on_turn: Callable[[], None]) -> None:
    """Wait for `stop`, at most `wait_s`; call `on_turn` at once and every second."""
    deadline_s = time.monotonic() + wait_s
    while (left_s := deadline_s - time.monotonic()) > 0:
        on_turn()
        if stop.wait(min(left_s, 1.0)):
            return
