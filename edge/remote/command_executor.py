"""Carry out what was asked of the device, once, and write down what became of it.

The run process takes requests from the inbox and judges each again, by its own settings
and its own clock: it does not trust that the publisher did so. A request takes effect
once or not at all, and its rows say which:

- start, pause, resume, stop, note: the effect is a row or a mark of the ledger. It is
  written in the same transaction as the row `done` and the new position in the inbox.
- snapshot, self-test: the row `accepted` is on disk before they begin, and the row
  `done` or `failed` follows when they end. If the process dies in between, the next
  process writes `failed`.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import msgspec

from edge.clock import utc_now
from edge.errors import HemascopeError
from edge.ledger.ledger_state import InboxPosition, LedgerState
from edge.ledger.rows import RowRefused
from edge.monitoring.alarms import alarm_kind
from edge.privacy import RunRefused
from edge.remote.inbox import InboxFailed, InboxItem, read_inbox
from edge.schema.codec import PayloadInvalid, decode
from edge.schema.entries import Alarm, Audit, EntryContent, Note, RunMark
from edge.schema.requests import (
    COMMANDS,
    CommandName,
    Outcome,
    Person,
    Request,
    refusal_reason,
    request_type,
)
from edge.settings.delivery import CommandSettings

log = logging.getLogger(__name__)

_INBOX_PERIOD_S = 0.2
_ITEMS_AT_ONCE = 4  # items at a time: frames go before requests, however many there are
_COMPLAINT_PERIOD_S = 60.0
LASTS_S: dict[CommandName, float] = {"snapshot": 30.0, "self-test": 180.0}


class CommandFailed(HemascopeError):
    """A command cannot be carried out; the text says why."""


@dataclass(frozen=True, slots=True)
class Done:
    """A command is done once `rows` are written; then `then` takes effect in memory."""

    text: str
    rows: tuple[Note | RunMark, ...] = ()
    then: Callable[[], None] = field(default=lambda: None)


# What a command does. It is called in the run's main thread, between two rows, with a
# request of the type that `request_type` names for the command, and returns at once:
# `Done`, or a future of the text that ends the matter. It raises `CommandFailed` where
# the command cannot be done, and `RunRefused` where the request may name a patient.
Handler = Callable[[Any], "Done | Future[str]"]
Handlers = Mapping[CommandName, Handler]


class Append(Protocol):
    """How rows are written: all or nothing, with what was taken over."""

    def __call__(
        self, entries: Sequence[EntryContent], taken: InboxPosition | None = None
    ) -> None:
        """Append; raises `LedgerFull`."""


@dataclass(frozen=True, slots=True)
class _RunningCommand:
    """A command that is still being carried out."""

    audit: Audit
    future: Future[str]
    until_s: float


class CommandExecutor:
    """Takes requests from the inbox. Used from the run's main thread.

    Parameters
    ----------
    folder
        The ledger's; the inbox lies in it.
    state
        What the ledger's entries add up to: which requests were carried out before.
    append
        Writes rows, and how far the inbox was taken over.
    handlers
        What each command does, one for every name of `COMMANDS`.
    settings
        Which commands are allowed, and how old a request may be.
    """

    def __init__(
        self,
        folder: Path,
        state: LedgerState,
        append: Append,
        handlers: Handlers,
        settings: CommandSettings,
        *,
        utc: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Write down as failed what an earlier process left unfinished."""
        self._folder, self._state, self._append = folder, state, append
        self.handlers, self._settings = handlers, settings
        self._utc, self._monotonic = utc, monotonic
        self._begun: list[_RunningCommand] = []
        self._looked_s = self._complained_s = -_COMPLAINT_PERIOD_S
        for asked in state.unfinished_requests():
            text = f"the process ended before it was finished, see row {asked.row}"
            failed = Audit(
                name=asked.name, request=asked.id, outcome="failed", text=text
            )
            append([failed])

    def step(self) -> None:
        """Finish what has ended, and take over what waits.

        Raises
        ------
        LedgerFull
            The disk is full; what waits goes on waiting.
        """
        self._finish()
        now_s = self._monotonic()
        if now_s - self._looked_s < _INBOX_PERIOD_S:
            return
        self._looked_s = now_s
        try:
            inbox, handed = read_inbox(self._folder)
        except InboxFailed as error:
            if now_s - self._complained_s > _COMPLAINT_PERIOD_S:
                self._complained_s = now_s
                log.error("requests cannot be read: %s", error)
            return
        before = self._state.inbox_position(inbox)
        for item in [i for i in handed if i.number > before][:_ITEMS_AT_ONCE]:
            self._take(item, InboxPosition(inbox, item.number))

    def close(self) -> None:
        """Write down as failed what is not finished."""
        begun, self._begun = self._begun, []
        for one in begun:
            self._end(one.audit, "failed", "the run ended before it was finished")

    def _take(self, item: InboxItem, taken: InboxPosition) -> None:
        """Take over one item, whatever it holds: a bad one must not block the rest."""
        try:
            msgspec.convert(item.client, Person | None)
            self._take_valid(item, taken)
        except (RowRefused, msgspec.ValidationError) as error:
            self._append([_distrusted(item, str(error))], taken)

    def _take_valid(self, item: InboxItem, taken: InboxPosition) -> None:
        if item.name is None:
            self._append([_entry_of(item)], taken)
            return
        audit = Audit(
            name=item.name[:64],
            client=item.client,
            outcome="refused",
            text="",
            request_sha256=hashlib.sha256(item.data).hexdigest(),
        )
        name = next((n for n in COMMANDS if n == item.name), None)
        try:
            request = decode(item.data, request_type(name or "start"))
        except PayloadInvalid as error:
            text = str(error)[:1000]
            self._append([msgspec.structs.replace(audit, text=text)], taken)
            return
        audit = msgspec.structs.replace(audit, request=request.id, by=request.by)
        reason = self._refusal(name, request)
        if name is None or reason is not None:
            audit = msgspec.structs.replace(audit, text=reason or "no such command")
            self._append([audit], taken)
            return
        self._carry_out(name, request, audit, taken)

    def _refusal(self, name: CommandName | None, request: Request) -> str | None:
        if name is None:
            return "no such command"
        before = self._state.find_request(request.id)
        if before is not None:
            return f"replayed: this id was used before, see row {before.row}"
        return refusal_reason(
            name,
            request,
            allowed=self._settings.allow,
            now=self._utc(),
            most_age_s=self._settings.most_age_s,
        )

    def _carry_out(
        self, name: CommandName, request: Request, audit: Audit, taken: InboxPosition
    ) -> None:
        try:
            answer = self.handlers[name](request)
        except (
            RunRefused
        ) as error:  # the value may be a name, and rows cannot be erased
            self._append([_ended(audit, "refused", error.discreet)], taken)
            return
        except Exception as error:  # a command that fails costs no frame
            if not isinstance(error, HemascopeError):
                log.exception("command=%s failed", name)
            self._append([_ended(audit, "failed", str(error) or repr(error))], taken)
            return
        if isinstance(answer, Done):
            done = _ended(audit, "done", answer.text)
            self._append([*answer.rows, done], taken)
            answer.then()
        else:
            self._append([_ended(audit, "accepted", "begun")], taken)
            until_s = self._monotonic() + LASTS_S[name]
            self._begun.append(_RunningCommand(audit, answer, until_s))
        log.info("command=%s by=%s %s", name, request.by, request.id)

    def _finish(self) -> None:
        """Write down what has ended, well or not."""
        now_s = self._monotonic()
        going: list[_RunningCommand] = []
        ended, self._begun = self._begun, going
        for one in ended:
            if one.future.done() and not one.future.cancelled():
                error = one.future.exception()
                text = one.future.result() if error is None else str(error)
                self._end(one.audit, "done" if error is None else "failed", text)
            elif now_s > one.until_s or one.future.cancelled():  # two may share one
                one.future.cancel()
                limit_s = LASTS_S[_name_of(one.audit)]
                self._end(one.audit, "failed", f"not finished within {limit_s:.0f} s")
            else:
                going.append(one)

    def _end(self, audit: Audit, outcome: Outcome, text: str) -> None:
        self._append([_ended(audit, outcome, text)])


