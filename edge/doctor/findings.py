"""What a check finds, and what all of them add up to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from msgspec import Meta, Struct

from edge.schema.requests import Utc

Status = Literal["ok", "unknown", "warning", "fault"]
RANK: tuple[Status, ...] = ("ok", "unknown", "warning", "fault")  # the worst last


class Finding(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One thing that was looked at.

    `found` says what it is, with its value; `remedy` the one thing to do about it, null
    if and only if all is well. Fault: results are missing, wrong or lost until
    somebody acts. Warning: they are not, yet. Unknown: nobody could tell.
    """

    name: str
    status: Status
    found: str
    remedy: str | None = None

    def __post_init__(self) -> None:
        if (self.status == "ok") != (self.remedy is None):
            raise ValueError(
                f"{self.name}: {self.status!r} with remedy {self.remedy!r}, expected "
                "a remedy for all that is not ok, and none for what is"
            )


class Report(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All findings, in the order of the checks.

    `status` is the worst of them; `spent_s` how long each check took; `config` the
    settings file, null where there was none.
    """

    v: Literal[1] = 1
    utc: Utc
    software: str
    config: str | None
    status: Status
    findings: tuple[Finding, ...]
    spent_s: dict[str, Annotated[float, Meta(ge=0)]]


def worst(findings: Iterable[Finding]) -> Status:
    """Return the worst status; "ok" of nothing."""
    return max((f.status for f in findings), key=RANK.index, default="ok")


def ok(name: str, found: str) -> Finding:
    """Say that something is as it should be."""
    return Finding(name=name, status="ok", found=found)


def unknown(name: str, found: str, remedy: str) -> Finding:
    """Say that something could not be told."""
    return Finding(name=name, status="unknown", found=found, remedy=remedy)


def warning(name: str, found: str, remedy: str) -> Finding:
    """Say that something should be looked after, while results go on."""
    return Finding(name=name, status="warning", found=found, remedy=remedy)


def fault(name: str, found: str, remedy: str) -> Finding:
    """Say that something is broken."""
    return Finding(name=name, status="fault", found=found, remedy=remedy)


def fault_of(
    name: str, error: Exception, otherwise: str, *, prefix: str = ""
) -> Finding:
    """Return what an error of ours says: its last clause is the remedy.

    `otherwise` is the remedy of an error that names none.
    """
    found, _, remedy = str(error).rpartition("; ")
    if not found:
        found, remedy = remedy, otherwise
    return fault(name, prefix + found, remedy)
