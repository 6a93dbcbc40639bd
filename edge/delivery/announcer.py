"""Send the ledger's entries on topics of their own, for subscribers that listen now.

Entries also go to the archive as rows, like everything in the ledger. In addition,
alarms and the answers to commands are sent here at once. They are sent again where the
connection broke before the broker had them.
"""

from __future__ import annotations

from edge.ledger.reader import LedgerReader
from edge.ledger.rows import LedgerRow
from edge.mqtt import RESPONSES, Link, topic
from edge.schema.codec import PayloadInvalid, encode
from edge.schema.entries import Alarm, Audit, Entry, read_row
from edge.schema.requests import COMMANDS, Response

MAX_REPEATED_ENTRIES = 100  # sent again where it is not known which ones were sent
RESPONSE_EXPIRY_S = 300  # after this time the broker drops an answer
_MAX_ENTRIES_PER_SEND = 20


class Announcer:
    """Sends entries on their own topics. Used from the publisher's thread."""

    def __init__(self, ledger: LedgerReader, announced: int | None) -> None:
        """`announced`: row of the last entry that was sent; None where not known."""
        self._ledger = ledger
        if announced is None:
            _, newest = ledger.span()
            announced = max(0, newest - MAX_REPEATED_ENTRIES)
        # `_sent` is ahead of `announced` by what the broker has not confirmed yet.
        self.announced = self._sent = announced
        self._unconfirmed: dict[int, int] = {}  # message id to row

    def restart(self) -> None:
        """Begin on a new connection: send again what the broker did not confirm."""
        self._sent = self.announced
        self._unconfirmed.clear()

    def send(self, link: Link) -> None:
        """Send the entries that follow."""
        entries = self._ledger.state.entries(self._sent, _MAX_ENTRIES_PER_SEND)
        for seq, data in entries:
            row = LedgerRow(seq, data, self._ledger.sha256(seq) or "")
            # What the disk has altered goes nowhere; the publisher names such a row.
            message_id = self._send_entry(link, data) if row.is_intact else None
            self._sent = seq
            if message_id is not None:
                self._unconfirmed[message_id] = seq
        if not self._unconfirmed:
            self.announced = self._sent

    def confirm(self, message_id: int) -> None:
        """Note that the broker has a message; ids of other messages are ignored."""
        seq = self._unconfirmed.pop(message_id, None)
        if seq is not None:
            self.announced = max(self.announced, seq)

    def _send_entry(self, link: Link, data: bytes) -> int | None:
        """Send one entry; return its message id, None if it has no topic of its own."""
        try:
            row = read_row(data)
        except PayloadInvalid:  # of a later version; the archive gets it as a row
            return None
        if not isinstance(row, Entry):
            return None
        if isinstance(row.entry, Alarm):
            return link.publish(topic(row.device, "alarm"), data)
        if isinstance(row.entry, Audit):
            return _send_response(link, row, row.entry)
        return None


def _send_response(link: Link, row: Entry, audit: Audit) -> int | None:
    """Answer a request that has an id and a topic to answer on."""
    if audit.request is None or audit.name not in COMMANDS:
        return None
    response = Response(
        device=row.device,
        id=audit.request,
        outcome=audit.outcome,
        text=audit.text,
        row=row.seq,
        utc=row.utc,
    )
    return link.publish(
        topic(row.device, f"{RESPONSES}/{audit.name}"),
        encode(response),
        correlation=audit.request.encode(),
        expires_s=RESPONSE_EXPIRY_S,
    )
