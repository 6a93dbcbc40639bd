"""The commands of this folder: calibrate."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import click
import msgspec
import numpy as np
from rich.progress import Progress

from calibration.field import (
    LEAST_FRAMES,
    PLASMA_DENSITY,
    EmptyField,
    FieldRefused,
    measure_field,
)
from calibration.field_page import write_field_page
from calibration.scale import measure_rulings
from edge.codec import read_toml
from edge.errors import ConfigurationInvalid
from edge.frames import Exposure, RawFrame, SourceEnded
from edge.images import read_image
from edge.profile import (
    Profile,
    ProfileRecord,
    Row4,
    load_profile,
    save_profile,
)
from edge.settings import DeviceFile, FolderSettings, SourceSettings
from edge.sources.opening import open_source

_READ_S, _MOST_SILENT = 1.0, 10  # seconds, and reads without a frame before giving up
_PATH = click.Path(path_type=Path)
_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.group("calibrate")
def calibrate_command() -> None:
    """Measure what the device then applies, until the next calibration."""


@calibrate_command.command("field")
@click.option("--config", type=_PATH, help="Settings file of the device.")
@click.option("--images", type=_FOLDER, help="Frames of empty places, instead.")
@click.option("--dark", type=_FOLDER, help="Frames with the light off.")
@click.option("--out", required=True, type=_PATH, help="Folder of the profile.")
@click.option(
    "--frames",
    default=LEAST_FRAMES,
    show_default=True,
    type=click.IntRange(LEAST_FRAMES),
)
@click.option("--objective", help="What the profile is for, such as 100x/1.25.")
@click.option("--pixel-size-um", type=click.FloatRange(0, min_open=True))
def field_command(
    config: Path | None,
    images: Path | None,
    dark: Path | None,
    out: Path,
    frames: int,
    objective: str | None,
    pixel_size_um: float | None,
) -> None:
    """Measure black level, flat field and white point on an empty field.

    Bring a place of the slide without cells into view and move the stage a little while
    it is measured, from empty place to empty place: plasma is not even either.
    """
    if (config is None) == (images is None):
        raise click.UsageError("name either --config or --images")
    source = _source(config, images)
    seen = _read(source, frames if images is None else None, "empty field")
    darks = [] if dark is None else _read(FolderSettings(dark), None, "dark")
    field = measure_field(seen, darks)
    before = load_profile(out).record if (out / "profile.json").exists() else None
    if before is not None:
        objective = objective or before.objective
        pixel_size_um = pixel_size_um or before.pixel_size_um
        click.echo(f"kept: objective {objective}, pixel size {pixel_size_um} µm")
    record = _record(field, seen[0], objective, pixel_size_um)
    profile = save_profile(out, record, field.flat_field)
    page = write_field_page(out, field, profile, seen)
    _say(field, profile)
    click.echo(f"profile: {out}\npage: {page}")


@calibrate_command.command("scale")
@click.argument("image", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--division-um",
    default=10.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="Distance of neighbouring lines.",
)
@click.option("--profile", type=_FOLDER, help="Profile that is given the scale.")
def scale_command(image: Path, division_um: float, profile: Path | None) -> None:
    """Read the size of a pixel off IMAGE, a picture of a stage micrometer.

    The scale belongs to an objective: --profile writes it into that objective's
    profile, which gets a new calibration id.
    """
    pixels = read_image(image)
    scale = measure_rulings(pixels, division_um)
    click.echo(f"{scale}; {scale.found} lines, {scale.angle_deg:.1f}° to the rows")
    if profile is None:
        return
    old = load_profile(profile)
    old.check(pixels.shape[1], pixels.shape[0], camera=None)
    record = msgspec.structs.replace(old.record, pixel_size_um=round(scale.um, 6))
    new = save_profile(profile, record, old.flat_field)
    click.echo(f"profile: {profile}, calibration {(new.calibration_id or '')[:12]}")


def _source(config: Path | None, images: Path | None) -> SourceSettings:
    if config is not None:
        return read_toml(config, DeviceFile).source
    return FolderSettings(images or Path())


def _read(settings: SourceSettings, count: int | None, what: str) -> list[RawFrame]:
    """Read `count` frames, or all of a recording."""
    source = open_source(settings)
    frames: list[RawFrame] = []
    silent = 0
    try:
        with Progress(transient=True) as bar:
            task = bar.add_task(f"reading: {what}", total=count)
            while count is None or len(frames) < count:
                item = source.read(_READ_S)
                silent = silent + 1 if item is None else 0
                if isinstance(item, Exposure):
                    frames.append(item.develop())
                    bar.update(task, completed=len(frames))
                if silent > _MOST_SILENT:
                    raise FieldRefused(
                        f"{len(frames)} frames came, expected {count}; see whether "
                        "the camera delivers"
                    )
    except SourceEnded:
        pass
    finally:
        source.close()
    if not frames:
        raise ConfigurationInvalid(f"{what}: no frame came; name another source")
    return frames


def _record(
    field: EmptyField, frame: RawFrame, objective: str | None, pixel_um: float | None
) -> ProfileRecord:
    height, width = frame.pixels.shape[:2]

    def row(channel: int) -> Row4:
        red, green, blue = np.eye(3)[channel].tolist()
        return red, green, blue, PLASMA_DENSITY

    return ProfileRecord(
        camera_serial=frame.shot.camera,
        objective=objective,
        width_px=width,
        height_px=height,
        black_level=field.black_level or 0.0,
        white_point=field.white_point,
        matrix=(row(0), row(1), row(2)),
        pixel_size_um=pixel_um or frame.shot.pixel_size_um,
        created_at=datetime.now(timezone.utc).replace(microsecond=0),
    )


def _say(field: EmptyField, profile: Profile) -> None:
    white = ", ".join(f"{value:.1f}" for value in field.white_point)
    black = "not measured, taken as 0 (--dark measures it)"
    if field.black_level is not None:
        black = f"{field.black_level:.1f}"
    click.echo(f"black level: {black}")
    click.echo(f"white point: {white} of {field.full_scale}")
    click.echo(f"darkest place: {field.flat_field.min():.0%} of the brightest")
    click.echo(f"uneven: {field.uneven:.2%} around the fit; noise {field.noise:.1f}")
    click.echo(f"calibration: {(profile.calibration_id or '')[:12]}")
