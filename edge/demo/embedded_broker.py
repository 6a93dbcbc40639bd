"""A small MQTT 5 broker for demonstrations, on machines without mosquitto.

QoS 0 and 1, retained messages, wills, `+` and `#`. It keeps nothing across restarts,
queues nothing for clients that are not connected, and checks no identity: never use it
in a laboratory.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from dataclasses import dataclass, field

import mqtt5
from paho.mqtt.client import topic_matches_sub

log = logging.getLogger(__name__)

_MAX_WAITING_BYTES = 8 << 20  # a client that does not read is disconnected


@dataclass(slots=True, eq=False)
class _Session:
    """One connected client."""

    client_id: str
    writer: asyncio.StreamWriter
    will: mqtt5.Will | None
    filters: list[str] = field(default_factory=list)
    last_id: int = 0

    def send(self, packet: mqtt5.Packet) -> None:
        """Queue a packet for this client."""
        transport = self.writer.transport
        if transport.get_write_buffer_size() > _MAX_WAITING_BYTES:
            transport.abort()
            return
        self.writer.write(packet.write())

    def wants(self, topic: str) -> bool:
        """Whether one of its subscriptions matches."""
        return any(topic_matches_sub(f, topic) for f in self.filters)


class EmbeddedBroker:
    """The broker, in a thread, on a free port of the loopback address."""

    def __init__(self) -> None:
        self._sessions: dict[str, _Session] = {}
        self._retained: dict[str, mqtt5.PublishPacket] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="broker", daemon=True
        )
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop
        ).result()
        self.port = int(self._server.sockets[0].getsockname()[1])
        self.description = (
            f"the embedded broker on 127.0.0.1:{self.port}, for demonstration only: "
            "install mosquitto"
        )

    def close(self) -> None:
        """Stop it. Safe to call twice."""
        if self._loop.is_running():
            asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _stop(self) -> None:
        self._server.close()
        for session in list(self._sessions.values()):
            session.writer.transport.abort()
        await asyncio.sleep(0)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        session: _Session | None = None
        is_orderly = False
        buffer = b""
        try:
            while chunk := await reader.read(1 << 16):
                buffer += chunk
                while (parsed := _first_packet(buffer)) is not None:
                    packet, used = parsed
                    buffer = buffer[used:]
                    if isinstance(packet, mqtt5.ConnectPacket):
                        session = self._accept(packet, writer)
                    elif session is None:
                        return
                    elif isinstance(packet, mqtt5.DisconnectPacket):
                        is_orderly = packet.reason_code == 0
                        return
                    else:
                        self._handle(session, packet)
                await writer.drain()
        except (ConnectionError, ValueError) as error:
            log.warning("client disconnected: %s", error)
        finally:
            if session is not None:
                self._end_session(session, is_orderly)
            writer.close()

    def _accept(
        self, packet: mqtt5.ConnectPacket, writer: asyncio.StreamWriter
    ) -> _Session:
        """Accept a client; disconnect an older one with its id, as MQTT requires."""
        old = self._sessions.pop(packet.client_id, None)
        if old is not None:
            old.send(_TAKEN_OVER)
            old.writer.close()
        session = _Session(packet.client_id, writer, packet.will)
        self._sessions[packet.client_id] = session
        session.send(mqtt5.ConnAckPacket(max_qos=mqtt5.QoS.AT_LEAST_ONCE))
        return session

    def _end_session(self, session: _Session, is_orderly: bool) -> None:
        """Forget a client; publish its will unless it disconnected in order."""
        if self._sessions.get(session.client_id) is session:
            del self._sessions[session.client_id]
        if session.will is not None and not is_orderly:
            will = session.will
            self._distribute(
                mqtt5.PublishPacket(
                    will.topic,
                    will.payload or b"",
                    qos=mqtt5.QoS.AT_MOST_ONCE,
                    retain=will.retain,
                )
            )

    def _handle(self, session: _Session, packet: mqtt5.Packet) -> None:
        if isinstance(packet, mqtt5.PublishPacket):
            has_subscriber = self._distribute(packet)
            if packet.packet_id is not None:
                code = _SUCCESS if has_subscriber else _NO_SUBSCRIBERS
                session.send(mqtt5.PubAckPacket(packet.packet_id, reason_code=code))
        elif isinstance(packet, mqtt5.SubscribePacket):
            self._subscribe(session, packet)
        elif isinstance(packet, mqtt5.PingReqPacket):
            session.send(mqtt5.PingRespPacket())

    def _subscribe(self, session: _Session, packet: mqtt5.SubscribePacket) -> None:
        asked = packet.topic_filters
        # Our clients subscribe again and again, and want retained messages once.
        with_retained = [
            f.pattern
            for f in asked
            if f.retain_handling == mqtt5.RetainHandling.SEND_ALWAYS
            or f.pattern not in session.filters
        ]
        known = session.filters
        session.filters += [f.pattern for f in asked if f.pattern not in known]
        granted = [mqtt5.SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE] * len(asked)
        session.send(mqtt5.SubAckPacket(packet.packet_id, granted))
        for topic, retained in self._retained.items():
            if any(topic_matches_sub(pattern, topic) for pattern in with_retained):
                self._deliver(session, retained, is_retained=True)

    def _distribute(self, packet: mqtt5.PublishPacket) -> bool:
        """Send a message to all subscribers; return whether there was one."""
        if packet.retain:
            self._retained[packet.topic] = packet
            if not packet.payload:
                del self._retained[packet.topic]
        subscribers = [s for s in self._sessions.values() if s.wants(packet.topic)]
        for session in subscribers:
            # All our clients subscribe with `retainAsPublished`.
            self._deliver(session, packet, is_retained=packet.retain)
        return bool(subscribers)

    def _deliver(
        self, session: _Session, packet: mqtt5.PublishPacket, *, is_retained: bool
    ) -> None:
        packet_id = None
        if packet.qos == mqtt5.QoS.AT_LEAST_ONCE:
            session.last_id = packet_id = session.last_id % 65535 + 1
        session.send(
            mqtt5.PublishPacket(
                packet.topic,
                packet.payload,
                qos=packet.qos,
                retain=is_retained,
                packet_id=packet_id,
                user_properties=packet.user_properties,
                correlation_data=packet.correlation_data,
            )
        )


_SUCCESS = mqtt5.PubAckReasonCode.SUCCESS
_NO_SUBSCRIBERS = mqtt5.PubAckReasonCode.NO_MATCHING_SUBSCRIBERS
_TAKEN_OVER = mqtt5.DisconnectPacket(
    reason_code=mqtt5.DisconnectReasonCode.SESSION_TAKEN_OVER
)


def _first_packet(buffer: bytes) -> tuple[mqtt5.Packet, int] | None:
    """Return the first whole packet and its length; None while it is incomplete."""
    try:
        return mqtt5.read(memoryview(buffer))
    except IndexError:
        return None
