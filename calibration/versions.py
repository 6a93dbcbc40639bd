"""Keep every calibration that a new one replaces, so that one can go back to it.

`versions/` inside a profile's folder holds a folder per calibration, named by the first
digits of its id.
"""

from __future__ import annotations

import shutil
from datetime import datetime, timezone
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge.artifacts.profile import Profile, ProfileRecord, load_profile, save_profile
from edge.errors import ConfigurationInvalid

_FOLDER = "versions"
_FILES = "profile.json", "flat_field.npy"
_DIGITS = 12


def current(folder: Path) -> Profile | None:
    """Return the profile in a folder; None if there is none yet."""
    return load_profile(folder) if (folder / _FILES[0]).exists() else None


def replace_profile(
    folder: Path, record: ProfileRecord, flat_field: NDArray[np.float32] | None
) -> Profile:
    """Write a new profile; the one before is kept, and named in `previous`."""
    record = msgspec.structs.replace(record, created_at=datetime.now(timezone.utc))
    before = current(folder)
    if before is not None and before.calibration_id is not None:
        _keep(folder, before.calibration_id)
        record = msgspec.structs.replace(record, previous=before.calibration_id)
    return save_profile(folder, record, flat_field)


def restore(folder: Path, version: str) -> Profile:
    """Go back to an earlier calibration; the present one is kept as well.

    Parameters
    ----------
    folder
        Of the profile.
    version
        The id, or its first digits.

    Raises
    ------
    ConfigurationInvalid
        There is no such calibration, or several begin with these digits.
    ProfileMismatch
        Its files were changed or damaged.
    """
    matching = [name for name in versions(folder) if name.startswith(version[:_DIGITS])]
    if len(matching) != 1:
        raise ConfigurationInvalid(
            f"{folder}: {len(matching)} calibrations begin with {version!r}, expected "
            f"one of {versions(folder)}"
        )
    kept = folder / _FOLDER / matching[0]
    load_profile(kept)
    now = current(folder)
    if now is not None and now.calibration_id is not None:
        _keep(folder, now.calibration_id)
    for name in _FILES:
        (folder / name).unlink(missing_ok=True)
        if (kept / name).exists():
            shutil.copy2(kept / name, folder / name)
    return load_profile(folder)


def versions(folder: Path) -> list[str]:
    """Names of the kept calibrations, newest last."""
    kept = [path for path in (folder / _FOLDER).glob("*") if path.is_dir()]
    created = {path.name: load_profile(path).record.created_at for path in kept}
    return sorted(created, key=lambda name: created[name])


def _keep(folder: Path, calibration_id: str) -> None:
    """Copy the present calibration to the kept ones."""
    kept = folder / _FOLDER / calibration_id[:_DIGITS]
    kept.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        if (folder / name).exists():
            shutil.copy2(folder / name, kept / name)
