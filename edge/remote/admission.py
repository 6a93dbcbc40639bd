"""Admission control: the publisher puts a request into the inbox, or refuses it.

Every request gets a row in the ledger that says what became of it. Refusals are the
exception, where there are too many: beyond a rate they are only counted, and the next
refusal with a row carries the count. Else anybody who may publish could fill the disk.
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
    refusal_reason,
    request_type,
)
from edge.settings.delivery import CommandSettings

log = logging.getLogger(__name__)

REFUSAL_BURST, REFUSALS_PER_S = 20, 0.1  # refusals that get a row each
REQUEST_BURST, REQUESTS_PER_S = 10, 1.0  # requests that are admitted


class RequestRefused(HemascopeError):
    """A request is not admitted; the text says why."""


class Admission:
    """Admits or refuses requests. Used from the publisher's thread."""

    def __init__(
        self,
        folder: Path,
        state: LedgerState,
        settings: CommandSettings,
        *,
        utc: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`folder` and `state`: those of the ledger that the run process writes."""
        self._folder, self._state, self._settings = folder, state, settings
        self._utc = utc
        self._open_inbox: Inbox | None = None
        self._requests = RateLimit(REQUEST_BURST, REQUESTS_PER_S, monotonic)
        self._refusals = RateLimit(REFUSAL_BURST, REFUSALS_PER_S, monotonic)
        self._log_limit = RateLimit(3, 1 / 60, monotonic)
        self.unrecorded = 0

    def take(self, name: str, message: Message) -> None:
        """Admit or refuse a message that asks for command `name`. Never raises."""
        if message.is_retained and not message.payload:
            return  # an empty one deletes a retained message
        client = _client_name(dict(message.properties).get("client"))
        request: Request | None = None
        try:
            command = _command_name(name)
            _check_form(message)
            request = decode(message.payload, request_type(command))
            self._check(command, request, message)
            self._inbox().add_request(command, request.id, message.payload, client)
        except (RequestRefused, PayloadInvalid, InboxFull) as error:
            self._refuse(name, client, request, message, str(error))
        except InboxFailed as error:
            self._count_unrecorded(str(error))

    def hand_over(self, alarm: Alarm) -> None:
        """Put an alarm of the publisher into the inbox; if that fails, it is logged."""
        try:
            self._inbox().add_entry(alarm)
        except HemascopeError as error:
            log.error("alarm=%s is not recorded: %s", alarm.code, error)

    def delete_taken(self) -> None:
        """Delete from the inbox what the run process has taken over."""
        try:
            inbox = self._inbox()
            inbox.delete_taken(self._state.inbox_position(inbox.id))
        except InboxFailed as error:
            if self._log_limit.try_acquire():
                log.error("%s", error)

    def close(self) -> None:
        """Close the inbox."""
        if self._open_inbox is not None:
            self._open_inbox.close()

    def _inbox(self) -> Inbox:
        """Open the inbox when it is first needed: results are sent without it too."""
        if self._open_inbox is None:
            self._open_inbox = Inbox(self._folder)
        return self._open_inbox

    def _check(self, command: CommandName, request: Request, message: Message) -> None:
        """Raise `RequestRefused` where a well-formed request is not admitted."""
        if message.is_retained:
            raise RequestRefused(
                "retained: it would arrive again at every connection; publish an empty "
                "retained message to this topic, then send it again without retain"
            )
        correlation = message.correlation
        if correlation is not None and correlation != request.id.encode():
            raise RequestRefused("its correlation data differ from its id")
        reason = refusal_reason(
            command,
            request,
            allowed=self._settings.allow,
            now=self._utc(),
            most_age_s=self._settings.most_age_s,
        )
        if reason is not None:
            raise RequestRefused(reason)
        earlier = self._state.find_request(request.id)
        if earlier is not None:
            raise RequestRefused(
                f"replayed: this id was used before, see row {earlier.row} "
                f"({earlier.outcome})"
            )
        if self._inbox().contains(request.id):
            raise RequestRefused("replayed: a request with this id waits already")
        if not self._requests.try_acquire():
            raise RequestRefused("too many requests, one per second is admitted")

    def _refuse(
        self,
        name: str,
        client: str | None,
        request: Request | None,
        message: Message,
        reason: str,
    ) -> None:
        """Put a refusal into the inbox; count it if there are too many."""
        if not self._refusals.try_acquire():
            self.unrecorded += 1
            return
        log.warning("command=%s refused: %s", _printable(name), reason)
        refusal = Audit(
            name=_printable(name)[:64],
            request=None if request is None else request.id,
            by=None if request is None else request.by,
            client=client,
            outcome="refused",
            text=_printable(reason)[:1000],
            request_sha256=hashlib.sha256(message.payload).hexdigest(),
            unrecorded=self.unrecorded,
        )
        try:
            self._inbox().add_entry(refusal)
        except HemascopeError as error:
            self._count_unrecorded(str(error))
        else:
            self.unrecorded = 0

    def _count_unrecorded(self, reason: str) -> None:
        """Count a request that could not be put into the inbox, and log it."""
        self.unrecorded += 1
        if self._refusals.try_acquire():
            log.error("a request is not recorded: %s", reason)


def _command_name(name: str) -> CommandName:
    for command in COMMANDS:
        if command == name:
            return command
    raise RequestRefused(f"no such command; expected one of {', '.join(COMMANDS)}")


def _check_form(message: Message) -> None:
    """Raise `RequestRefused` where the bytes are no request, before decoding."""
    if len(message.payload) > MAX_REQUEST_BYTES:
        raise RequestRefused(
            f"{len(message.payload)} bytes, a request has at most {MAX_REQUEST_BYTES}"
        )
    if _repeats_a_key(message.payload):
        raise RequestRefused("a key occurs twice in it")


def _repeats_a_key(payload: bytes) -> bool:
    """Whether an object in the JSON has a key twice; False where it is not JSON.

    One reader takes the first value, another the last: two programs could understand
    the same request differently.
    """

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


def _client_name(text: str | None) -> str | None:
    """Return the name that the sender gave itself; None where it is not valid."""
    try:
        return msgspec.convert(text, Person | None)
    except msgspec.ValidationError:
        return None


def _printable(text: str) -> str:
    """Replace control characters, which could command a terminal that shows them."""
    return re.sub(r"[^\x20-\x7e\xa0-\ud7ff\ue000-\uffff]", "?", text)
