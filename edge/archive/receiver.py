"""The archive process: stores what devices publish, and only then acknowledges it.

Its half of the protocol in `edge/delivery/publisher.py`. The archive decides from its
store alone where a device goes on: an acknowledgement always names the last row stored.
With `resume` it asks the device to go back to the row after that. It asks

- when it connects, of every ledger that it knows, since the devices may wait;
- when a device comes online, since the device may have deleted rows meanwhile;
- when a row arrives that lies ahead or does not follow, since rows between are missing.

So it needs no memory of its own beside the store, and may be restarted at any moment.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from threading import Event
from typing import Literal

from edge.archive.resume_requests import ResumeRequests
from edge.archive.store import ArchiveFailed, Chain, Store, StoreOutcome
from edge.errors import HemascopeError
from edge.monitoring.systemd import Notifier
from edge.mqtt import (
    ARCHIVE_STATE,
    BrokerUnreachable,
    Link,
    Message,
    Will,
    split_topic,
    topic,
)
from edge.rate_limit import RateLimit
from edge.reconnection import keep_serving
from edge.schema.codec import PayloadInvalid, decode, encode
from edge.schema.messages import Ack, ArchiveState, DeviceState
from edge.settings.delivery import BrokerSettings

log = logging.getLogger(__name__)

_POLL_S = 0.05
_CHECK_PERIOD_S = 1.0


class Archive:
    """The archive process. One thread; everything happens in `run`."""

    def __init__(
        self,
        store: Store,
        broker: BrokerSettings,
        client_id: str,
        notifier: Notifier | None = None,
    ) -> None:
        self._store, self._broker, self._client_id = store, broker, client_id
        self._notifier = notifier or Notifier()
        self._results_received = 0
        self._checked_s = time.monotonic()
        self._requests = ResumeRequests()
        self._log_limit = RateLimit(20, 0.2)

    def run(self, stop: Event) -> None:
        """Archive until `stop`; connect again whenever the connection breaks.

        Raises
        ------
        ArchiveFailed
            The disk cannot be written, or the file is no longer in its place.
        ConfigurationInvalid
            A certificate or password file cannot be read.
        """
        self._notifier.ready()
        keep_serving(self._connect, self._serve, stop, self._wait)
        self._notifier.stopping()

    def _wait(self, error: HemascopeError) -> None:
        """Do what is due each second while there is no connection."""
        self._store.check_in_place()
        self._notifier.progress(str(error))

    def _connect(self) -> Link:
        self._store.check_in_place()
        link = Link(
            self._broker,
            self._client_id,
            subscriptions=[topic("+", "result"), topic("+", "state")],
            will=Will(ARCHIVE_STATE, encode(ArchiveState(state="offline"))),
        )
        # Before the state: a device that sees `online` sends from its cursor on, and
        # this moves the cursor to the right row.
        for chain in self._store.chains():
            self._acknowledge(link, chain, resume=True)
        link.publish(
            ARCHIVE_STATE, encode(ArchiveState(state="online")), is_retained=True
        )
        log.info("archive up")
        return link

    def _serve(self, link: Link, stop: Event) -> None:
        """Store and acknowledge until `stop`, and say to all devices that it ends."""
        try:
            self._store_and_acknowledge(link, stop)
        except ArchiveFailed:
            # Devices then keep their rows and raise `archive-away`. Where the broker is
            # away too, this error still matters more.
            with suppress(BrokerUnreachable):
                self._end(link, "offline")
            raise
        self._end(link, "stopped")

    def _end(self, link: Link, state: Literal["offline", "stopped"]) -> None:
        message = encode(ArchiveState(state=state))
        link.publish(ARCHIVE_STATE, message, is_retained=True)
        link.close()

    def _store_and_acknowledge(self, link: Link, stop: Event) -> None:
        while not stop.is_set():
            messages = [e for e in link.poll(_POLL_S) if isinstance(e, Message)]
            # States first: a state says which rows a device still has, and by that the
            # rows that arrived with it are judged.
            for message in messages:
                if (
                    split_topic(message.topic)[1] == "state"
                    and message.topic != ARCHIVE_STATE
                ):
                    self._handle_state(link, message)
            self._check_file()
            results = [m for m in messages if split_topic(m.topic)[1] == "result"]
            for chain, outcome in self._store.store_messages(results).items():
                self._respond(link, chain, outcome)
            self._results_received += len(results)
            self._notifier.progress(
                f"{self._results_received} results received since the start"
            )

    def _check_file(self) -> None:
        """Once per second: is the file still there? `store_messages` looks too."""
        now_s = time.monotonic()
        if now_s - self._checked_s >= _CHECK_PERIOD_S:
            self._checked_s = now_s
            self._store.check_in_place()

    def _handle_state(self, link: Link, message: Message) -> None:
        """Tell a device that came online which row to send next."""
        try:
            state = decode(message.payload, DeviceState)
        except PayloadInvalid as error:
            if self._log_limit.try_acquire():
                log.warning("topic=%s ignored: %s", message.topic, error)
            return
        # What a device says on the topic of another one is ignored. A will (`offline`)
        # needs no answer: the device would not hear it.
        if state.device == split_topic(message.topic)[0] and state.state == "online":
            self._acknowledge(link, self._store.note_oldest(state), resume=True)

    def _respond(self, link: Link, chain: Chain, outcome: StoreOutcome) -> None:
        """Acknowledge; where rows are missing, ask to resume."""
        has_missing = outcome in (StoreOutcome.AHEAD, StoreOutcome.QUARANTINED)
        if not has_missing:
            self._acknowledge(link, chain, resume=False)
        elif self._requests.is_due(chain, self._store.cursor(chain)[0]):
            self._acknowledge(link, chain, resume=True)

    def _acknowledge(self, link: Link, chain: Chain, *, resume: bool) -> None:
        upto, sha256 = self._store.cursor(chain)
        ack = Ack(epoch=chain.epoch, upto=upto, hash=sha256, resume=resume)
        link.publish(topic(chain.device, "ack"), encode(ack))
