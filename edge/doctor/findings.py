"""What a check finds, and how bad all findings together are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from msgspec import Meta, Struct

from edge.schema.requests import Utc

Status = Literal["ok", "unknown", "warning", "fault"]
SEVERITY: tuple[Status, ...] = ("ok", "unknown", "warning", "fault")  # the worst last


class Finding(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One thing that a check found.

    `found` says what it is, with its value. `remedy` is the one thing to do about it;
    it is null if all is well, and only then. Fault: results are missing, wrong or lost
    until somebody acts. Warning: results go on, but somebody should act. Unknown: it
    could not be found out.
    """

    name: str
    status: Status
    found: str
    remedy: str | None = None

    def __post_init__(self) -> None:
        if (self.status == "ok") != (self.remedy is None):
            raise ValueError(
                f"{self.name}: {self.status!r} with remedy {self.remedy!r}; expected a "
                "remedy with every status but ok, and none with ok"
            )


class Report(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All findings, in the order of the checks.

    `status` is the worst of them; `spent_s` is how long each check took; `config` is
    the settings file, null if there was none.
    """

    v: Literal[1] = 1
    utc: Utc
    software: str
    config: str | None
    status: Status
    findings: tuple[Finding, ...]
    spent_s: dict[str, Annotated[float, Meta(ge=0)]]


def worst_status(findings: Iterable[Finding]) -> Status:
    """Return the worst status of these findings; "ok" if there is none."""
    return max((f.status for f in findings), key=SEVERITY.index, default="ok")


def ok(name: str, found: str) -> Finding:
    """Return the finding that something is as it should be."""
    return Finding(name=name, status="ok", found=found)


def unknown(name: str, found: str, remedy: str) -> Finding:
    """Return the finding that something could not be found out."""
    return Finding(name=name, status="unknown", found=found, remedy=remedy)


def warning(name: str, found: str, remedy: str) -> Finding:
    """Return the finding that somebody should act, while results go on."""
    return Finding(name=name, status="warning", found=found, remedy=remedy)


def fault(name: str, found: str, remedy: str) -> Finding:
    """Return the finding that results are missing, wrong or lost."""
    return Finding(name=name, status="fault", found=found, remedy=remedy)


def fault_from(
    name: str, error: Exception, default_remedy: str, *, prefix: str = ""
) -> Finding:
    """Return an error of ours as a finding.

    Our messages are "value, what was expected; remedy", so the last clause is the
    remedy. `default_remedy` is that of an error that names none.
    """
    found, _, remedy = str(error).rpartition("; ")
    if not found:
        found, remedy = remedy, default_remedy
    return fault(name, prefix + found, remedy)
