"""The calibration profile: is it whole, young, complete, and the one in use."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

from edge import clock
from edge.artifacts.profile import Profile, load_profile
from edge.doctor.device import ExaminedDevice, SettingMissing
from edge.doctor.findings import Finding, fault_of, ok, unknown, warning
from edge.doctor.processes import run_process
from edge.errors import HemascopeError
from edge.ledger.reader import LedgerReader
from edge.pipeline.parts import load_model, refuse_other_confidence, shipped_classifier
from edge.schema.codec import PayloadInvalid
from edge.schema.entries import read_row
from edge.schema.results import Result

_OLD = timedelta(days=180)  # a lamp has aged, somebody has cleaned the condenser
_NAME = "calibration"
_NEVER = datetime(1970, 1, 1, tzinfo=timezone.utc)  # of a profile written by hand


def check_calibration(subject: ExaminedDevice) -> Iterator[Finding]:
    """Load the profile and say what is missing from it."""
    if subject.profile is None:
        yield warning(
            _NAME,
            "there is no profile: colours are as the camera gives them",
            "on an empty place: `hemascope calibrate field --config "
            f"{subject.config or 'device.toml'} --out profile`, then profile = "
            "'profile' in the settings",
        )
        return
    try:
        profile = load_profile(subject.profile)
        model = subject.model
        bundle = model.bundle or shipped_classifier(profile)
        refuse_other_confidence(profile, load_model(bundle, model))
    except HemascopeError as error:
        yield fault_of(_NAME, error, "calibrate again")
        return
    lacking = [*_lacking(profile, subject), *_other_in_use(profile, subject)]
    yield from lacking
    if not lacking:
        record = profile.record
        yield ok(
            _NAME,
            f"{(profile.calibration_id or '')[:12]} of camera "
            f"{record.camera_serial or 'unnamed'}, {_age(profile).days} days old, "
            f"{_scale(profile, subject)} µm per pixel",
        )


def _lacking(profile: Profile, subject: ExaminedDevice) -> Iterator[Finding]:
    record, age = profile.record, _age(profile)
    if record.created_at == _NEVER:
        yield unknown(_NAME, "nobody wrote down how old it is", "calibrate again")
    elif age < timedelta(0):
        yield warning(
            _NAME,
            f"it was made at {record.created_at:%Y-%m-%d %H:%M} UTC, which is to come",
            "set the clock right",
        )
    elif age > _OLD:
        yield warning(
            _NAME,
            f"it is {age.days} days old, expected at most {_OLD.days}",
            "calibrate the field again",
        )
    if not record.is_verified:
        yield warning(
            _NAME,
            "it was read off frames with cells, no empty field was seen",
            "`hemascope calibrate field` on an empty place",
        )
    if _scale(profile, subject) is None:
        yield warning(
            _NAME,
            "nobody tells the size of a pixel; it is read off the cells at each start",
            "`hemascope calibrate scale` with a stage micrometer",
        )


def _other_in_use(profile: Profile, subject: ExaminedDevice) -> Iterator[Finding]:
    """Say where `run` was started with another calibration."""
    try:
        folder = subject.ledger.folder
    except SettingMissing:
        return
    if run_process(folder) is None:
        return
    newest = _newest_result(folder)
    if newest is not None and newest.calibration_id != profile.calibration_id:
        yield warning(
            _NAME,
            f"run examines with calibration {(newest.calibration_id or 'none')[:12]}, "
            f"the settings name {(profile.calibration_id or '')[:12]}",
            "`systemctl restart hemascope-run`",
        )


def _newest_result(folder: Path) -> Result | None:
    """Return the newest result among the last rows that shows cells."""
    try:
        reader = LedgerReader(folder)
    except HemascopeError:
        return None
    _, newest = reader.span()
    rows = reader.rows(newest - 20, 20)
    reader.close()
    for row in reversed(rows):
        try:
            result = read_row(row.data)
        except PayloadInvalid:
            return None
        if isinstance(result, Result) and result.status in ("ok", "degraded"):
            return result
    return None


def _age(profile: Profile) -> timedelta:
    return clock.utc_now() - profile.record.created_at


def _scale(profile: Profile, subject: ExaminedDevice) -> float | None:
    told = profile.record.pixel_size_um
    if told is not None:
        return told
    try:
        return getattr(subject.source, "pixel_size_um", None)
    except SettingMissing:
        return None
