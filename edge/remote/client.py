"""Send a request to a device over MQTT, and wait for its answers."""

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
    REASON_FAILURE,
    REQUESTS,
    RESPONSES,
    BrokerUnreachable,
    Link,
    Message,
    Published,
    topic,
)
from edge.schema.codec import PayloadInvalid, decode, encode
from edge.schema.requests import (
    CommandName,
    NoteRequest,
    Request,
    Response,
    request_type,
)
from edge.settings.delivery import BrokerSettings

REQUEST_LIFETIME_S = 30.0  # after this time a device no longer begins a request
_NO_SUBSCRIBERS = 0x10  # MQTT 5, section 3.4.2.1


class CommandRefused(HemascopeError):
    """The device or the broker refused the request, or the device failed at it."""


class NoAnswer(HemascopeError):
    """It is not known what became of a request; to send it again, same id, is safe."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h


def new_request(
    name: CommandName,
    by: str,
    text: str | None = None,
    lifetime_s: float = REQUEST_LIFETIME_S,
    **run_fields: str | None,
) -> Request:
    """Return a request that a device may begin within `lifetime_s` from now.

    `text` is that of a note. `run_fields` are slide, operator and note of a start.
    """
    now = utc_now()
    fields = {
        "id": str(uuid.uuid4()),
        "issued": now,
        "expires": now + timedelta(seconds=lifetime_s),
        "by": by,
    }
    if name == "note":
        return NoteRequest(**fields, text=text or "")  # type: ignore[arg-type]
    return request_type(name)(**fields, **run_fields)  # type: ignore[arg-type]


def send_request(
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
        The request is not valid: an empty text, a name with control characters.
    NoAnswer
        The device does not listen, or sent no final answer within `timeout_s`.
    BrokerUnreachable, BrokerRefused, ConfigurationInvalid
        There is no connection to the broker.
    """
    data = encode(request)
    client = f"{broker.username or 'command'}-{secrets.token_hex(4)}"
    response_topic = topic(device, f"{RESPONSES}/{name}")
    with (
        one_request_at_a_time(broker, timeout_s),
        closing(Link(broker, client, [response_topic])) as link,
    ):
        link.publish(
            topic(device, f"{REQUESTS}/{name}"),
            data,
            properties=(("client", client),),
            correlation=request.id.encode(),
            expires_s=max(1, math.ceil((request.expires - utc_now()).total_seconds())),
        )
        yield from _read_responses(link, device, request, timeout_s)


@contextmanager
def one_request_at_a_time(broker: BrokerSettings, timeout_s: float) -> Iterator[None]:
    """Wait until no other request of this user on this machine is being sent.

    Our broker takes the user's name as the client id. Of two connections with the same
    id it closes the earlier one.
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
        while not _try_lock(file):
            if time.monotonic() > deadline_s:
                raise NoAnswer(
                    f"another request of {broker.username or broker.cert} is still "
                    f"under way on this machine after {timeout_s:.0f} s; nothing was "
                    "sent"
                )
            time.sleep(0.05)
        yield
    finally:
        os.close(file)


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_responses(
    link: Link, device: str, request: Request, timeout_s: float
) -> Iterator[Response]:
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        try:
            events = link.poll(0.05)
        except BrokerUnreachable as error:
            raise _no_answer(
                device, request, f"the connection broke ({error})"
            ) from None
        for event in events:
            if isinstance(event, Published):
                _check_published(event, device)
                continue
            response = _response_to(event, request)
            if response is not None:
                yield response
                if response.outcome != "accepted":
                    return
    raise _no_answer(device, request, f"no final answer within {timeout_s:.0f} s")


def _no_answer(device: str, request: Request, reason: str) -> NoAnswer:
    return NoAnswer(
        f"{device}: {reason}; the rows of its ledger say what became of request "
        f"{request.id}"
    )


def _check_published(event: Published, device: str) -> None:
    if event.reason_code == _NO_SUBSCRIBERS:
        raise NoAnswer(
            f"{device} does not listen; is that its name, and does `hemascope publish` "
            "run there? Nothing was done"
        )
    if event.reason_code >= REASON_FAILURE:
        raise CommandRefused(
            f"the broker refuses the request (reason 0x{event.reason_code:02x}); check "
            "its access list"
        )


def _response_to(message: Message, request: Request) -> Response | None:
    """Return the response in a message if it answers this request."""
    try:
        response = decode(message.payload, Response)
    except PayloadInvalid:
        return None
    is_ours = response.id == request.id and not message.is_retained
    return response if is_ours else None
