"""Publish the ledger until the archive has acknowledged every row.

A broker's PUBACK is not delivery: it says that the broker has the message, not that
anybody stored it. So delivery is proven from end to end, by the archive alone.

The protocol is go-back-N with cumulative acknowledgements, as data links use it:

- Rows are sent in order, as the very bytes of the ledger, at most `window` of them
  beyond the last acknowledged one.
- An acknowledgement names a row and its hash. It stands for all rows before it too,
  since the archive takes a row only where it follows from the one before. The cursor
  then moves to this row.
- Without an acknowledgement in time, or when the archive asks, sending goes back to the
  cursor. The archive drops what it has already. How many rows may be under way, and how
  long to wait, `SendWindow` finds out; `window` and `ack_timeout_s` are the most.

The invariant: the cursor never passes a row that the archive does not hold. The writer
deletes rows up to the cursor, so this is what makes that safe.

Why not leave it to the broker's queue (a session that is kept, QoS 1): beyond a limit
it drops messages silently, and it is lost with the broker's disk.

While no archive listens, only the newest rows are sent, for those who watch.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from pathlib import Path
from threading import Event
from typing import Literal

import msgspec

from edge import __version__
from edge.delivery.announcer import Announcer
from edge.delivery.delivery_monitor import DeliveryMonitor
from edge.delivery.intact_rows import IntactRows
from edge.delivery.preview_sender import PreviewSender
from edge.delivery.send_window import SendWindow
from edge.errors import HemascopeError
from edge.ledger.cursor import (
    PUBLISHER_LOCK,
    LedgerBusy,
    acquire_lock,
    cursor_of,
    write_cursor,
)
from edge.ledger.reader import LedgerReader
from edge.ledger.rows import LEDGER_FILE, LedgerDamaged, LedgerMoved, LedgerRow
from edge.monitoring.systemd import Notifier
from edge.mqtt import (
    ARCHIVE_STATE,
    REASON_FAILURE,
    REQUESTS,
    Link,
    Message,
    NameTaken,
    Published,
    Will,
    split_topic,
    topic,
)
from edge.rate_limit import RateLimit
from edge.reconnection import SHORT_S, keep_serving
from edge.remote.admission import Admission
from edge.schema.codec import PayloadInvalid, decode_canonical, encode
from edge.schema.entries import Alarm
from edge.schema.messages import Ack, ActiveAlarm, ArchiveState, DeviceState
from edge.settings.delivery import BrokerSettings, CommandSettings, PublishSettings

log = logging.getLogger(__name__)

_BURST_ROWS = 50  # at most, before the network is polled again
_NEWEST_ROWS = 5  # sent although no archive listens
_POLL_S = 0.005
_CURSOR_PERIOD_S = 1.0
_ENTRIES_PERIOD_S = 0.05
_HOUSEKEEPING_PERIOD_S = 1.0


class Publisher:
    """The publish process. One thread; everything happens in `run`."""

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
        self._folder, self._broker = folder, broker
        self._notifier = notifier or Notifier()
        self._ledger = LedgerReader(folder)
        self._take_ledger()
        self.device = self._ledger.device
        self._cursor, announced = cursor_of(folder, self._ledger.epoch)
        self._announcer = Announcer(self._ledger, announced)
        self._admission = Admission(folder, self._ledger.state, commands)
        self._monitor = DeliveryMonitor(folder, self._ledger)
        self._intact = IntactRows(
            self._ledger, partial(self._monitor.report, "row-damaged")
        )
        self._log_limit = RateLimit(20, 0.2)
        self._published_status: tuple[bool, tuple[ActiveAlarm, ...]] = (False, ())
        self._window = SendWindow(settings.window, settings.ack_timeout_s)
        self._sent = self._cursor.upto
        self._archive_is_online = False
        self._hole_before: int | None = None  # row that our state names as the oldest
        self._previews = PreviewSender(self.device, self._folder)
        self._trouble, self._trouble_s = "", 0.0  # why there was no connection
        # Moments on the monotonic clock: what was done last, and when.
        self._cursor_stored_s = time.monotonic()
        self._entries_sent_s = self._housekeeping_s = 0.0

    def _take_ledger(self) -> None:
        """Check that this ledger can be published, and that nobody else does."""
        try:
            if not self._ledger.state.exists:
                raise LedgerDamaged(
                    f"{self._folder}: a ledger of an earlier version; start "
                    "`hemascope run` once, which brings it up to date"
                )
            self._lock = acquire_lock(self._folder / PUBLISHER_LOCK, "publishes")
        except (LedgerBusy, LedgerDamaged):
            self._ledger.close()
            raise

    def run(self, stop: Event) -> None:
        """Publish until `stop`; connect again whenever the connection breaks.

        Raises
        ------
        ConfigurationInvalid
            A certificate or password file cannot be read.
        LedgerMoved
            The ledger is no longer in its folder; a new start takes what is there.
        """
        self._notifier.ready()
        try:
            keep_serving(self._connect, self._serve, stop, self._wait)
            self._notifier.stopping()
            self._store_cursor()
        finally:
            self._admission.close()
            self._ledger.close()
            self._lock.close()

    def _wait(self, error: HemascopeError) -> None:
        """Do what is due each second while there is no connection."""
        if isinstance(error, NameTaken):
            self._monitor.report("name-taken")
        self._trouble, self._trouble_s = str(error), time.monotonic()
        self._store_cursor()
        self._notifier.progress(str(error))

    def _connect(self) -> Link:
        # The number of this connection is on disk before the last will that carries it
        # reaches the broker. So the will of an earlier connection has a lower number,
        # and readers know it as late when the broker publishes it after our state.
        self._cursor = msgspec.structs.replace(
            self._cursor, connections=self._cursor.connections + 1
        )
        self._store_cursor()
        link = Link(
            self._broker,
            client_id=self.device,
            subscriptions=[
                topic(self.device, "ack"),
                ARCHIVE_STATE,
                f"{topic(self.device, REQUESTS)}/#",
            ],
            will=Will(topic(self.device, "state"), self._state_message("offline")),
        )
        # What was sent on the connection before may be lost: begin at the cursor.
        self._sent = self._cursor.upto
        self._archive_is_online = False
        self._window.restart(self._sent)
        self._announcer.restart()
        self._publish_state(link, "online")
        log.info("device=%s connection=%d up", self.device, self._cursor.connections)
        return link

    def _serve(self, link: Link, stop: Event) -> None:
        while not stop.is_set():
            # A short poll: new rows are found by asking the ledger, so this bounds how
            # long a result waits before it is sent.
            for event in link.poll(_POLL_S):
                self._handle_event(link, event)
            self._send_rows(link)
            self._previews.send(link)
            now_s = time.monotonic()
            if now_s - self._entries_sent_s > _ENTRIES_PERIOD_S:
                self._entries_sent_s = now_s
                self._announcer.send(link)
            if now_s - self._housekeeping_s > _HOUSEKEEPING_PERIOD_S:
                self._housekeeping_s = now_s
                self._run_housekeeping(link)
            if now_s - self._cursor_stored_s > _CURSOR_PERIOD_S:
                self._store_cursor()
            self._notifier.progress(self._progress_text())
        self._publish_state(link, "stopped")
        link.close()

    def _progress_text(self) -> str:
        archive = "online" if self._archive_is_online else "away"
        return f"row {self._sent} sent, {self._cursor.upto} archived, archive {archive}"

    def _send_rows(self, link: Link) -> None:
        """Send the rows that follow, as far as the window allows."""
        upto = self._cursor.upto
        if self._archive_is_online and self._window.is_overdue(self._sent, upto):
            if self._log_limit.try_acquire():
                log.warning("row %d is not acknowledged, sent again", upto + 1)
            self._sent = upto
        for row in self._rows_to_send(link):
            link.publish(topic(self.device, "result"), row.data)
            self._sent = row.seq
            if self._archive_is_online:
                self._window.note_sent(row.seq)

    def _rows_to_send(self, link: Link) -> list[LedgerRow]:
        """Read the rows that come next; without an archive, the newest only."""
        if self._archive_is_online:
            room = min(_BURST_ROWS, self._window.room(self._sent, self._cursor.upto))
            return self._intact.following(self._sent, room) or self._row_after_hole(
                link
            )
        # Not waited for: `_sent` goes back to the cursor when the archive comes online.
        _, newest = self._ledger.span()
        after = max(self._sent, newest - _NEWEST_ROWS)
        return self._intact.newest(after, _NEWEST_ROWS)

    def _row_after_hole(self, link: Link) -> list[LedgerRow]:
        """Return the row after damaged or deleted ones, once it may be sent.

        The archive passes over rows only where our state says that we do not have them.
        So all rows before must be archived first: the state names a single row as the
        oldest, and that must be the one after the last that the archive has.
        """
        if self._sent > self._cursor.upto:
            return []
        row = self._intact.next_after(self._sent)
        if row is None:
            return []
        if row.seq > self._sent + 1 and self._hole_before != row.seq:
            self._publish_state(link, "online")
        return [row]

    def _handle_event(self, link: Link, event: Message | Published) -> None:
        """Handle what arrived; a message that is not exactly as ours is ignored."""
        if isinstance(event, Published):
            self._handle_confirmation(event)
            return
        try:
            _, name = split_topic(event.topic)
            if name.startswith(REQUESTS):
                self._admission.take(name[len(REQUESTS) + 1 :], event)
            elif event.topic == ARCHIVE_STATE:
                state = decode_canonical(event.payload, ArchiveState).state
                self._archive_is_online = state == "online"
                self._sent = self._cursor.upto
                self._window.restart(self._sent)
            # An acknowledgement that was retained may be of any time, and is no answer
            # to what was sent now.
            elif not event.is_retained:
                self._handle_ack(link, decode_canonical(event.payload, Ack))
        except PayloadInvalid as error:
            if self._log_limit.try_acquire():
                log.warning("topic=%s ignored: %s", event.topic, error)

    def _handle_confirmation(self, confirmation: Published) -> None:
        self._announcer.confirm(confirmation.message_id)
        if confirmation.reason_code >= REASON_FAILURE:
            self._monitor.report("broker-refuses")
            log.error(
                "device=%s the broker refuses results reason=0x%02x; check its access "
                "list",
                self.device,
                confirmation.reason_code,
            )

    def _handle_ack(self, link: Link, ack: Ack) -> None:
        """Move the cursor if the archive holds the very row that we hold."""
        if not self._is_believed(ack):
            return
        # Without `resume` the cursor only moves forward: acknowledgements may arrive
        # late. With it the archive says where it stands, which may be further back.
        if ack.resume and ack.upto < self._cursor.upto:
            self._monitor.report("archive-went-back")
            log.error(
                "the archive has acknowledged row %d and holds only %d now; the rows "
                "between are sent again as far as they are kept here",
                self._cursor.upto,
                ack.upto,
            )
        self._window.note_acknowledged(ack.upto, self._sent, self._cursor.upto)
        if ack.resume or ack.upto > self._cursor.upto:
            self._cursor = msgspec.structs.replace(
                self._cursor, upto=ack.upto, hash=ack.hash
            )
            self._sent = max(self._sent, ack.upto)
            if self._hole_before is not None:
                # Taken back as soon as it is passed, or the archive went back: a state
                # that names too late a row could make it pass over rows that we have.
                self._publish_state(link, "online")
        if ack.resume:
            self._archive_is_online = True
            if self._sent > ack.upto:
                self._window.note_hole()
            self._sent = ack.upto
            oldest, _ = self._ledger.span()
            if ack.upto + 1 < oldest:
                # Rows that it asks for are deleted. Our state names the oldest row we
                # have, so that it can go on from there and record the hole.
                self._publish_state(link, "online")

    def _is_believed(self, ack: Ack) -> bool:
        """Whether an acknowledgement fits this ledger; log what does not."""
        oldest, newest = self._ledger.span()
        if ack.epoch != self._ledger.epoch:
            if self._log_limit.try_acquire():
                log.warning("acknowledgement of %s:%d ignored", ack.epoch, ack.upto)
            return False
        if ack.upto > newest:
            self._monitor.report("archive-disagrees")
            if self._log_limit.try_acquire():
                log.error(
                    "the archive holds row %d, the ledger ends with %d; if it was "
                    "restored from a copy, give it a new folder",
                    ack.upto,
                    newest,
                )
            return False
        # A row before the oldest one cannot be compared: it was deleted.
        is_deleted_row = ack.resume and ack.upto < oldest
        if self._ledger.sha256(ack.upto) != ack.hash and not is_deleted_row:
            self._monitor.report("archive-disagrees")
            self._window.note_dispute()
            if not self._archive_is_online:
                # It listens, though its state did not arrive as it was sent. Without
                # the rows from the cursor on, it could never put the row right.
                self._archive_is_online, self._sent = True, self._cursor.upto
            log.error(
                "the archive holds another row %d than this ledger; it will be sent "
                "again",
                ack.upto,
            )
            return False
        return True

    def _run_housekeeping(self, link: Link) -> None:
        """Do what is due once per second: alarms, the inbox, state, and metrics."""
        if not self._ledger.is_in_place:
            self._say_that_the_ledger_is_gone(link)
        for alarm in self._update_alarms():
            log.warning("alarm=%s until=%s %s", alarm.code, alarm.until, alarm.text)
            self._admission.hand_over(alarm)
        self._admission.delete_taken()
        if self._published_status != self._monitor.device_status():
            self._publish_state(link, "online")
        metrics = self._monitor.metrics(self._cursor.upto)
        link.publish(topic(self.device, "metrics"), encode(metrics), qos=0)

    def _say_that_the_ledger_is_gone(self, link: Link) -> None:
        """End with an alarm in the last state: no row can be written about it."""
        self._monitor.report("ledger-gone")
        self._update_alarms()
        self._publish_state(link, "stopped")
        link.close()
        raise LedgerMoved(
            f"{self._folder / LEDGER_FILE}: the ledger was moved, replaced or deleted; "
            "start again to publish the one that is there now"
        )

    def _update_alarms(self) -> list[Alarm]:
        """Return the alarms of delivery that begin or end now."""
        return self._monitor.update_alarms(
            archive_is_online=self._archive_is_online,
            unrecorded_requests=self._admission.unrecorded,
        )

    def _publish_state(self, link: Link, state: Literal["online", "stopped"]) -> None:
        """Publish the device's state, retained."""
        state_topic = topic(self.device, "state")
        link.publish(state_topic, self._state_message(state), is_retained=True)

    def _state_message(self, state: Literal["online", "offline", "stopped"]) -> bytes:
        oldest, newest = self._ledger.span()
        next_row = self._intact.next_after(self._cursor.upto)
        self._hole_before = None
        if next_row is not None and next_row.seq > max(oldest, self._cursor.upto + 1):
            self._hole_before = oldest = next_row.seq
        self._published_status = is_paused, alarms = self._monitor.device_status()
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

    def _store_cursor(self) -> None:
        """Write the cursor to disk; a full disk is logged, since no row is lost."""
        now_s = self._cursor_stored_s = time.monotonic()
        is_steady = now_s - self._trouble_s > 2 * SHORT_S
        self._cursor = msgspec.structs.replace(
            self._cursor,
            announced=self._announcer.announced,
            trouble="" if is_steady else self._trouble,
        )
        try:
            write_cursor(self._folder, self._cursor)
        except OSError as error:
            log.error("device=%s the cursor is not stored: %s", self.device, error)
