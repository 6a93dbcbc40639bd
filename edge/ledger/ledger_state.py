"""What the rows of a ledger add up to: runs, active alarms, requests, the inbox.

The rows alone would say all of it, but only to somebody who reads them from the first
one on, and old rows are deleted. So four small tables hold the sum:

- `entries`: which rows are entries, so that they are found without decoding results;
- `commands`: the requests that were admitted, and their last outcome;
- `alarms`: the alarms that are not over;
- `marks`: single values: whether examination is paused, how far the last run is, and
  how far the inbox was taken over.

The invariant: the tables say what the rows say. It holds because they lie in the same
file and change in the same transaction as the row (see `Ledger.append_all`). A process
may be killed at any moment: either both are there or neither.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from edge.ledger.run_progress import Progress, after_frame, after_mark
from edge.schema.codec import decode, encode
from edge.schema.entries import Alarm, Audit, EntryContent, RunMark
from edge.schema.messages import ActiveAlarm
from edge.schema.results import FrameResult

# Whether examination is paused once the command was carried out.
_PAUSED_AFTER = {"start": False, "resume": False, "stop": True, "pause": True}
# A request that is replayed is recognised by its id. The bound keeps the table small.
# It may forget: a request older than this many others has long expired.
MAX_REMEMBERED_REQUESTS = 100_000


@dataclass(frozen=True, slots=True)
class InboxPosition:
    """How far the run process has taken over items from the inbox with id `inbox`."""

    inbox: str
    number: int


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """A request that was admitted: its command, last outcome, and row that says so."""

    id: str
    name: str
    outcome: str
    row: int


class LedgerState:
    """The tables beside the rows, for the writer of a ledger and for its readers."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def create(self) -> None:
        """Create the tables that are missing.

        In a ledger of an earlier version they begin empty. They are not filled from its
        rows: those versions had no entries, so there is nothing to add up.
        """
        for name, columns in _TABLES.items():
            self._db.execute(f"CREATE TABLE IF NOT EXISTS {name} ({columns}) STRICT")

    @property
    def exists(self) -> bool:
        """Whether the ledger has these tables; one of an earlier version has not."""
        found = self._db.execute("SELECT name FROM sqlite_master").fetchall()
        return _TABLES.keys() <= {name for (name,) in found}

    def record(self, seq: int, content: FrameResult | EntryContent) -> None:
        """Add what row `seq` says; called in the transaction that writes the row."""
        if isinstance(content, FrameResult):
            progress = self.progress
            # A frame without a run was in work when the run ended. It may still have
            # used up numbers of tracks and events: `after_frame` keeps these.
            if progress is not None and content.run in (progress.run, None):
                self._set_progress(after_frame(progress, seq, content))
        else:
            self._record_entry(seq, content)

    def _record_entry(self, seq: int, content: EntryContent) -> None:
        # The kind is stored beside the number so that entries can be selected by it
        # without decoding their rows.
        kind = content.__struct_config__.tag
        self._db.execute("INSERT INTO entries VALUES (?, ?)", (seq, kind))
        if isinstance(content, Alarm):
            self._record_alarm(seq, content)
        # A refused request is no used id: its sender may correct and repeat it.
        elif isinstance(content, Audit) and content.outcome != "refused":
            self._record_command(seq, content)
        elif isinstance(content, RunMark):
            if content.phase == "start" or content.is_waiting:
                self._set_mark("paused", "1" if content.is_waiting else "0")
            self._set_progress(after_mark(self.progress, seq, content))

    def record_inbox_position(self, position: InboxPosition) -> None:
        """Note how far the inbox was taken over, in the same transaction as its rows.

        That makes each item take effect once: if the process dies, either the row and
        the position are on disk, or the item is taken again and nothing was done yet.
        """
        self._set_mark("inbox", position.inbox)
        self._set_mark("taken", str(position.number))

    def forget_pruned(self) -> None:
        """Delete what `entries` says of rows that were deleted."""
        self._db.execute("DELETE FROM entries WHERE seq < (SELECT min(seq) FROM rows)")

    def entries(self, after: int, limit: int) -> list[tuple[int, bytes]]:
        """Return number and bytes of entries that follow row `after`, oldest first."""
        return self._db.execute(
            "SELECT seq, data FROM entries JOIN rows USING (seq) WHERE seq > ? "
            "ORDER BY seq LIMIT ?",
            (after, limit),
        ).fetchall()

    def inbox_position(self, inbox: str) -> int:
        """Return the number of the last item that was taken over from this inbox.

        0 for an inbox with another id: a damaged inbox is replaced by a new one, which
        counts from 1 again.
        """
        marks = dict(self._db.execute("SELECT key, value FROM marks").fetchall())
        return int(marks.get("taken", 0)) if marks.get("inbox") == inbox else 0

    @property
    def is_paused(self) -> bool:
        """Whether the last command of this kind was to stop or to pause."""
        found = self._db.execute(
            "SELECT value FROM marks WHERE key = 'paused'"
        ).fetchone()
        return found is not None and found[0] == "1"

    @property
    def progress(self) -> Progress | None:
        """How far the last run is; None where there was none."""
        found = self._db.execute(
            "SELECT value FROM marks WHERE key = 'progress'"
        ).fetchone()
        return None if found is None else decode(found[0].encode(), Progress)

    def _set_progress(self, progress: Progress | None) -> None:
        if progress is not None:
            self._set_mark("progress", encode(progress).decode())

    def find_request(self, request_id: str) -> RecordedRequest | None:
        """Return what became of the request; None if none with this id was admitted."""
        found = self._db.execute(
            "SELECT id, name, outcome, seq FROM commands WHERE id = ?", (request_id,)
        ).fetchone()
        return None if found is None else RecordedRequest(*found)

    def unfinished_requests(self) -> list[RecordedRequest]:
        """Return the requests that were begun and not finished."""
        return [
            RecordedRequest(*row)
            for row in self._db.execute(
                "SELECT id, name, outcome, seq FROM commands "
                "WHERE outcome = 'accepted' ORDER BY seq"
            ).fetchall()
        ]

    def active_alarms(self) -> Iterator[ActiveAlarm]:
        """Yield the alarms that are not over."""
        for row in self._db.execute(
            "SELECT severity, code, text, since, seq FROM alarms ORDER BY code"
        ).fetchall():
            severity, code, text, since, seq = row
            yield ActiveAlarm(
                severity=severity,
                code=code,
                text=text,
                since=datetime.fromisoformat(since),
                row=seq,
            )

    def _record_alarm(self, seq: int, alarm: Alarm) -> None:
        if alarm.until is not None:
            self._db.execute("DELETE FROM alarms WHERE code = ?", (alarm.code,))
            return
        since = alarm.since.isoformat()
        row = (alarm.code, alarm.severity, alarm.text, since, seq)
        self._db.execute("INSERT OR REPLACE INTO alarms VALUES (?, ?, ?, ?, ?)", row)

    def _record_command(self, seq: int, audit: Audit) -> None:
        # A request has two rows where it lasts (`accepted`, then `done` or `failed`).
        # The second one replaces the outcome but keeps `number`, the order of arrival,
        # by which old requests are forgotten.
        self._db.execute(
            "INSERT INTO commands (id, name, outcome, seq) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (id) DO UPDATE SET outcome = excluded.outcome, "
            "seq = excluded.seq",
            (audit.request, audit.name, audit.outcome, seq),
        )
        self._db.execute(
            "DELETE FROM commands WHERE number <= "
            "(SELECT max(number) FROM commands) - ?",
            (MAX_REMEMBERED_REQUESTS,),
        )
        if audit.outcome == "done" and audit.name in _PAUSED_AFTER:
            self._set_mark("paused", "1" if _PAUSED_AFTER[audit.name] else "0")

    # One table of texts for values of which there is only one: a later version can add
    # a value without changing the tables of ledgers that exist.
    def _set_mark(self, key: str, value: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO marks VALUES (?, ?)", (key, value))


# Name to columns: the one list of the tables, for `create` and `exists`.
_TABLES = {
    "entries": "seq INTEGER PRIMARY KEY, kind TEXT NOT NULL",
    "commands": "number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, "
    "name TEXT NOT NULL, outcome TEXT NOT NULL, seq INTEGER NOT NULL",
    "alarms": "code TEXT PRIMARY KEY, severity TEXT NOT NULL, text TEXT NOT NULL, "
    "since TEXT NOT NULL, seq INTEGER NOT NULL",
    "marks": "key TEXT PRIMARY KEY, value TEXT NOT NULL",
}
