from __future__ import annotations

from datetime import datetime, timedelta, timezone

import msgspec
import pytest

from edge.schema.codec import PayloadInvalid, decode, encode
from edge.schema.requests import NoteRequest, Request, refusal_reason, request_type

NOW = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


def request(issued_s: float = -1, expires_s: float = 20) -> Request:
    return Request(
        id="a" * 32,
        issued=NOW + timedelta(seconds=issued_s),
        expires=NOW + timedelta(seconds=expires_s),
        by="anna",
    )


def judged(asked: Request, allowed: tuple[str, ...] = ("stop",)) -> str | None:
    return refusal_reason("stop", asked, allowed=allowed, now=NOW, most_age_s=60)


def test_a_fresh_request_that_is_allowed_is_not_refused() -> None:
    assert judged(request()) is None
    assert judged(request(issued_s=4)) is None  # clocks differ a little


@pytest.mark.parametrize(
    ("asked", "allowed", "reason"),
    [
        (request(), (), "not allowed"),
        (request(), ("start", "note"), "not allowed"),
        (request(-30, 0), ("stop",), "expired"),
        (request(-30, -1), ("stop",), "expired"),
        (request(6, 30), ("stop",), "in the future"),
        (request(0, 61), ("stop",), "would live for 61 s"),
        (request(10, 5), ("stop",), "would live for -5 s"),
        (request(0, 1e10), ("stop",), "would live for 10000000000 s"),
    ],
)
def test_a_request_is_refused_with_the_reason(
    asked: Request, allowed: tuple[str, ...], reason: str
) -> None:
    result = judged(asked, allowed)

    assert result is not None
    assert reason in result


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", "short"),
        ("id", "a" * 65),
        ("id", "a" * 32 + "\n"),
        ("id", "../../../etc/passwd"),
        ("by", ""),
        ("by", "\x1b[2J"),
        ("by", "a" * 65),
        ("v", 2),
        ("expires", "tomorrow"),
        ("expires", "2026-01-01T12:00:00"),  # of which time zone?
        ("expires", 1e9),
        ("text", "a start takes no text"),
    ],
)
def test_a_request_that_is_not_exactly_one_is_not_decoded(
    field: str, value: object
) -> None:
    data = msgspec.json.encode(msgspec.to_builtins(request()) | {field: value})

    with pytest.raises(PayloadInvalid):
        decode(data, request_type("start"))


def test_a_note_needs_its_text() -> None:
    with pytest.raises(PayloadInvalid, match="text"):
        decode(encode(request()), NoteRequest)