def _name_of(audit: Audit) -> CommandName:
    return next(name for name in COMMANDS if name == audit.name)


def _ended(audit: Audit, outcome: Outcome, text: str) -> Audit:
    shown = text.encode("utf-8", "replace").decode()[:1000]
    return msgspec.structs.replace(audit, outcome=outcome, text=shown)


def _entry_of(item: InboxItem) -> Alarm | Audit:
    """Decode an entry of the publisher, which may only refuse and raise alarms."""
    try:
        entry = decode(item.data, Alarm | Audit)  # type: ignore[arg-type]
    except PayloadInvalid as error:
        return _distrusted(item, str(error))
    if isinstance(entry, Audit) and entry.outcome != "refused":
        return _distrusted(item, f"the publisher claims that it is {entry.outcome}")
    if isinstance(entry, Alarm):
        kind = alarm_kind(entry.code)
        if kind is None or kind.by != "publish":
            return _distrusted(item, f"the publisher has no alarm {entry.code}")
    return entry


def _distrusted(item: InboxItem, text: str) -> Audit:
    log.error("item %d of the inbox is not trusted: %s", item.number, text)
    sha256 = hashlib.sha256(item.data).hexdigest()
    return Audit(name="", outcome="refused", text=text[:1000], request_sha256=sha256)
