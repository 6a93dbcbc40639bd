"""The commands `hemascope calibrate …`; each calibration of its own size has a file."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec
from msgspec import UNSET

from calibration.commands.confidence import confidence_command
from calibration.commands.normalise import normalise_command
from calibration.commands.slide import slide_command
from calibration.crowded import measure_crowded_field
from calibration.field import MIN_FRAMES, PLASMA_DENSITY, EmptyField, measure_field
from calibration.frames import FOLDER, PATH, read_frames, source_of
from calibration.pages.field_page import write_field_page
from calibration.pages.scale_page import write_scale_page
from calibration.scale import measure_cells, measure_rulings
from calibration.versions import current, replace_profile, restore, versions
from edge.artifacts.profile import (
    IDENTITY_PROFILE,
    Profile,
    ProfileRecord,
    load_profile,
    offset_alone,
)
from edge.frames import RawFrame
from edge.pipeline.classify_images import find_images
from edge.settings.sources import FolderSettings
from edge.sources.image_files import read_image

_FOUND = click.Path(path_type=Path, exists=True)


@click.group("calibrate")
def calibrate_command() -> None:
    """Measure what the device then applies, until the next calibration."""


calibrate_command.add_command(slide_command)
calibrate_command.add_command(confidence_command)
calibrate_command.add_command(normalise_command)


@calibrate_command.command("field")
@click.option("--config", type=PATH, help="Settings file of the device.")
@click.option("--images", type=FOLDER, help="Frames of empty places, instead.")
@click.option("--dark", type=FOLDER, help="Frames with the light off.")
@click.option("--out", required=True, type=PATH, help="Folder of the profile.")
@click.option(
    "--frames",
    default=MIN_FRAMES,
    show_default=True,
    type=click.IntRange(MIN_FRAMES),
)
@click.option("--objective", help="What the profile is for, such as 100x/1.25.")
@click.option("--pixel-size-um", type=click.FloatRange(0, min_open=True))
@click.option(
    "--from-cells",
    is_flag=True,
    help="No place is empty: estimate it from many places with cells, unverified.",
)
def field_command(
    config: Path | None,
    images: Path | None,
    dark: Path | None,
    out: Path,
    frames: int,
    objective: str | None,
    pixel_size_um: float | None,
    from_cells: bool,
) -> None:
    """Measure black level, flat field and white point on an empty field.

    Bring a place of the slide without cells into view and move the stage a little while
    it is measured, from empty place to empty place: plasma is not even either.
    """
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


@calibrate_command.command("scale")
@click.argument("images", nargs=-1, required=True, type=_FOUND)
@click.option(
    "--cells",
    is_flag=True,
    help="They show red cells, not a ruler: less exact, 7.5 µm are assumed.",
)
@click.option(
    "--division-um",
    default=10.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="Distance of neighbouring lines.",
)
@click.option("--profile", type=FOLDER, help="Profile that is given the scale.")
@click.option("--page", type=PATH, help="Folder for a page that shows it.")
def scale_command(
    images: tuple[Path, ...],
    cells: bool,
    division_um: float,
    profile: Path | None,
    page: Path | None,
) -> None:
    """Read the size of a pixel off IMAGES of a stage micrometer, or of a smear.

    The scale belongs to an objective: --profile writes it into that objective's
    profile, which gets a new calibration id.
    """
    files = find_images(images)
    shown = [read_image(file) for file in files]
    old = None if profile is None else load_profile(profile)
    for pixels in shown:
        if old is not None:
            old.check(pixels.shape[1], pixels.shape[0], camera=None)
    if cells:
        scale = measure_cells(shown, old or IDENTITY_PROFILE)
    elif len(shown) == 1:
        scale = measure_rulings(shown[0], division_um)
    else:
        raise click.UsageError(f"{len(shown)} images; name one of the micrometer")
    click.echo(f"{scale}; {scale.found} {'cells' if cells else 'lines'}")
    if page is not None:
        click.echo(f"page: {write_scale_page(page, scale, shown[0])}")
    if profile is None or old is None:
        return
    record = msgspec.structs.replace(old.record, pixel_size_um=round(scale.um, 6))
    new = replace_profile(profile, record, old.flat_field)
    click.echo(f"profile: {profile}, calibration {(new.calibration_id or '')[:12]}")


@calibrate_command.command("versions")
@click.argument("profile", type=FOLDER)
@click.option("--restore", "wanted", help="Go back to this calibration.")
def versions_command(profile: Path, wanted: str | None) -> None:
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
