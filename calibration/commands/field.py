"""The command `hemascope calibrate field`."""

from __future__ import annotations

from pathlib import Path

import click
from msgspec import UNSET

from calibration.crowded import measure_crowded_field
from calibration.field import PLASMA_DENSITY, EmptyField, measure_field
from calibration.frames import read_frames, source_of
from calibration.pages.field_page import write_field_page
from calibration.versions import current, replace_profile
from edge.artifacts.profile import Profile, ProfileRecord, offset_alone
from edge.frames import RawFrame
from edge.settings.sources import FolderSettings


def calibrate_field(
    config: Path | None,
    images: Path | None,
    dark: Path | None,
    out: Path,
    frames: int,
    objective: str | None,
    pixel_size_um: float | None,
    from_cells: bool,
) -> None:
    """Measure an empty field and write the profile that corrects it."""
    source = source_of(config, images)
    shown = read_frames(source, frames if images is None else None, "field")
    darks = [] if dark is None else read_frames(FolderSettings(dark), None, "dark")
    measure = measure_crowded_field if from_cells else measure_field
    field = measure(shown, darks)
    before = current(out)
    if before is not None:
        objective = objective or before.record.objective
        pixel_size_um = pixel_size_um or before.record.pixel_size_um
        click.echo(f"kept: objective {objective}, pixel size {pixel_size_um} µm")
        if before.record.reference is not None:
            click.echo("not kept: the slide reference; `hemascope calibrate slide`")
    record = _record(field, shown[0], objective, pixel_size_um)
    profile = replace_profile(out, record, field.flat_field)
    page = write_field_page(out, field, profile, shown)
    _show(field, profile)
    click.echo(f"profile: {out}\npage: {page}")


def _record(
    field: EmptyField, frame: RawFrame, objective: str | None, pixel_um: float | None
) -> ProfileRecord:
    """Make the record of a profile; `frame` is one of those that were measured."""
    height, width = frame.pixels.shape[:2]
    return ProfileRecord(
        camera_serial=frame.shot.camera,
        objective=objective,
        width_px=width,
        height_px=height,
        black_level=field.black_level or 0.0,
        white_point=field.white_point,
        is_verified=field.is_verified,
        matrix=offset_alone(PLASMA_DENSITY),
        pixel_size_um=pixel_um or frame.shot.pixel_size_um,
        controls=UNSET if frame.shot.controls is None else frame.shot.controls,
    )


def _show(field: EmptyField, profile: Profile) -> None:
    """Show what was measured, in a few lines."""
    white = ", ".join(f"{value:.1f}" for value in field.white_point)
    black = "not measured, taken as 0 (--dark measures it)"
    if field.black_level is not None:
        black = f"{field.black_level:.1f}"
    if not field.is_verified:
        click.echo("unverified: estimated from frames with cells, no empty field seen")
    click.echo(f"black level: {black}")
    click.echo(f"white point: {white} of {field.full_scale}")
    click.echo(f"darkest place: {field.flat_field.min():.0%} of the brightest")
    click.echo(f"uneven: {field.uneven:.2%} around the fit; noise {field.noise:.1f}")
    click.echo(f"calibration: {(profile.calibration_id or '')[:12]}")
