"""The archive: stores what devices publish, in order, and only then acknowledges it."""

from __future__ import annotations

import logging
import time
from threading import Event

from edge.archive.store import Chain, Receipt, Store
from edge.monitoring.systemd import Notifier
from edge.mqtt import (
    ARCHIVE_STATE,
    Link,
    Message,
    Will,
    device_of,
    keep_serving,
    topic,
)
from edge.rate_limit import RateLimit
from edge.schema.codec import PayloadInvalid, decode, encode
from edge.schema.messages import Ack, ArchiveState, DeviceState
from edge.settings.delivery import BrokerSettings

log = logging.getLogger(__name__)

_POLL_S = 0.05
_RESUME_PERIOD_S = 1.0


class Archive:
    """The archiving process. One thread; everything happens in `run`."""

    def __init__(
        self,
        store: Store,
        broker: BrokerSettings,
        client_id: str,
        notifier: Notifier | None = None,
    ) -> None:
        self._store, self._broker, self._client_id = store, broker, client_id
        self._notifier = notifier or Notifier()
        self._arrived = 0
        self._resumed_s: dict[Chain, float] = {}
        self._complaints = RateLimit(20, 0.2)

    def run(self, stop: Event) -> None:
        """Archive until `stop`; connections come and go.

        Raises
        ------
        ArchiveFailed
            The disk takes no rows.
        ConfigurationInvalid
            A certificate or password file cannot be read.
        """
        self._notifier.ready()
        keep_serving(self._connect, self._serve, stop, self._notifier.progress)
        self._notifier.stopping()

    def _connect(self) -> Link:
        link = Link(
            self._broker,
            self._client_id,
            subscriptions=[topic("+", "result"), topic("+", "state")],
            will=Will(ARCHIVE_STATE, encode(ArchiveState(state="offline"))),
        )
        for chain in self._store.chains():
            self._acknowledge(link, chain, resume=True)
        link.publish(
            ARCHIVE_STATE, encode(ArchiveState(state="online")), is_retained=True
        )
        log.info("archive up")
        return link

    def _serve(self, link: Link, stop: Event) -> None:
        while not stop.is_set():
            arrived = [e for e in link.poll(_POLL_S) if isinstance(e, Message)]
            for message in arrived:
                if (
                    device_of(message.topic)[1] == "state"
                    and message.topic != ARCHIVE_STATE
                ):
                    self._greet(link, message)
            results = [m for m in arrived if device_of(m.topic)[1] == "result"]
            for chain, verdict in self._store.take(results).items():
                self._answer(link, chain, verdict)
            self._arrived += len(results)
            self._notifier.progress(f"{self._arrived} results arrived since the start")
        link.publish(
            ARCHIVE_STATE, encode(ArchiveState(state="stopped")), is_retained=True
        )
        link.close()

    def _greet(self, link: Link, message: Message) -> None:
        """Tell a device that came online where to go on."""
        try:
            state = decode(message.payload, DeviceState)
        except PayloadInvalid as error:
            if self._complaints.spend():
                log.warning("topic=%s ignored: %s", message.topic, error)
            return
        if state.device == device_of(message.topic)[0] and state.state == "online":
            self._acknowledge(link, self._store.expect(state), resume=True)

    def _answer(self, link: Link, chain: Chain, verdict: Receipt) -> None:
        """Acknowledge, and ask to resume where rows are missing, once per second."""
        lacks = verdict in (Receipt.AHEAD, Receipt.QUARANTINED)
        now_s = time.monotonic()
        due = now_s - self._resumed_s.get(chain, -_RESUME_PERIOD_S) >= _RESUME_PERIOD_S
        if lacks and due:
            self._resumed_s = {
                known: at
                for known, at in self._resumed_s.items()
                if now_s - at < _RESUME_PERIOD_S
            }
            self._resumed_s[chain] = now_s
        if due or not lacks:
            self._acknowledge(link, chain, resume=lacks)

    def _acknowledge(self, link: Link, chain: Chain, *, resume: bool) -> None:
        upto, sha256 = self._store.cursor(chain)
        ack = Ack(epoch=chain.epoch, upto=upto, hash=sha256, resume=resume)
        link.publish(topic(chain.device, "ack"), encode(ack))
