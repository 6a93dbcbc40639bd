"""What the ledger's entries add up to: what is not over, and what was asked before.

Kept in the ledger's file and changed in the transaction that writes the row, so that it
never says anything else than the rows do, whatever dies when.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from edge.ledger.run_progress import Progress, after_frame, after_mark
from edge.schema.codec import decode, encode
from edge.schema.entries import Alarm, Audit, Entered, RunMark
from edge.schema.messages import ActiveAlarm
from edge.schema.results import FrameResult

_HOLDS = {"start": False, "resume": False, "stop": True, "pause": True}
MOST_IDS = 100_000  # requests remembered; an expired one is refused without this


@dataclass(frozen=True, slots=True)
class InboxPosition:
    """How far the run process has taken over from the inbox named `inbox`."""

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
    """These tables of a ledger's file, for its writer and its readers."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def create(self) -> None:
        """Create the tables; those of an older ledger are empty."""
        for table in _TABLES:
            self._db.execute(table)

    @property
    def exists(self) -> bool:
        """Whether the ledger has these tables; one of an earlier version has not."""
        found = self._db.execute(
            "SELECT count(*) FROM sqlite_master WHERE name IN "
            "('entries', 'commands', 'alarms', 'marks')"
        ).fetchone()
        return bool(found[0] == len(_TABLES))

    def record(self, seq: int, content: FrameResult | Entered) -> None:
        """Note row `seq`; called within the transaction that writes it."""
        if isinstance(content, FrameResult):
            before = self.progress
            if before is not None and content.run in (before.run, None):
                self._keep(after_frame(before, seq, content))
        else:
            self._record_entry(seq, content)

    def _record_entry(self, seq: int, entered: Entered) -> None:
        kind = entered.__struct_config__.tag
        self._db.execute("INSERT INTO entries VALUES (?, ?)", (seq, kind))
        if isinstance(entered, Alarm):
            self._record_alarm(seq, entered)
        elif isinstance(entered, Audit) and entered.outcome != "refused":
            self._record_command(seq, entered)
        elif isinstance(entered, RunMark):
            if entered.phase == "start" or entered.is_waiting:
                self._mark("paused", "1" if entered.is_waiting else "0")
            self._keep(after_mark(self.progress, seq, entered))

    def take(self, taken: InboxPosition) -> None:
        """Note how far the inbox was taken over, within the same transaction."""
        self._mark("inbox", taken.inbox)
        self._mark("taken", str(taken.number))

    def forget_pruned(self) -> None:
        """Forget which rows were entries where the rows are gone."""
        self._db.execute("DELETE FROM entries WHERE seq < (SELECT min(seq) FROM rows)")

    def entries(self, after: int, limit: int) -> list[tuple[int, bytes]]:
        """Return number and bytes of entries that follow row `after`, oldest first."""
        return self._db.execute(
            "SELECT seq, data FROM entries JOIN rows USING (seq) WHERE seq > ? "
            "ORDER BY seq LIMIT ?",
            (after, limit),
        ).fetchall()

    def taken(self, inbox: str) -> int:
        """Return the number up to which this inbox was taken over."""
        marks = dict(self._db.execute("SELECT key, value FROM marks").fetchall())
        return int(marks.get("taken", 0)) if marks.get("inbox") == inbox else 0

    @property
    def is_paused(self) -> bool:
        """Whether the last such command was to stop or pause."""
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

    def _keep(self, progress: Progress | None) -> None:
        if progress is not None:
            self._mark("progress", encode(progress).decode())

    def asked(self, request: str) -> RecordedRequest | None:
        """Return what became of a request with this id; None if it was not admitted."""
        found = self._db.execute(
            "SELECT id, name, outcome, seq FROM commands WHERE id = ?", (request,)
        ).fetchone()
        return None if found is None else RecordedRequest(*found)

    def unfinished(self) -> list[RecordedRequest]:
        """Return the requests that were begun and not finished."""
        return [
            RecordedRequest(*row)
            for row in self._db.execute(
                "SELECT id, name, outcome, seq FROM commands "
                "WHERE outcome = 'accepted' ORDER BY seq"
            ).fetchall()
        ]

    def alarms(self) -> Iterator[ActiveAlarm]:
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
        self._db.execute(
            "INSERT INTO commands (id, name, outcome, seq) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (id) DO UPDATE SET outcome = excluded.outcome, "
            "seq = excluded.seq",
            (audit.request, audit.name, audit.outcome, seq),
        )
        self._db.execute(
            "DELETE FROM commands WHERE number <= "
            "(SELECT max(number) FROM commands) - ?",
            (MOST_IDS,),
        )
        if audit.outcome == "done" and audit.name in _HOLDS:
            self._mark("paused", "1" if _HOLDS[audit.name] else "0")

    def _mark(self, key: str, value: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO marks VALUES (?, ?)", (key, value))


_TABLES = (
    "CREATE TABLE IF NOT EXISTS entries (seq INTEGER PRIMARY KEY, kind TEXT NOT NULL) "
    "STRICT",
    "CREATE TABLE IF NOT EXISTS commands (number INTEGER PRIMARY KEY, "
    "id TEXT NOT NULL UNIQUE, name TEXT NOT NULL, outcome TEXT NOT NULL, "
    "seq INTEGER NOT NULL) STRICT",
    "CREATE TABLE IF NOT EXISTS alarms (code TEXT PRIMARY KEY, severity TEXT NOT NULL, "
    "text TEXT NOT NULL, since TEXT NOT NULL, seq INTEGER NOT NULL) STRICT",
    "CREATE TABLE IF NOT EXISTS marks (key TEXT PRIMARY KEY, value TEXT NOT NULL) "
    "STRICT",
)
