"""One connection to an MQTT 5 broker, driven from the caller's own thread.

The usual way with paho is `loop_start`: a thread of the library moves the network and
calls callbacks. An exception in a callback then ends that thread, and the program goes
on without a connection and without a word. Here the caller moves the network, in
`Link.poll`. Callbacks only append to a list of events. Whatever goes wrong is raised in
`poll` or `publish`, where the caller can handle it.

Nothing is kept across connections: each begins with `clean_start`, and a broken `Link`
is thrown away. Who needs a message to arrive for certain keeps it on disk and waits for
an acknowledgement of the receiver (`edge/delivery/publisher.py`).
"""

from __future__ import annotations

import logging
import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edge.errors import ConfigurationInvalid, HemascopeError
from edge.settings.delivery import BrokerSettings

log = logging.getLogger(__name__)

ROOT = "cells/v1"
REQUESTS, RESPONSES = "cmd/req", "cmd/resp"
ARCHIVE_STATE = f"{ROOT}/archive/state"
MAX_PAYLOAD_BYTES = 256_000
# MQTT 5, section 2.4: reason codes from here on say that a message was not taken.
REASON_FAILURE = 0x80
# Brokers here take messages of 256 kB. The topic and the properties come on top, so the
# limit for what we receive is larger.
_MAX_PACKET_BYTES = 300_000
_CONNECT_TIMEOUT_S = 5.0
_DISCONNECT_TIMEOUT_S = 2.0
_RENEW_PERIOD_S = 20.0
# Messages sent before the first PUBACK is back. With paho's default of 20 a round trip
# of 10 ms would limit delivery to 2000 rows per second.
_MAX_IN_FLIGHT = 200
# MQTT 5, section 3.2.2.2: reasons that pass without anybody's doing.
_PASSING_REASONS = frozenset(
    {
        "Server unavailable",
        "Unspecified error",  # no answer to who we are; a byte may be altered
        "Server busy",
        "Quota exceeded",
        "Connection rate exceeded",
    }
)


class BrokerUnreachable(HemascopeError):
    """No broker answers, or the connection broke. Trying again may help."""


class NameTaken(BrokerUnreachable):
    """Another program connects with our name, so the broker ends our connection."""


class BrokerRefused(HemascopeError):
    """The broker answers but refuses the connection or a subscription."""


class PayloadRefused(HemascopeError):
    """Any broker would refuse this message, so it is not sent."""


def topic(device: str, name: str) -> str:
    """Return topic `name` of a device; "+" as the device stands for all devices."""
    return f"{ROOT}/{device}/{name}"


def split_topic(topic_text: str) -> tuple[str, str]:
    """Split a topic of ours into device and name: the reverse of `topic`.

    A topic with too few parts is of no device, and keeps its text as its name: a
    network that alters bytes must not end a process.
    """
    parts = topic_text.split("/", 3)
    return (parts[2], parts[3]) if len(parts) == 4 else ("", topic_text)


@dataclass(frozen=True, slots=True)
class Message:
    """A message that arrived.

    `is_retained`: its sender had the broker keep it. It may have been sent at any time.
    """

    topic: str
    payload: bytes
    is_retained: bool
    properties: tuple[tuple[str, str], ...] = ()
    correlation: bytes | None = None
    qos: int = 1


