"""The command `hemascope calibrate scale`."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from calibration.pages.scale_page import write_scale_page
from calibration.scale import measure_cells, measure_rulings
from calibration.versions import replace_profile
from edge.artifacts.profile import IDENTITY_PROFILE, load_profile
from edge.pipeline.images.classify_images import find_images
from edge.sources.image_files import read_image


def calibrate_scale(
    images: tuple[Path, ...],
    cells: bool,
    division_um: float,
    profile: Path | None,
    page: Path | None,
) -> None:
    """Measure the size of a pixel, and write it into a profile if one is named."""
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
