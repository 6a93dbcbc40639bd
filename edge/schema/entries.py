"""Rows of the ledger that are not about a frame: alarms, notes, commands, runs.

They are rows of the same chain as results, so they are delivered, archived and verified
in the same way.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from edge.schema.codec import decode
from edge.schema.requests import Line, Outcome, Person, RequestId, Utc
from edge.schema.results import (
    Count,
    Epoch,
    MissedPoints,
    Name,
    Number,
    Result,
    RunId,
    Sha256,
)

Severity = Literal["amber", "red"]
Code = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,31}$(?!\n)")]


class _StrictContent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Alarm(_StrictContent, frozen=True, kw_only=True, tag_field="kind", tag="alarm"):
    """Something is wrong since `since`; from `until` on it is over.

    Amber: results go on, but a person should look. Red: results are missing, or soon
    will be.
    """

    severity: Severity
    code: Code
    text: str
    advice: str
    since: Utc
    until: Utc | None = None


class Note(_StrictContent, frozen=True, kw_only=True, tag_field="kind", tag="note"):
    """A note that a person wrote among the results."""

    text: Line
    by: Person


class Audit(_StrictContent, frozen=True, kw_only=True, tag_field="kind", tag="command"):
    """What became of a request, and who sent it.

    `by` and `client` are names that the sender gave; nobody has checked them. `request`
    is the id of the request, `request_sha256` the hash of its bytes; each is null where
    it is not known. `unrecorded` counts the refused requests since the last such row
    that got no row of their own, because there were too many.
    """

    name: Annotated[str, Meta(max_length=64)]
    request: RequestId | None = None
    by: Person | None = None
    client: Person | None = None
    outcome: Outcome
    text: Annotated[str, Meta(max_length=1000)]
    request_sha256: Sha256 | None = None
    unrecorded: Count = 0


class PlanNote(_StrictContent, frozen=True, kw_only=True):
    """The schedule of a run: how much is planned, and when it began.

    `sha256` is the hash of everything that decides when frames are due. `zero_ns` is
    the beginning on the monotonic clock of boot `boot_id`, plus the time for which the
    machine was suspended. `zero_utc` is the same moment by wall time. The time of each
    point counts from this moment.
    """

    points: Number
    frames_per_point: Number
    lasts_s: Annotated[float, Meta(ge=0)]
    sha256: Sha256
    zero_utc: Utc
    zero_ns: int
    boot_id: str


class Lost(_StrictContent, frozen=True, kw_only=True):
    """What a run lost because its process ended.

    `row` is the last row of the run before that, `away_s` the time since its frame,
    null where the clocks cannot tell it. `points` were due in that time; a gap row that
    follows says the same. `counted`: cells counted until then, by class; counting
    begins again at 0. The states of the sequence model are new. Cells of the last frame
    keep the numbers of their tracks if they are found again; other tracks begin with
    `next_track`, events with `next_event`. `is_rebooted`: the machine was booted in
    between, so due times follow wall time.
    """

    row: Number
    away_s: Annotated[float, Meta(ge=0)] | None
    points: MissedPoints | None = None
    counted: dict[str, Count] = {}
    next_track: Count
    next_event: Count
    is_rebooted: bool = False


class RunMark(_StrictContent, frozen=True, kw_only=True, tag_field="kind", tag="run"):
    """A run is one slide under the microscope. It starts, may get notes, and ends.

    It is resumed when a process goes on with the run of an earlier process; `lost` says
    what the run lost between them. `by` is the person who asked for it over MQTT.
    `plan` is the schedule. `is_waiting`: after this end nothing is examined until the
    command to start.
    """

    run: RunId
    phase: Literal["start", "resumed", "note", "end"]
    slide: Annotated[str, Meta(max_length=32)] | None = None
    operator: Annotated[str, Meta(max_length=8)] | None = None
    text: Line | None = None
    by: Person | None = None
    plan: PlanNote | None = None
    lost: Lost | None = None
    is_waiting: bool = False


EntryContent = Alarm | Note | Audit | RunMark


class Entry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A row that is not about a frame; the first five fields are as in a result."""

    v: Literal[1] = 1
    device: Name
    epoch: Epoch
    seq: Number
    prev: Sha256
    utc: Utc
    monotonic_ns: int
    boot_id: str
    clock_synchronised: bool
    software: str
    entry: EntryContent


class _EntryField(Struct, frozen=True):
    entry: msgspec.Raw = msgspec.Raw()


def read_row(data: bytes) -> Result | Entry:
    """Decode a row of a ledger, a result or an entry.

    Raises
    ------
    PayloadInvalid
        It is neither a result nor an entry.
    """
    is_result = not bytes(decode(data, _EntryField).entry)
    return decode(data, Result) if is_result else decode(data, Entry)