@dataclass(frozen=True, slots=True)
class Published:
    """The broker's answer to a QoS 1 message. It has the message; nobody else may."""

    message_id: int
    reason_code: int


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes for us if the connection breaks; retained, QoS 1."""

    topic: str
    payload: bytes


class Link:
    """A connection. Used from one thread; if it breaks, make a new one."""

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
        self._address = f"{settings.host}:{settings.port}"
        self._events: deque[Message | Published] = deque()
        self._refusal: ReasonCode | None = None
        self._disconnect_reason: ReasonCode | None = None
        self._unconfirmed: set[int] = set()  # ids of messages without a PUBACK
        self._is_connected = False
        self._is_subscribed = False
        self._subscriptions, self._subscribed_s = subscriptions, time.monotonic()
        self._client = self._create_client(settings, client_id, will)
        self._connect(settings)
        self._wait_until(lambda: self._is_connected)
        if subscriptions:
            self._subscribe(SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE)
            self._wait_until(lambda: self._is_subscribed)

    def poll(self, timeout_s: float) -> list[Message | Published]:
        """Send and receive for up to `timeout_s`; return what arrived.

        Raises
        ------
        BrokerUnreachable
            The connection is gone.
        """
        # Both are needed: the code shows a broken socket, the flag a DISCONNECT by the
        # broker, after which `loop` may still report success.
        code = self._loop(timeout_s)
        if code is not MQTTErrorCode.MQTT_ERR_SUCCESS or not self._is_connected:
            self._is_connected = False
            reason = str(self._disconnect_reason or paho.error_string(code))
            text = f"broker {self._address}: connection lost ({reason})"
            if reason == "Session taken over":
                raise NameTaken(
                    f"another program came with our name; give each its own ({text})"
                )
            raise BrokerUnreachable(text)
        if time.monotonic() - self._subscribed_s > _RENEW_PERIOD_S:
            self._renew()
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

        `correlation` tells which answer belongs to which request. After `expires_s` the
        broker no longer delivers the message.

        Raises
        ------
        PayloadRefused
            It is larger than brokers take.
        BrokerUnreachable
            The connection is gone.
        """
        # A broker answers a packet that is too large by closing the connection. The
        # message would be sent again on the next one, and so on without end.
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise PayloadRefused(
                f"{topic_text}: {len(payload)} bytes, brokers take {MAX_PAYLOAD_BYTES}"
            )
        extra = _publish_properties(properties, correlation, expires_s)
        sent = self._client.publish(topic_text, payload, qos, is_retained, extra)
        if sent.rc not in (
            MQTTErrorCode.MQTT_ERR_SUCCESS,
            MQTTErrorCode.MQTT_ERR_QUEUE_SIZE,
        ):
            raise BrokerUnreachable(
                f"broker {self._address}: {paho.error_string(sent.rc)}"
            )
        # A full queue is no error: paho sends it once earlier ones are confirmed.
        if qos > 0:
            self._unconfirmed.add(sent.mid)
        return sent.mid

    def _loop(self, timeout_s: float) -> MQTTErrorCode:
        """Send and receive once; paho itself breaks on some bytes that are no MQTT."""
        try:
            return self._client.loop(timeout_s)
        except (struct.error, IndexError, ValueError):
            return MQTTErrorCode.MQTT_ERR_PROTOCOL

    def close(self) -> None:
        """Disconnect, so that the will is not published. Safe to call twice."""
        # PUBACKs are read first: to close a socket with unread data resets it (RFC
        # 2525, 2.17), which can lose the DISCONNECT; then the will would be published.
        deadline = time.monotonic() + _DISCONNECT_TIMEOUT_S
        while self._is_connected and self._unconfirmed and time.monotonic() < deadline:
            if self._loop(0.05) is not MQTTErrorCode.MQTT_ERR_SUCCESS:
                self._is_connected = False
        if self._is_connected:
            self._client.disconnect()
            self._is_connected = False

    def _create_client(
        self, settings: BrokerSettings, client_id: str, will: Will | None
    ) -> paho.Client:
        client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=client_id, protocol=paho.MQTTv5
        )
        client.connect_timeout = _CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(_MAX_IN_FLIGHT)
        _set_credentials(client, settings)
        if will is not None:
            client.will_set(will.topic, will.payload, qos=1, retain=True)
        client.on_socket_open = _disable_nagle
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        return client

    def _connect(self, settings: BrokerSettings) -> None:
        limits = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        # The broker then drops larger packets itself. It must not be possible to fill
        # the memory of a device by publishing.
        limits.MaximumPacketSize = _MAX_PACKET_BYTES
        try:
            self._client.connect(
                settings.host,
                settings.port,
                settings.keepalive_s,
                clean_start=True,
                properties=limits,
            )
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
            # What lies between accepts connections, and the broker behind it is away.
            raise BrokerUnreachable(
                f"broker {self._address}: closed the connection ({error})"
            ) from error
        except ssl.SSLError as error:
            raise BrokerRefused(
                f"broker {self._address}: TLS failed: {error}"
            ) from error
        except UnicodeError as error:
            raise ConfigurationInvalid(
                f"broker {self._address}: {error}; expected a host's name"
            ) from error
        except OSError as error:
            raise BrokerUnreachable(
                f"broker {self._address}: {error}; is it running, and does a firewall "
                "block the port?"
            ) from error

    def _renew(self) -> None:
        """Subscribe again to the same: a byte of the topics may have been altered.

        The broker then confirms what nobody asked for, and we would wait for messages
        on a sound connection for ever. Nothing changes where it understood us.
        """
        self._subscribed_s = time.monotonic()
        if self._subscriptions:
            self._subscribe(SubscribeOptions.RETAIN_SEND_IF_NEW_SUB)

    def _subscribe(self, retain_handling: int) -> None:
        # Without `retainAsPublished` the broker clears the retain flag of messages that
        # arrive later. A request or an acknowledgement that somebody retained would
        # then look like a new one.
        options = SubscribeOptions(
            qos=1, retainAsPublished=True, retainHandling=retain_handling
        )
        self._client.subscribe([(name, options) for name in self._subscriptions])

    def _wait_until(self, is_done: Callable[[], bool]) -> None:
        """Poll until the broker has answered what was asked last."""
        deadline = time.monotonic() + _CONNECT_TIMEOUT_S
        while not is_done():
            if self._refusal is not None and str(self._refusal) in _PASSING_REASONS:
                raise BrokerUnreachable(f"broker {self._address}: {self._refusal}")
            if self._refusal is not None:
                raise BrokerRefused(
                    f"broker {self._address}: refuses us: {self._refusal}; check user "
                    "name, password, certificate and access list"
                )
            if time.monotonic() > deadline:
                raise BrokerUnreachable(
                    f"broker {self._address}: no answer within "
                    f"{_CONNECT_TIMEOUT_S:.0f} s; is it an MQTT 5 broker?"
                )
            code = self._loop(0.05)
            if code is not MQTTErrorCode.MQTT_ERR_SUCCESS and self._refusal is None:
                raise BrokerUnreachable(
                    f"broker {self._address}: closed the connection "
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
        self._is_connected = not reason.is_failure
        self._refusal = reason if reason.is_failure else None

    def _on_disconnect(
        self,
        _client: Any,
        _data: Any,
        _flags: Any,
        reason: ReasonCode,
        _properties: Any,
    ) -> None:
        self._is_connected = False
        if reason.is_failure:
            self._disconnect_reason = reason
            log.warning("broker=%s disconnected reason=%s", self._address, reason)

    def _on_subscribe(
        self, _client: Any, _data: Any, _id: int, reasons: list[ReasonCode], _props: Any
    ) -> None:
        failed = [reason for reason in reasons if reason.is_failure]
        self._is_subscribed = not failed
        self._refusal = failed[0] if failed else None
        if failed:
            log.warning("broker=%s subscription refused: %s", self._address, failed[0])

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
        self._unconfirmed.discard(message_id)
        self._events.append(Published(message_id, reason.value))


def _publish_properties(
    user_properties: tuple[tuple[str, str], ...],
    correlation: bytes | None,
    expires_s: int | None,
) -> Properties:
    """Return the properties of a message as paho wants them."""
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    if user_properties:
        properties.UserProperty = list(user_properties)
    if correlation is not None:
        properties.CorrelationData = correlation
    if expires_s is not None:
        properties.MessageExpiryInterval = expires_s
    return properties


def _disable_nagle(_client: Any, _data: Any, opened_socket: Any) -> None:
    """Send small packets at once.

    Nagle's algorithm (RFC 896) holds back a small packet until the one before it is
    acknowledged, and the receiver's TCP delays that by 40 ms.
    """
    opened_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _set_credentials(client: paho.Client, settings: BrokerSettings) -> None:
    """Give the client its certificates, user name and password."""
    try:
        for file in filter(None, (settings.ca, settings.cert, settings.key)):
            file.open("rb").close()  # the error of `ssl` does not name the file
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


def _password(settings: BrokerSettings) -> str | None:
    if settings.password_file is None:
        return None
    return settings.password_file.read_text(encoding="utf-8").rstrip("\n")
