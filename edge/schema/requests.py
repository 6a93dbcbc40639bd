"""Requests to a device over MQTT, its answers, and when it must refuse.

A request is checked twice by the same rule: by the publisher, which is reached over the
network, and again by the run process, which carries it out. So a publisher that was
taken over by somebody cannot make the run process do what its settings forbid.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Annotated, Literal, get_args

from msgspec import Meta, Struct

from edge.schema.results import Name, Number

CommandName = Literal[
    "start", "pause", "resume", "stop", "note", "snapshot", "self-test"
]
COMMANDS: tuple[CommandName, ...] = get_args(CommandName)
MAX_REQUEST_BYTES = 4096
MAX_CLOCK_DIFFERENCE_S = 5.0  # between the clocks of a laboratory

# No control characters: a text is shown on terminals and pages.
_PLAIN = r"^[^\x00-\x1f\x7f-\x9f]+$(?!\n)"
Line = Annotated[str, Meta(pattern=_PLAIN, max_length=1000)]
Person = Annotated[str, Meta(pattern=_PLAIN, max_length=64)]
RequestId = Annotated[str, Meta(pattern=r"^[0-9A-Za-z-]{8,64}$(?!\n)")]
Utc = Annotated[datetime, Meta(tz=True)]
Outcome = Literal["refused", "accepted", "done", "failed"]


class Request(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask a device to do what the topic names. `by` is the person who asks.

    `id` must be new: one that was used before is refused. `expires` is the last moment
    at which the device may begin.
    """

    v: Literal[1] = 1
    id: RequestId
    issued: Utc
    expires: Utc
    by: Person


class StartRequest(Request, frozen=True, kw_only=True):
    """Ask for a run: of `slide`, by `operator`, with a `note`.

    None of them may name a patient.
    """

    slide: Person | None = None
    operator: Person | None = None
    note: Line | None = None

    @property
    def is_empty(self) -> bool:
        """Whether neither slide, operator nor note is given."""
        return self.slide is None and self.operator is None and self.note is None


class NoteRequest(Request, frozen=True, kw_only=True):
    """Ask for a note, `text`, to be written among the results."""

    text: Line


class Response(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What became of a request; `accepted` is followed by `done` or `failed`.

    `row` is the row of the ledger that says the same.
    """

    v: Literal[1] = 1
    device: Name
    id: RequestId
    outcome: Outcome
    text: str
    row: Number
    utc: Utc


def request_type(name: CommandName) -> type[Request]:
    """Return the type of the requests of a command."""
    own: dict[CommandName, type[Request]] = {"start": StartRequest, "note": NoteRequest}
    return own.get(name, Request)


def refusal_reason(
    name: CommandName,
    request: Request,
    *,
    allowed: Collection[str],
    now: datetime,
    most_age_s: float,
) -> str | None:
    """Return why a well-formed request must not be carried out now; None if it may.

    Parameters
    ----------
    allowed
        The commands that the settings allow.
    now
        Wall time of the device.
    most_age_s
        How long a request may live, from `issued` to `expires`.
    """
    if name not in allowed:
        return f"{name} is not allowed; add it to allow in [commands]"
    lifetime_s = (request.expires - request.issued).total_seconds()
    if not 0 < lifetime_s <= most_age_s:
        return (
            f"it would live for {lifetime_s:.0f} s, expected more than 0 and at most "
            f"{most_age_s:.0f}"
        )
    if request.issued > now + timedelta(seconds=MAX_CLOCK_DIFFERENCE_S):
        return f"issued in the future; it is {now:%Y-%m-%dT%H:%M:%SZ} here"
    if request.expires <= now:
        return f"expired; it is {now:%Y-%m-%dT%H:%M:%SZ} here, ask again"
    return None
