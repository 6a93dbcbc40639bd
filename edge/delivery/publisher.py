"""Publish the ledger, and forget nothing before the archive has acknowledged it.

A broker's PUBACK is not delivery: it says that the broker has the message, not that
anybody stored it. So rows are sent in order, as the very bytes of the ledger, within a
window; the cursor moves only when the archive acknowledges a row with its hash. Without
news for `ack_timeout_s`, or when the archive asks, sending starts again at the cursor.
While no archive listens, only the newest rows are sent, for those who watch.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from threading import Event
from typing import Literal

import msgspec

from edge import __version__
from edge.delivery.announcer import Announcer
from edge.delivery.delivery_monitor import DeliveryMonitor
from edge.ledger.cursor import (
    PUBLISHER_LOCK,
    Cursor,
    LedgerBusy,
    hold,
    read_cursor,
    write_cursor,
)
from edge.ledger.preview_file import newest_preview
from edge.ledger.reader import LedgerReader
from edge.ledger.rows import LedgerDamaged, LedgerRow
from edge.monitoring.systemd import Notifier
from edge.mqtt import (
    ARCHIVE_STATE,
    REQUESTS,
    Link,
    Message,
    PayloadRefused,
    Published,
    Will,
    device_of,
    keep_serving,
    topic,
)
from edge.rate_limit import RateLimit
from edge.remote.admission import Admission
from edge.schema.codec import PayloadInvalid, decode_canonical, encode
from edge.schema.messages import Ack, ActiveAlarm, ArchiveState, DeviceState
from edge.schema.results import FIRST_PREVIOUS
from edge.settings.delivery import BrokerSettings, CommandSettings, PublishSettings

log = logging.getLogger(__name__)

_FAILURE = 0x80  # reason codes from here on say that a message was not taken
_BURST_ROWS = 50
_NEWEST_ROWS = 5  # sent without waiting for an archive that is away
_POLL_S = 0.005
_CURSOR_PERIOD_S = 1.0
_PREVIEW_PERIOD_S = 1 / 30
_ENTRIES_PERIOD_S = 0.05
_SECOND_S = 1.0


class Publisher:
    """The publishing process. One thread; everything happens in `run`."""

    def __init__(
        self,
        folder: Path,
        broker: BrokerSettings,
        settings: PublishSettings,
        commands: CommandSettings = CommandSettings(),  # noqa: B008 frozen
        notifier: Notifier | None = None,
    ) -> None:
        """Open the ledger in `folder`.

        Raises
        ------
        LedgerDamaged
            There is no ledger, or it is of an earlier version.
        LedgerBusy
            Another process publishes it.
        """
        self._folder, self._broker, self._settings = folder, broker, settings
        self._notifier = notifier or Notifier()
        self._ledger = LedgerReader(folder)
        state = self._ledger.state
        try:
            if not state.exists:
                raise LedgerDamaged(
                    f"{folder}: a ledger of an earlier version; start `hemascope run` "
                    "once, which brings it up to date"
                )
            self._lock = hold(folder / PUBLISHER_LOCK, "publishes")
        except (LedgerBusy, LedgerDamaged):
            self._ledger.close()
            raise
        self.device = self._ledger.device
        cursor = read_cursor(folder)
        is_ours = cursor is not None and cursor.epoch == self._ledger.epoch
        known = cursor.announced if cursor is not None and is_ours else None
        self._announcer = Announcer(self._ledger, known)
        self._admission = Admission(folder, state, commands)
        self._complaints = RateLimit(20, 0.2)
        self._lookout = DeliveryMonitor(folder, self._ledger)
        self._stated: tuple[bool, tuple[ActiveAlarm, ...]] = (False, ())
        self._announced_s = self._second_s = 0.0
        if cursor is None or not is_ours:
            connections = 0 if cursor is None else cursor.connections
            cursor = Cursor(self._ledger.epoch, 0, FIRST_PREVIOUS, connections)
        self._cursor = cursor
        self._sent = cursor.upto
        self._archive_is_there = False
        self._heard_s = self._stored_s = time.monotonic()
        self._preview_seq = 0
        self._looked_s = 0.0

    def run(self, stop: Event) -> None:
        """Publish until `stop`; connections come and go.

        Raises
        ------
        ConfigurationInvalid
            A certificate or password file cannot be read.
        LedgerDamaged
            The ledger is no longer in its folder; a new start takes what is there.
        """
        self._notifier.ready()
        keep_serving(self._connect, self._serve, stop, self._notifier.progress)
        self._notifier.stopping()
        self._store()
        self._admission.close()
        self._ledger.close()
        self._lock.close()

    def _connect(self) -> Link:
        self._cursor = msgspec.structs.replace(
            self._cursor, connections=self._cursor.connections + 1
        )
        self._store()
        link = Link(
            self._broker,
            client_id=self.device,
            subscriptions=[
                topic(self.device, "ack"),
                ARCHIVE_STATE,
                f"{topic(self.device, REQUESTS)}/#",
            ],
            will=Will(topic(self.device, "state"), self._state("offline")),
        )
        self._sent = self._cursor.upto
        self._archive_is_there = False
        self._heard_s = time.monotonic()
        self._announcer.begin()
        self._say(link, "online")
        log.info("device=%s connection=%d up", self.device, self._cursor.connections)
        return link

    def _serve(self, link: Link, stop: Event) -> None:
        while not stop.is_set():
            for event in link.poll(_POLL_S):
                self._take(link, event)
            self._send(link)
            self._send_preview(link)
            now_s = time.monotonic()
            if now_s - self._announced_s > _ENTRIES_PERIOD_S:
                self._announced_s = now_s
                self._announcer.send(link)
            if now_s - self._second_s > _SECOND_S:
                self._second_s = now_s
                self._look_around(link)
            if now_s - self._stored_s > _CURSOR_PERIOD_S:
                self._store()
            self._notifier.progress(self._how_far())
        self._say(link, "stopped")
        link.close()

    def _how_far(self) -> str:
        archive = "there" if self._archive_is_there else "away"
        return f"row {self._sent} sent, {self._cursor.upto} archived, archive {archive}"

    def _send(self, link: Link) -> None:
        """Send what follows, as far as the window allows."""
        acknowledged, now_s = self._cursor.upto, time.monotonic()
        if self._sent <= acknowledged:
            self._heard_s = now_s
        elif (
            self._archive_is_there
            and now_s - self._heard_s > self._settings.ack_timeout_s
        ):
            log.warning("no acknowledgement of row %d, sending again", acknowledged + 1)
            self._sent, self._heard_s = acknowledged, now_s
        for row in self._due_rows():
            link.publish(topic(self.device, "result"), row.data)
            self._sent = row.seq

    def _due_rows(self) -> list[LedgerRow]:
        """Read what follows the last row sent; without an archive, only what is new."""
        if self._archive_is_there:
            room = self._settings.window - (self._sent - self._cursor.upto)
            return self._ledger.rows(self._sent, max(0, min(room, _BURST_ROWS)))
        _, newest = self._ledger.span()
        return self._ledger.rows(max(self._sent, newest - _NEWEST_ROWS), _NEWEST_ROWS)

    def _send_preview(self, link: Link) -> None:
        """Send the newest preview once, if one is being made."""
        now_s = time.monotonic()
        if now_s - self._looked_s < _PREVIEW_PERIOD_S:
            return
        self._looked_s = now_s
        found = newest_preview(self._folder, after=self._preview_seq)
        if found is None:
            return
        self._preview_seq = found.seq
        seq = ("seq", str(found.seq))
        try:
            link.publish(
                topic(self.device, "preview"), found.jpeg, qos=0, properties=(seq,)
            )
        except PayloadRefused as error:
            log.warning("preview of row %d not sent: %s", found.seq, error)

    def _take(self, link: Link, event: Message | Published) -> None:
        """Believe only what is written exactly as our archive writes it."""
        if isinstance(event, Published):
            self._announcer.take(event.message_id)
            if event.reason_code >= _FAILURE:
                self._lookout.saw("broker-refuses")
                log.error(
                    "device=%s the broker refuses results reason=0x%02x; check its "
                    "access list",
                    self.device,
                    event.reason_code,
                )
            return
        try:
            _, name = device_of(event.topic)
            if name.startswith(REQUESTS):
                self._admission.take(name[len(REQUESTS) + 1 :], event)
            elif event.topic == ARCHIVE_STATE:
                state = decode_canonical(event.payload, ArchiveState).state
                self._archive_is_there = state == "online"
                self._sent = self._cursor.upto
            elif not event.is_retained:
                self._apply(link, decode_canonical(event.payload, Ack))
        except PayloadInvalid as error:
            if self._complaints.spend():
                log.warning("topic=%s ignored: %s", event.topic, error)

    def _apply(self, link: Link, ack: Ack) -> None:
        """Move the cursor if the archive holds the very row that we hold."""
        oldest, newest = self._ledger.span()
        if ack.epoch != self._ledger.epoch:
            if self._complaints.spend():
                log.warning("acknowledgement of %s:%d ignored", ack.epoch, ack.upto)
            return
        if ack.upto > newest:
            self._lookout.saw("archive-disagrees")
            if self._complaints.spend():
                log.error(
                    "the archive holds row %d, the ledger ends with %d; if it was "
                    "restored from a copy, give it a new folder",
                    ack.upto,
                    newest,
                )
            return
        lies_before = ack.resume and ack.upto < oldest
        if self._ledger.sha256(ack.upto) != ack.hash and not lies_before:
            self._lookout.saw("archive-disagrees")
            log.error(
                "the archive holds another row %d than we do; it will be sent again",
                ack.upto,
            )
            return
        if ack.resume or ack.upto > self._cursor.upto:
            self._cursor = msgspec.structs.replace(
                self._cursor, upto=ack.upto, hash=ack.hash
            )
            self._heard_s = time.monotonic()
        if ack.resume:
            self._archive_is_there = True
            self._sent = ack.upto
            if ack.upto + 1 < oldest:  # it must learn that rows are gone for good
                self._say(link, "online")

    def _look_around(self, link: Link) -> None:
        """Once per second: figures, alarms, and what the run process has taken over."""
        if not self._ledger.is_in_place:
            raise LedgerDamaged(
                f"{self._folder}: the ledger was moved away or replaced; start again "
                "to publish the one that is there now"
            )
        for alarm in self._lookout.look(
            archive_is_there=self._archive_is_there,
            unrecorded=self._admission.unrecorded,
        ):
            log.warning("alarm=%s until=%s %s", alarm.code, alarm.until, alarm.text)
            self._admission.tell(alarm)
        self._admission.clear()
        if self._stated != self._lookout.device_status():
            self._say(link, "online")
        metrics = self._lookout.figures(self._cursor.upto)
        link.publish(topic(self.device, "metrics"), encode(metrics), qos=0)

    def _say(self, link: Link, state: Literal["online", "stopped"]) -> None:
        """Publish our state, retained."""
        text = topic(self.device, "state")
        link.publish(text, self._state(state), is_retained=True)

    def _state(self, state: Literal["online", "offline", "stopped"]) -> bytes:
        oldest, newest = self._ledger.span()
        self._stated = is_paused, alarms = self._lookout.device_status()
        return encode(
            DeviceState(
                state=state,
                device=self.device,
                epoch=self._ledger.epoch,
                connection=self._cursor.connections,
                oldest=oldest,
                seq=newest,
                acknowledged=self._cursor.upto,
                software=__version__,
                is_paused=is_paused,
                alarms=alarms,
            )
        )

    def _store(self) -> None:
        """Keep the cursor; losing it costs duplicates, so a full disk may."""
        self._stored_s = time.monotonic()
        self._cursor = msgspec.structs.replace(
            self._cursor, announced=self._announcer.announced
        )
        try:
            write_cursor(self._folder, self._cursor)
        except OSError as error:
            log.error("device=%s the cursor is not kept: %s", self.device, error)
