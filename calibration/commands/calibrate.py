"""The commands `hemascope calibrate …` and their options; each has its own file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from calibration.choices import METHODS, MIN_FRAMES
from edge.cli.groups import CommandGroup, Section, in_section
from edge.cli.options import PIXEL_SIZE_UM

_PATH = click.Path(path_type=Path)
_FOUND = click.Path(path_type=Path, exists=True)
_FILE = click.Path(path_type=Path, dir_okay=False)
_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
_CONFIG = click.option(
    "--config",
    type=_PATH,
    help="Settings file of the device. Frames are taken from its camera.",
)
_PIXEL_SIZE = click.option(
    "--pixel-size-um",
    type=PIXEL_SIZE_UM,
    help="Size of a pixel in µm. Without it, that of the profile if it has one.",
)


@in_section(Section.CALIBRATE)
@click.group("calibrate", cls=CommandGroup)
def calibrate_command() -> None:
    """Measure the microscope, so that the device corrects what it sees.

    The results lie in a folder, the profile. A device applies it until another one is
    written.
    """


@calibrate_command.command("field")
@_CONFIG
@click.option(
    "--images",
    type=_FOLDER,
    help="Folder with images of empty places, in place of a camera.",
)
@click.option(
    "--dark",
    type=_FOLDER,
    help="Folder with images taken with the light off. Without it, the black level is "
    "taken as 0.",
)
@click.option("--out", required=True, type=_PATH, help="Folder of the profile.")
@click.option(
    "--frames",
    default=MIN_FRAMES,
    type=click.IntRange(MIN_FRAMES),
    help="Number of frames that are taken from the camera.",
)
@click.option(
    "--objective", help="Objective that the profile is for, such as 100x/1.25."
)
@_PIXEL_SIZE
@click.option(
    "--from-cells",
    is_flag=True,
    help="For slides without an empty place: estimate the field from many places with "
    "cells. The profile is then marked as unverified.",
)
def field_command(**options: Any) -> None:
    """Measure black level, flat field and white point on an empty field.

    Bring a place of the slide without cells into view. While the field is measured,
    move the stage a little, from empty place to empty place, because plasma is not
    even.
    """
    from calibration.commands.field import calibrate_field

    calibrate_field(**options)


@calibrate_command.command("scale")
@click.argument("images", nargs=-1, required=True, type=_FOUND)
@click.option(
    "--cells",
    is_flag=True,
    help="The images show red cells and no ruler. This is less exact: red cells are "
    "taken to be 7.5 µm wide.",
)
@click.option(
    "--division-um",
    default=10.0,
    type=click.FloatRange(0, min_open=True),
    help="Distance of neighbouring lines of the micrometer, in µm.",
)
@click.option(
    "--profile", type=_FOLDER, help="Profile into which the scale is written."
)
@click.option("--page", type=_PATH, help="Folder for a page that shows the result.")
def scale_command(**options: Any) -> None:
    """Measure the size of a pixel on images of a stage micrometer or of a smear.

    IMAGES are one image of a stage micrometer, or with --cells image files and folders
    of a smear. The scale belongs to an objective: --profile writes it into the profile
    of that objective, which gets a new calibration id.
    """
    from calibration.commands.scale import calibrate_scale

    calibrate_scale(**options)


@calibrate_command.command("slide")
@_CONFIG
@click.option(
    "--images",
    type=_FOLDER,
    help="Folder with images of places of the slide, in place of a camera.",
)
@click.option(
    "--profile",
    required=True,
    type=_FOLDER,
    help="Profile into which the reference is written.",
)
@click.option(
    "--frames",
    default=20,
    type=click.IntRange(1),
    help="Number of frames that are taken from the camera.",
)
@_PIXEL_SIZE
@click.option(
    "--accept", is_flag=True, help="Do not ask whether the result shall be used."
)
def slide_command(**options: Any) -> None:
    """Bring the red cells and nuclei of this slide to the reference colours.

    Move the stage while the slide is measured: 200 cells of different places are
    wanted. A page shows the colours before and after; nothing changes until you accept
    it. The calibration before it is kept (`hemascope calibrate versions`).
    """
    from calibration.commands.slide import calibrate_slide

    calibrate_slide(**options)


@calibrate_command.command("confidence")
@click.argument("reviewed", type=_FILE)
@click.option(
    "--profile",
    required=True,
    type=_FOLDER,
    help="Profile into which the result is written.",
)
@click.option(
    "--bundle",
    type=_PATH,
    help="Folder of the model. Without it, the one that comes with Hemascope.",
)
@_PIXEL_SIZE
@click.option(
    "--error-rate",
    type=click.FloatRange(0, 1),
    help="Wanted share of errors among the named cells. It sets the least confidence "
    "at which a cell is named. Without it, the model's is kept.",
)
def confidence_command(**options: Any) -> None:
    """Adapt the confidence of the model to this site, by cells that a person reviewed.

    REVIEWED is a CSV file with the columns path, label, x0, y0, x1, y1, of at most
    about a hundred cells. Review cells as they come, and do not choose them. The
    profile is only changed if that helps on cells that it was not fitted to;
    `hemascope calibrate versions --restore` goes back.
    """
    from calibration.commands.confidence import calibrate_confidence

    calibrate_confidence(**options)


@calibrate_command.command("normalise")
@click.argument("images", nargs=-1, required=True, type=_PATH)
@click.option(
    "--method",
    required=True,
    type=click.Choice(METHODS),
    help="Published method of stain normalisation.",
)
@click.option(
    "--reference",
    required=True,
    type=_FOLDER,
    help="Folder with images of the slide whose colours are wanted.",
)
@click.option(
    "--out", required=True, type=_PATH, help="Folder for the normalised images (PNG)."
)
def normalise_command(**options: Any) -> None:
    """Normalise the stain of images of one slide, offline, for comparison.

    IMAGES are image files and folders. Statistics are taken from the stained pixels of
    all images together. For live use there is `hemascope calibrate slide`.
    """
    from calibration.commands.normalise import normalise_images

    normalise_images(**options)


@calibrate_command.command("versions")
@click.argument("profile", type=_FOLDER)
@click.option(
    "--restore",
    "wanted",
    help="Id of an earlier calibration, as listed, to go back to.",
)
def versions_command(**options: Any) -> None:
    """List the calibrations of a profile, or go back to an earlier one.

    PROFILE is the folder of the profile.
    """
    from calibration.commands.versions import show_versions

    show_versions(**options)
