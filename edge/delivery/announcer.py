"""Send the ledger's entries on topics of their own, for those who listen now.

They also go to the archive as rows, like everything in the ledger; here alarms and the
answers to commands reach people at once, and again where a connection broke.
"""

from __future__ import annotations

from edge.ledger.reader import LedgerReader
from edge.mqtt import RESPONSES, Link, topic
from edge.schema.codec import PayloadInvalid, encode
from edge.schema.entries import Alarm, Audit, Entry, read_row
from edge.schema.requests import COMMANDS, Response

MOST_REPEATED = 100  # entries told again where nobody knows which were told
ANSWER_LIVES_S = 300  # nobody waits for an answer longer
_AT_ONCE = 20


class Announcer:
    """Sends what is due. Used from the publisher's thread."""

    def __init__(self, ledger: LedgerReader, announced: int | None) -> None:
        """`announced`: the last entry that was sent; None where nobody knows."""
        self._ledger = ledger
        if announced is None:
            _, newest = ledger.span()
            announced = max(0, newest - MOST_REPEATED)
        self.announced = self._sent = announced
        self._waiting: dict[int, int] = {}

    def begin(self) -> None:
        """Begin on a new connection: send again what the last broker did not take."""
        self._sent = self.announced
        self._waiting.clear()

    def send(self, link: Link) -> None:
        """Send the entries that follow."""
        for seq, data in self._ledger.state.entries(self._sent, _AT_ONCE):
            message = self._announce(link, data)
            self._sent = seq
            if message is not None:
                self._waiting[message] = seq
        if not self._waiting:
            self.announced = self._sent

    def take(self, message_id: int) -> None:
        """Note that the broker has a message."""
        seq = self._waiting.pop(message_id, None)
        if seq is not None:
            self.announced = max(self.announced, seq)

    def _announce(self, link: Link, data: bytes) -> int | None:
        """Send one entry; return its message id, None if it has no topic of its own."""
        try:
            row = read_row(data)
        except PayloadInvalid:  # a later version's; the archive takes it as it is
            return None
        if not isinstance(row, Entry):
            return None
        if isinstance(row.entry, Alarm):
            return link.publish(topic(row.device, "alarm"), data)
        if isinstance(row.entry, Audit):
            return _answer(link, row, row.entry)
        return None


def _answer(link: Link, row: Entry, audit: Audit) -> int | None:
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
        expires_s=ANSWER_LIVES_S,
    )
