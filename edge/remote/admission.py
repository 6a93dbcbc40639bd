"""The publisher's door for requests: admit to the inbox, or refuse and say why.

Everything that arrives is judged, and a row of the ledger will say how. Only a flood
does not get a row each: refusals have a budget, beyond which they are counted and the
next row carries the count.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from edge.clock import utc_now
from edge.errors import HemascopeError
from edge.ledger.ledger_state import LedgerState
from edge.mqtt import Message
from edge.rate_limit import RateLimit
from edge.remote.inbox import Inbox, InboxFailed, InboxFull
from edge.schema.codec import PayloadInvalid, decode
from edge.schema.entries import Alarm, Audit
from edge.schema.requests import (
    COMMANDS,
    MAX_REQUEST_BYTES,
    CommandName,
    Person,
    Request,
    type_of,
    why_refused,
)
from edge.settings.delivery import CommandSettings

log = logging.getLogger(__name__)

REFUSALS_AT_ONCE, REFUSALS_PER_S = 20, 0.1  # that get a row each
REQUESTS_AT_ONCE, REQUESTS_PER_S = 10, 1.0  # that are admitted


class RequestRefused(HemascopeError):
    """A request is not admitted; the text says why."""


class Admission:
    """Judges requests. Used from the publisher's thread."""

    def __init__(
        self,
        folder: Path,
        state: LedgerState,
        settings: CommandSettings,
        *,
        utc: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`folder` and `state`: of the ledger that the run process writes."""
        self._folder, self._standing, self._settings = folder, state, settings
        self._utc = utc
        self._opened: Inbox | None = None
        self._requests = RateLimit(REQUESTS_AT_ONCE, REQUESTS_PER_S, monotonic)
        self._refusals = RateLimit(REFUSALS_AT_ONCE, REFUSALS_PER_S, monotonic)
        self._complaints = RateLimit(3, 1 / 60, monotonic)
        self.unrecorded = 0

    def take(self, name: str, message: Message) -> None:
        """Judge one message that asks for command `name`. Never raises."""
        if message.is_retained and not message.payload:
            return  # somebody deletes what was retained
        client = _plain_or_none(dict(message.properties).get("client"))
        request: Request | None = None
        try:
            command = _known(name)
            _check_form(message)
            request = decode(message.payload, type_of(command))
            self._judge(command, request, message)
            self._inbox().hand_request(command, request.id, message.payload, client)
        except (RequestRefused, PayloadInvalid, InboxFull) as error:
            self._refuse(name, client, request, message, str(error))
        except InboxFailed as error:
            self._miss(str(error))

    def tell(self, alarm: Alarm) -> None:
        """Hand an alarm of the publisher over; one that cannot be is logged."""
        try:
            self._inbox().hand_entry(alarm)
        except HemascopeError as error:
            log.error("alarm=%s is not recorded: %s", alarm.code, error)

    def clear(self) -> None:
        """Delete from the inbox what the run process has taken over."""
        try:
            inbox = self._inbox()
            inbox.clear(self._standing.taken(inbox.id))
        except InboxFailed as error:
            if self._complaints.spend():
                log.error("%s", error)

    def close(self) -> None:
        """Close the inbox."""
        if self._opened is not None:
            self._opened.close()

    def _inbox(self) -> Inbox:
        """Open the inbox when first needed: results must flow without it."""
        if self._opened is None:
            self._opened = Inbox(self._folder)
        return self._opened

    def _judge(self, command: CommandName, request: Request, message: Message) -> None:
        """Raise `RequestRefused` where a well-formed request is not admitted."""
        if message.is_retained:
            raise RequestRefused(
                "retained: it would be asked again at every connection; publish an "
                "empty retained message to this topic, then ask without retain"
            )
        correlation = message.correlation
        if correlation is not None and correlation != request.id.encode():
            raise RequestRefused("its correlation data are not its id")
        reason = why_refused(
            command,
            request,
            allowed=self._settings.allow,
            now=self._utc(),
            most_age_s=self._settings.most_age_s,
        )
        if reason is not None:
            raise RequestRefused(reason)
        before = self._standing.asked(request.id)
        if before is not None:
            raise RequestRefused(
                f"replayed: this id was used before, see row {before.row} "
                f"({before.outcome})"
            )
        if self._inbox().holds(request.id):
            raise RequestRefused("replayed: this id was used before and waits")
        if not self._requests.spend():
            raise RequestRefused("too many requests, one per second is taken")

    def _refuse(
        self,
        name: str,
        client: str | None,
        request: Request | None,
        message: Message,
        reason: str,
    ) -> None:
        """Hand a refusal over for the ledger, or count it if there are too many."""
        if not self._refusals.spend():
            self.unrecorded += 1
            return
        log.warning("command=%s refused: %s", _shown(name), reason)
        refusal = Audit(
            name=_shown(name)[:64],
            request=None if request is None else request.id,
            by=None if request is None else request.by,
            client=client,
            outcome="refused",
            text=_shown(reason)[:1000],
            request_sha256=hashlib.sha256(message.payload).hexdigest(),
            unrecorded=self.unrecorded,
        )
        try:
            self._inbox().hand_entry(refusal)
        except HemascopeError as error:
            self._miss(str(error))
        else:
            self.unrecorded = 0

    def _miss(self, reason: str) -> None:
        """Count what could not be handed over, and say so in the log."""
        self.unrecorded += 1
        if self._refusals.spend():
            log.error("a request is not recorded: %s", reason)


def _known(name: str) -> CommandName:
    for command in COMMANDS:
        if command == name:
            return command
    raise RequestRefused(f"no such command; expected one of {', '.join(COMMANDS)}")


def _check_form(message: Message) -> None:
    """Raise `RequestRefused` for what no request may be, before it is decoded."""
    if len(message.payload) > MAX_REQUEST_BYTES:
        raise RequestRefused(
            f"{len(message.payload)} bytes, a request has at most {MAX_REQUEST_BYTES}"
        )
    if _repeats_a_key(message.payload):
        raise RequestRefused("a key stands in it twice")


def _repeats_a_key(payload: bytes) -> bool:
    """Whether two readers could read it differently; what is no JSON does not."""

    def check(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise RequestRefused
        return dict(pairs)

    try:
        json.loads(payload, object_pairs_hook=check)
    except RequestRefused:
        return True
    except (ValueError, RecursionError):
        return False
    return False


def _plain_or_none(text: str | None) -> str | None:
    """Return a sender's name if it is one."""
    try:
        return msgspec.convert(text, Person | None)
    except msgspec.ValidationError:
        return None


def _shown(text: str) -> str:
    """Return text without what could command a terminal."""
    return re.sub(r"[^\x20-\x7e\xa0-\ud7ff\ue000-\uffff]", "?", text)
