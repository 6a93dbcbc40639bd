"""What the tests of commands share: requests, messages and an instrument."""

from __future__ import annotations

from concurrent.futures import Future
from datetime import datetime, timedelta, timezone
from pathlib import Path

from edge.ledger.reader import LedgerReader
from edge.mqtt import Message, topic
from edge.remote.command_executor import CommandFailed, Done, Handler
from edge.schema.codec import encode
from edge.schema.entries import Audit, Entry, Note, RunMark, read_row
from edge.schema.requests import CommandName, NoteRequest, Request, request_type
from edge.schema.results import Result

DEVICE = "scope-01"
START = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


class Clock:
    """Wall and monotonic time, moved by hand."""

    def __init__(self) -> None:
        self.now, self.now_s = START, 1000.0

    def move(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        self.now_s += seconds

    def utc(self) -> datetime:
        return self.now

    def monotonic(self) -> float:
        return self.now_s


def request_of(
    clock: Clock, name: CommandName, number: int, lives_s: float = 20
) -> Request:
    fields = {
        "id": f"request-{number:08d}",
        "issued": clock.now,
        "expires": clock.now + timedelta(seconds=lives_s),
        "by": "anna",
    }
    if name == "note":
        return NoteRequest(**fields, text=f"note {number}")  # type: ignore[arg-type]
    return request_type(name)(**fields)  # type: ignore[arg-type]


def message_of(
    name: str, request: Request | bytes, **changes: object
) -> tuple[str, Message]:
    payload = request if isinstance(request, bytes) else encode(request)
    fields: dict[str, object] = {
        "topic": topic(DEVICE, f"cmd/req/{name}"),
        "payload": payload,
        "is_retained": False,
        "properties": (("client", "command-1"),),
    }
    return name, Message(**(fields | changes))  # type: ignore[arg-type]


class NotingHandlers:
    """Handlers of every command that note what they were made to do."""

    def __init__(self) -> None:
        self.did: list[str] = []
        self.lasting: dict[str, Future[str]] = {}
        self.table: dict[CommandName, Handler] = {
            "start": self.start,
            "pause": self.pause,
            "resume": self.resume,
            "stop": self.stop,
            "note": self.note,
            "snapshot": self.snapshot,
            "self-test": self.self_test,
        }

    def start(self, request: Request) -> Done:
        return Done("started", then=lambda: self.did.append("start"))

    def pause(self, request: Request) -> Done:
        return Done("paused", then=lambda: self.did.append("pause"))

    def resume(self, request: Request) -> Done:
        return Done("resumed", then=lambda: self.did.append("resume"))

    def stop(self, request: Request) -> Done:
        return Done("stopped", then=lambda: self.did.append("stop"))

    def note(self, request: NoteRequest) -> Done:
        return Done("noted", rows=(Note(text=request.text, by=request.by),))

    def snapshot(self, request: Request) -> Future[str]:
        self.lasting[request.id] = Future()
        return self.lasting[request.id]

    def self_test(self, request: Request) -> Future[str]:
        raise CommandFailed("the engine is gone")


def data_in(folder: Path) -> list[bytes]:
    reader = LedgerReader(folder)
    data = [row.data for row in reader.rows(0, 100_000)]
    reader.close()
    return data


def rows_in(folder: Path) -> list[Result | Entry]:
    return [read_row(data) for data in data_in(folder)]


def entries_in(folder: Path) -> list[Entry]:
    return [row for row in rows_in(folder) if isinstance(row, Entry)]


def marks_in(folder: Path) -> list[RunMark]:
    fields = [row.entry for row in entries_in(folder)]
    return [entry for entry in fields if isinstance(entry, RunMark)]


def audits_in(folder: Path) -> list[Audit]:
    fields = [row.entry for row in entries_in(folder)]
    return [entry for entry in fields if isinstance(entry, Audit)]


def notes_in(folder: Path) -> list[str]:
    """Notes, whether to a run or to none."""
    fields = [row.entry for row in entries_in(folder)]
    return [
        entry.text or ""
        for entry in fields
        if isinstance(entry, Note)
        or (isinstance(entry, RunMark) and entry.phase == "note")
    ]
