"""Write into the ledger that the run process died, where it could not do so itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from edge.ledger.reader import LedgerReader
from edge.ledger.rows import LedgerRow
from edge.ledger.writer import Ledger
from edge.pipeline.empty_results import STOPPED, empty_result
from edge.schema.codec import decode

_MEANING = {
    "core-dump": "it crashed",
    "exit-code": "it gave up",
    "oom-kill": "the machine ran out of memory",
    "resources": "it could not be started",
    "signal": "it was killed",
    "timeout": "it did not start or end in time",
    "watchdog": "it hung",
}


class _RowHead(msgspec.Struct, frozen=True):
    """The one field that is read here, of whatever kind of row."""

    reason: str | None = None


def failure_of(environment: Mapping[str, str]) -> str | None:
    """Return what systemd says of a service that has ended; None if all is well.

    Parameters
    ----------
    environment
        As systemd sets it for `ExecStopPost`: SERVICE_RESULT, EXIT_CODE, EXIT_STATUS.
    """
    result = environment.get("SERVICE_RESULT", "success")
    if result == "success":
        return None
    how = " ".join(environment.get(k, "") for k in ("EXIT_CODE", "EXIT_STATUS")).strip()
    return (
        f"{STOPPED}{_MEANING.get(result, 'it failed')} (systemd: {result}, "
        f"{how or 'never ran'}); see `journalctl -u hemascope-run`"
    )


def record_failure(folder: Path, failure: str) -> LedgerRow | None:
    """Append `failure` to the ledger in `folder` as a gap, and return the row.

    Returns None, and appends nothing, where the last row already says that
    acquisition stopped: a service that fails at every start says so once.

    Raises
    ------
    LedgerDamaged
        There is no ledger, or it cannot be written.
    LedgerBusy
        The run process, or another one, is at work.
    LedgerFull
        The disk is full.
    """
    reader = LedgerReader(folder)
    device = reader.device
    reader.close()
    ledger = Ledger(folder, device)
    try:
        if _last_reason(folder).startswith(STOPPED):
            return None
        return ledger.append(empty_result("gap", failure))
    finally:
        ledger.close()


def _last_reason(folder: Path) -> str:
    reader = LedgerReader(folder)
    _, newest = reader.span()
    rows = reader.rows(newest - 1, 1)
    reader.close()
    return (decode(rows[0].data, _RowHead).reason or "") if rows else ""
