"""Ask a device to do something, over MQTT, and wait for what becomes of it."""

from __future__ import annotations

import fcntl
import hashlib
import math
import os
import secrets
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

from edge.clock import utc_now
from edge.errors import HemascopeError
from edge.mqtt import (
    REQUESTS,
    RESPONSES,
    BrokerUnreachable,
    Link,
    Message,
    Published,
    topic,
)
from edge.schema.codec import PayloadInvalid, decode, encode
from edge.schema.requests import CommandName, NoteRequest, Request, Response, type_of
from edge.settings.delivery import BrokerSettings

LIVES_S = 30.0  # a request may be begun for so long
_NOBODY = 0x10
_FAILURE = 0x80


class CommandRefused(HemascopeError):
    """The device refused what was asked, or failed at it."""


class NoAnswer(HemascopeError):
    """Nobody knows what became of a request; asking again with its id is safe."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h


def new_request(
    name: CommandName,
    by: str,
    text: str | None = None,
    lives_s: float = LIVES_S,
    **said: str | None,
) -> Request:
    """Return a request that may be begun from now on, for `lives_s`.

    `text` is of a note; `said` are slide, operator and note of a start.
    """
    now = utc_now()
    fields = {
        "id": str(uuid.uuid4()),
        "issued": now,
        "expires": now + timedelta(seconds=lives_s),
        "by": by,
    }
    if name == "note":
        return NoteRequest(**fields, text=text or "")  # type: ignore[arg-type]
    return type_of(name)(**fields, **said)  # type: ignore[arg-type]


def ask(
    broker: BrokerSettings,
    device: str,
    name: CommandName,
    request: Request,
    *,
    timeout_s: float,
) -> Iterator[Response]:
    """Send a request and yield the device's answers; the last one is final.

    Raises
    ------
    PayloadInvalid
        The request is none: an empty text, a name with control characters.
    NoAnswer
        Nobody listens, or nothing final came within `timeout_s`.
    BrokerUnreachable, BrokerRefused, ConfigurationInvalid
        There is no connection.
    """
    data = encode(request)
    client = f"{broker.username or 'command'}-{secrets.token_hex(4)}"
    answers = topic(device, f"{RESPONSES}/{name}")
    with in_turn(broker, timeout_s), closing(Link(broker, client, [answers])) as link:
        link.publish(
            topic(device, f"{REQUESTS}/{name}"),
            data,
            properties=(("client", client),),
            correlation=request.id.encode(),
            expires_s=max(1, math.ceil((request.expires - utc_now()).total_seconds())),
        )
        yield from _answers(link, device, request, timeout_s)


@contextmanager
def in_turn(broker: BrokerSettings, timeout_s: float) -> Iterator[None]:
    """Wait until no other request of this user on this machine is under way.

    A broker that takes the user's name for the client's id, as ours does, disconnects
    the one that came first.
    """
    if broker.username is None and broker.cert is None:
        yield
        return
    name = f"{broker.host}:{broker.port}:{broker.username or broker.cert}"
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"hemascope-{os.getuid()}-{digest}.lock"
    deadline_s = time.monotonic() + timeout_s
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        while not _is_held(file):
            if time.monotonic() > deadline_s:
                raise NoAnswer(
                    f"another request of {broker.username or broker.cert} is under "
                    f"way on this machine for more than {timeout_s:.0f} s; nothing "
                    "was asked"
                )
            time.sleep(0.05)
        yield
    finally:
        os.close(file)


def _is_held(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _answers(
    link: Link, device: str, request: Request, timeout_s: float
) -> Iterator[Response]:
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        try:
            events = link.poll(0.05)
        except BrokerUnreachable as error:
            raise _unknown(device, request, f"the connection broke ({error})") from None
        for event in events:
            if isinstance(event, Published):
                _check_taken(event, device)
                continue
            answer = _answer_to(event, request)
            if answer is not None:
                yield answer
                if answer.outcome != "accepted":
                    return
    raise _unknown(device, request, f"nothing final came within {timeout_s:.0f} s")


def _unknown(device: str, request: Request, why: str) -> NoAnswer:
    return NoAnswer(
        f"{device}: {why}; the rows of its ledger say what became of request "
        f"{request.id}"
    )


def _check_taken(event: Published, device: str) -> None:
    if event.reason_code == _NOBODY:
        raise NoAnswer(
            f"{device} does not listen; is that its name, and does `hemascope publish` "
            "run there? Nothing was done"
        )
    if event.reason_code >= _FAILURE:
        raise CommandRefused(
            f"the broker does not let us ask (reason 0x{event.reason_code:02x}); check "
            "its access list"
        )


def _answer_to(message: Message, request: Request) -> Response | None:
    """Return the answer in a message if it is one to this request."""
    try:
        answer = decode(message.payload, Response)
    except PayloadInvalid:
        return None
    return answer if answer.id == request.id and not message.is_retained else None
