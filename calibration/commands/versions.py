"""The command `hemascope calibrate versions`."""

from __future__ import annotations

from pathlib import Path

import click

from calibration.versions import restore, versions
from edge.artifacts.profile import Profile, load_profile


def show_versions(profile: Path, wanted: str | None) -> None:
    """Show the calibrations of a PROFILE, or go back to an earlier one."""
    if wanted is not None:
        restore(profile, wanted)
    now = load_profile(profile)
    for name in versions(profile):
        if name != (now.calibration_id or "")[: len(name)]:
            click.echo(f"  {_line(name, load_profile(profile / 'versions' / name))}")
    click.echo(f"* {_line((now.calibration_id or '')[:12], now)}")


def _line(name: str, profile: Profile) -> str:
    """Write what a calibration holds, on one line."""
    record = profile.record
    contents = [
        "flat field" if profile.flat_field is not None else "even light",
        "verified" if record.is_verified else "unverified",
        f"{record.pixel_size_um} µm per pixel" if record.pixel_size_um else "no scale",
        "slide reference" if record.reference else "no slide reference",
        "site confidence" if record.confidence else "no site confidence",
    ]
    return f"{name}  {record.created_at:%Y-%m-%d %H:%M}  {', '.join(contents)}"
