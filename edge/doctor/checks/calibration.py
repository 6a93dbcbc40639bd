"""The calibration profile: whether it is whole, recent, complete, and in use."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

from edge import clock
from edge.artifacts.profile import Profile, load_profile
from edge.doctor.device import ExaminedDevice, SettingMissing
from edge.doctor.findings import Finding, fault_from, ok, unknown, warning
from edge.doctor.processes import run_process
from edge.errors import HemascopeError
from edge.ledger.reader import LedgerReader
from edge.pipeline.parts import load_model, refuse_other_confidence, shipped_classifier
from edge.schema.codec import PayloadInvalid
from edge.schema.entries import read_row
from edge.schema.results import Result

_MAX_AGE = timedelta(days=180)  # a lamp ages, somebody cleans the condenser
_NAME = "calibration"
# The time of creation of a profile that was written by hand.
_UNKNOWN_TIME = datetime(1970, 1, 1, tzinfo=timezone.utc)


def check_calibration(device: ExaminedDevice) -> Iterator[Finding]:
    """Load the profile and check what is missing from it."""
    if device.profile is None:
        yield warning(
            _NAME,
            "there is no profile: colours are not corrected",
            "on an empty field run `hemascope calibrate field --config "
            f"{device.config or 'device.toml'} --out profile`, then set "
            "profile = 'profile'",
        )
        return
    try:
        profile = load_profile(device.profile)
        model = device.model
        bundle = model.bundle or shipped_classifier(profile)
        refuse_other_confidence(profile, load_model(bundle, model))
    except HemascopeError as error:
        yield fault_from(_NAME, error, "calibrate again")
        return
    problems = [*_problems(profile, device), *_other_in_use(profile, device)]
    yield from problems
    if not problems:
        record = profile.record
        yield ok(
            _NAME,
            f"{(profile.calibration_id or '')[:12]} of camera "
            f"{record.camera_serial or 'unnamed'}, {_age(profile).days} days old, "
            f"{_scale(profile, device)} µm per pixel",
        )


def _problems(profile: Profile, device: ExaminedDevice) -> Iterator[Finding]:
    record, age = profile.record, _age(profile)
    if record.created_at == _UNKNOWN_TIME:
        yield unknown(_NAME, "it does not say when it was made", "calibrate again")
    elif age < timedelta(0):
        yield warning(
            _NAME,
            f"it was made at {record.created_at:%Y-%m-%d %H:%M} UTC, in the future",
            "set the clock",
        )
    elif age > _MAX_AGE:
        yield warning(
            _NAME,
            f"it is {age.days} days old, expected at most {_MAX_AGE.days}",
            "calibrate the field again",
        )
    if not record.is_verified:
        yield warning(
            _NAME,
            "it was made from frames with cells, not from an empty field",
            "run `hemascope calibrate field` on an empty field",
        )
    if _scale(profile, device) is None:
        yield warning(
            _NAME,
            "the pixel size is not set; each start estimates it from the cells",
            "run `hemascope calibrate scale` with a stage micrometer",
        )


def _other_in_use(profile: Profile, device: ExaminedDevice) -> Iterator[Finding]:
    """Check whether `run` was started with another calibration."""
    try:
        folder = device.ledger.folder
    except SettingMissing:
        return
    if run_process(folder) is None:
        return
    newest = _newest_result(folder)
    if newest is not None and newest.calibration_id != profile.calibration_id:
        yield warning(
            _NAME,
            f"run uses calibration {(newest.calibration_id or 'none')[:12]}, but the "
            f"settings name {(profile.calibration_id or '')[:12]}",
            "run `systemctl restart hemascope-run`",
        )


def _newest_result(folder: Path) -> Result | None:
    """Return the newest result of an examined frame, among the last rows."""
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


def _scale(profile: Profile, device: ExaminedDevice) -> float | None:
    calibrated = profile.record.pixel_size_um
    if calibrated is not None:
        return calibrated
    try:
        return getattr(device.source, "pixel_size_um", None)
    except SettingMissing:
        return None
