"""The ledger: can it be read, is it whole, who uses it, what is not archived yet."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from edge import clock
from edge.doctor.device import ExaminedDevice, nearest
from edge.doctor.findings import Finding, fault, fault_of, ok, unknown, warning
from edge.doctor.processes import publish_process, run_process
from edge.errors import HemascopeError
from edge.ledger.cursor import read_cursor
from edge.ledger.reader import LedgerReader
from edge.ledger.rows import LedgerRow, first_broken
from edge.monitoring.alarms import KINDS
from edge.pipeline.empty_results import STOPPED
from edge.schema.codec import PayloadInvalid, decode

_VERIFIED = 1000  # of the newest rows
_NAME = "ledger"
_ARCHIVED_WITHIN = timedelta(seconds=KINDS["archive-away"].after_s)


class _RowHead(msgspec.Struct, frozen=True):
    """All that is read of a row here, whatever kind of row it is."""

    utc: datetime
    reason: str | None = None


def check_ledger(subject: ExaminedDevice) -> Iterator[Finding]:
    """Read the ledger beside whoever writes it, and verify its newest rows."""
    folder = subject.ledger.folder
    if (missing := _cannot_read(folder)) is not None:
        yield missing
        return
    try:
        with closing(LedgerReader(folder)) as reader:
            yield from _look_at(reader, folder, subject.device)
    except HemascopeError as error:
        yield fault_of(_NAME, error, "check the disk and the folder's rights")
    except sqlite3.Error as error:
        yield fault(
            _NAME,
            f"{folder}: {error}",
            "move the folder aside, do not delete it, and start with a new one",
        )


def check_alarms(subject: ExaminedDevice) -> Iterator[Finding]:
    """Say which alarms of the device are not over."""
    folder = subject.ledger.folder
    missing = _cannot_read(folder)
    if missing is not None:
        is_new = missing.status == "warning"
        yield (
            ok("alarms", "there is no ledger yet that could hold one")
            if is_new
            else unknown("alarms", missing.found, "use sudo")
        )
        return
    try:
        with closing(LedgerReader(folder)) as reader:
            active = list(reader.state.alarms())
    except (HemascopeError, sqlite3.Error) as error:
        yield unknown("alarms", str(error), "see to the finding on the ledger first")
        return
    for alarm in active:
        kind = KINDS.get(alarm.code)
        tell = fault if alarm.severity == "red" else warning
        yield tell(
            "alarms",
            f"{alarm.code} since {alarm.since:%Y-%m-%d %H:%M:%S} UTC: {alarm.text}",
            "read docs/operations.md" if kind is None else kind.advice,
        )
    if not active:
        yield ok("alarms", "none is raised")


def newest_utc(reader: LedgerReader) -> datetime | None:
    """Return when the newest row was written; None of an empty ledger."""
    _, newest = reader.span()
    rows = reader.rows(newest - 1, 1)
    return _said(rows[0]).utc if rows else None


def _cannot_read(folder: Path) -> Finding | None:
    """Say why there is nothing to read; None if there is."""
    if not os.access(nearest(folder), os.X_OK):
        return unknown(
            _NAME, f"{folder} cannot be looked into by this user", "use sudo"
        )
    if not os.access(folder, os.F_OK):
        return warning(
            _NAME,
            f"{folder} is not there: nothing was examined yet",
            "start it: `systemctl start hemascope-run`, or `hemascope run`",
        )
    if not os.access(folder, os.R_OK | os.X_OK):
        return unknown(_NAME, f"{folder} cannot be read by this user", "use sudo")
    return None


def _look_at(reader: LedgerReader, folder: Path, device: str) -> Iterator[Finding]:
    oldest, newest = reader.span()
    rows = reader.rows(max(0, newest - _VERIFIED), _VERIFIED)
    broken = first_broken(rows)
    if reader.device != device:
        yield fault(
            _NAME,
            f"{folder} is the ledger of device {reader.device!r}, not of {device!r}",
            "give each device a folder of its own in [ledger]",
        )
    if broken is not None:
        yield fault(
            _NAME,
            f"row {broken} does not follow from the row before, or was altered",
            "stop run, move the folder aside (do not delete it), start with a new one",
        )
    if not reader.state.exists:
        yield warning(
            _NAME, "it is of an earlier version", "start `hemascope run` once"
        )
    yield from _ended(rows, folder)
    if broken is None:
        yield ok(
            _NAME,
            f"rows {oldest:,} to {newest:,}, the newest {len(rows):,} follow from each "
            f"other; epoch {reader.epoch[:8]}, {_at_work(folder)}",
        )
        yield _archived(reader, folder)


def _at_work(folder: Path) -> str:
    writes, publishes = run_process(folder), publish_process(folder)
    return (
        f"{'nobody' if writes is None else f'process {writes}'} writes, "
        f"{'nobody' if publishes is None else f'process {publishes}'} publishes"
    )


def _ended(rows: list[LedgerRow], folder: Path) -> Iterator[Finding]:
    """Say why there are no more rows, if the last one does."""
    if not rows or run_process(folder) is not None:
        return
    reason = _said(rows[-1]).reason or ""
    if reason.startswith(STOPPED):
        yield fault(_NAME, reason, "remove the cause, then start run again")


def _archived(reader: LedgerReader, folder: Path) -> Finding:
    """Say how many rows are here alone."""
    _, newest = reader.span()
    cursor = read_cursor(folder)
    upto = cursor.upto if cursor is not None and cursor.epoch == reader.epoch else 0
    waiting = newest - upto
    if waiting <= 0:
        return ok(_NAME, "the archive has acknowledged every row")
    due = reader.rows(upto, 1)
    since = _said(due[0]).utc if due else clock.utc_now()
    text = f"{waiting:,} rows are here alone, the oldest of {since:%Y-%m-%d %H:%M} UTC"
    if clock.utc_now() - since <= _ARCHIVED_WITHIN:
        return ok(_NAME, text)
    if publish_process(folder) is None:
        return warning(
            _NAME, f"{text}; nobody publishes", "`systemctl start hemascope-publish`"
        )
    return warning(_NAME, text, KINDS["archive-away"].advice)


def _said(row: LedgerRow) -> _RowHead:
    try:
        return decode(row.data, _RowHead)
    except PayloadInvalid:
        return _RowHead(clock.utc_now())
