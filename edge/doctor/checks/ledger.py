"""The ledger: whether it can be read and is whole, who uses it, what is archived."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from edge import clock
from edge.doctor.device import ExaminedDevice, nearest_existing
from edge.doctor.findings import Finding, fault, fault_from, ok, unknown, warning
from edge.doctor.processes import publish_process, run_process
from edge.errors import HemascopeError
from edge.ledger.cursor import read_cursor
from edge.ledger.reader import LedgerReader
from edge.ledger.rows import LedgerRow, first_broken
from edge.monitoring.alarms import ALARM_KINDS
from edge.pipeline.empty_results import STOPPED
from edge.schema.codec import PayloadInvalid, decode

_VERIFIED_ROWS = 1000  # the newest ones; all of them would take minutes
_NAME = "ledger"
_ARCHIVED_WITHIN = timedelta(seconds=ALARM_KINDS["archive-away"].after_s)


class _RowHead(msgspec.Struct, frozen=True):
    """What is read of a row here, whatever kind of row it is."""

    utc: datetime
    reason: str | None = None


def check_ledger(device: ExaminedDevice) -> Iterator[Finding]:
    """Read the ledger while `run` may write it, and verify its newest rows."""
    folder = device.ledger.folder
    if (missing := _why_unreadable(folder)) is not None:
        yield missing
        return
    try:
        with closing(LedgerReader(folder)) as reader:
            yield from _check_rows(reader, folder, device.name)
    except HemascopeError as error:
        yield fault_from(_NAME, error, "check the disk and the folder's permissions")
    except sqlite3.Error as error:
        yield fault(
            _NAME,
            f"{folder}: {error}",
            "move the folder elsewhere, do not delete it, and start with a new one",
        )


def check_alarms(device: ExaminedDevice) -> Iterator[Finding]:
    """Check which alarms of the device are not over."""
    folder = device.ledger.folder
    missing = _why_unreadable(folder)
    if missing is not None:
        is_new = missing.status == "warning"
        yield (
            ok("alarms", "none: there is no ledger yet")
            if is_new
            else unknown("alarms", missing.found, "run doctor with sudo")
        )
        return
    try:
        with closing(LedgerReader(folder)) as reader:
            active = list(reader.state.active_alarms())
    except (HemascopeError, sqlite3.Error) as error:
        yield unknown("alarms", str(error), "see to the finding on the ledger first")
        return
    for alarm in active:
        kind = ALARM_KINDS.get(alarm.code)
        finding = fault if alarm.severity == "red" else warning
        yield finding(
            "alarms",
            f"{alarm.code} since {alarm.since:%Y-%m-%d %H:%M:%S} UTC: {alarm.text}",
            "read docs/operations.md" if kind is None else kind.advice,
        )
    if not active:
        yield ok("alarms", "none")


def newest_utc(reader: LedgerReader) -> datetime | None:
    """Return when the newest row was written; None if there is no row."""
    _, newest = reader.span()
    rows = reader.rows(newest - 1, 1)
    return _row_head(rows[0]).utc if rows else None


def _why_unreadable(folder: Path) -> Finding | None:
    """Return the finding that the ledger cannot be read; None if it can."""
    if not os.access(nearest_existing(folder), os.X_OK):
        return unknown(_NAME, f"this user may not see {folder}", "run doctor with sudo")
    if not os.access(folder, os.F_OK):
        return warning(
            _NAME,
            f"{folder} does not exist: no frame was examined yet",
            "start it with `systemctl start hemascope-run` or `hemascope run`",
        )
    if not os.access(folder, os.R_OK | os.X_OK):
        return unknown(
            _NAME, f"this user may not read {folder}", "run doctor with sudo"
        )
    return None


def _check_rows(
    reader: LedgerReader, folder: Path, device_name: str
) -> Iterator[Finding]:
    oldest, newest = reader.span()
    rows = reader.rows(max(0, newest - _VERIFIED_ROWS), _VERIFIED_ROWS)
    broken = first_broken(rows)
    if reader.device != device_name:
        yield fault(
            _NAME,
            f"{folder} is the ledger of device {reader.device!r}, not of "
            f"{device_name!r}",
            "give each device its own folder in [ledger]",
        )
    if broken is not None:
        yield fault(
            _NAME,
            f"row {broken} was altered, or does not follow from the row before",
            "stop run, move the folder elsewhere (do not delete it), and start with a "
            "new one",
        )
    if not reader.state.exists:
        yield warning(
            _NAME, "an earlier version wrote it", "start `hemascope run` once"
        )
    yield from _end_of_run(rows, folder)
    if broken is None:
        yield ok(
            _NAME,
            f"rows {oldest:,} to {newest:,}, the newest {len(rows):,} are an unbroken "
            f"chain; epoch {reader.epoch[:8]}, {_processes(folder)}",
        )
        yield _archiving(reader, folder)


def _processes(folder: Path) -> str:
    writer, publisher = run_process(folder), publish_process(folder)
    return (
        f"{'no process' if writer is None else f'process {writer}'} writes, "
        f"{'no process' if publisher is None else f'process {publisher}'} publishes"
    )


def _end_of_run(rows: list[LedgerRow], folder: Path) -> Iterator[Finding]:
    """Return why the run process ended, if the last row says so."""
    if not rows or run_process(folder) is not None:
        return
    reason = _row_head(rows[-1]).reason or ""
    if reason.startswith(STOPPED):
        yield fault(_NAME, reason, "remove the cause, then start run again")


def _archiving(reader: LedgerReader, folder: Path) -> Finding:
    """Return how many rows the archive has not acknowledged."""
    _, newest = reader.span()
    cursor = read_cursor(folder)
    acknowledged = (
        cursor.upto if cursor is not None and cursor.epoch == reader.epoch else 0
    )
    waiting = newest - acknowledged
    if waiting <= 0:
        return ok(_NAME, "the archive has acknowledged every row")
    oldest = reader.rows(acknowledged, 1)
    since = _row_head(oldest[0]).utc if oldest else clock.utc_now()
    text = f"{waiting:,} rows exist only here, the oldest of {since:%Y-%m-%d %H:%M} UTC"
    if clock.utc_now() - since <= _ARCHIVED_WITHIN:
        return ok(_NAME, text)
    if publish_process(folder) is None:
        return warning(
            _NAME,
            f"{text}; no process publishes",
            "run `systemctl start hemascope-publish`",
        )
    return warning(_NAME, text, ALARM_KINDS["archive-away"].advice)


def _row_head(row: LedgerRow) -> _RowHead:
    try:
        return decode(row.data, _RowHead)
    except PayloadInvalid:
        return _RowHead(clock.utc_now())
