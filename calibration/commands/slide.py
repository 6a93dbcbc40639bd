"""The command `hemascope calibrate slide`."""

from __future__ import annotations

from pathlib import Path

import click

from calibration.frames import read_frames, source_of
from calibration.pages.slide_page import write_slide_page
from calibration.reference import fit_reference, measure_slide, with_reference
from calibration.versions import replace_profile
from edge.artifacts.bundle import LOCATOR, load_bundle
from edge.artifacts.profile import Profile, load_profile
from edge.engines.opening import open_engine
from edge.errors import ConfigurationInvalid
from edge.frames import Counts
from edge.pipeline.parts import shipped_classifier
from edge.settings.sources import SourceSettings


def calibrate_slide(
    config: Path | None,
    images: Path | None,
    profile: Path,
    frames: int,
    pixel_size_um: float | None,
    accept: bool,
) -> None:
    """Measure a slide, and bring it to the reference look if that is accepted."""
    before = _load_calibrated(profile)
    counts = _read_counts(source_of(config, images), images, frames, before)
    locator = load_bundle(LOCATOR, task="location")
    slide = measure_slide(counts, before, locator, open_engine(locator), pixel_size_um)
    reference = fit_reference(slide)
    after = with_reference(before, reference)
    page = write_slide_page(
        profile / "slide", slide, reference, before, after, counts[len(counts) // 2]
    )
    click.echo(f"{len(slide.red_cells)} red cells, {len(slide.nuclei)} nuclei")
    click.echo(f"page: {page}")
    if not accept and not click.confirm("Look at the page. Use this reference?"):
        click.echo("nothing was changed")
        return
    new = replace_profile(profile, after.record, before.flat_field)
    if before.record.confidence is not None:
        click.echo(
            "the site's confidence was removed, it was fitted to the colours before; "
            "`hemascope calibrate confidence` fits it again"
        )
    click.echo(f"profile: {profile}, calibration {(new.calibration_id or '')[:12]}")
    click.echo(f"shipped model from now on: {shipped_classifier(new).name}")


def _load_calibrated(folder: Path) -> Profile:
    """Read a profile that has a white point.

    Raises
    ------
    ConfigurationInvalid
        The light was not measured yet.
    """
    profile = load_profile(folder)
    if profile.record.white_point is None:
        raise ConfigurationInvalid(
            f"{folder}: has no white point, expected one; `hemascope calibrate field` "
            "comes first"
        )
    return profile


def _read_counts(
    source: SourceSettings, images: Path | None, frames: int, profile: Profile
) -> list[Counts]:
    """Read frames (H, W, 3) of the slide that fit the profile.

    Raises
    ------
    ProfileMismatch
        A frame is of another camera or another size.
    """
    read = read_frames(source, frames if images is None else None, "slide")
    for frame in read:
        height, width = frame.pixels.shape[:2]
        profile.check(width, height, frame.shot.camera)
    return [frame.pixels for frame in read]
