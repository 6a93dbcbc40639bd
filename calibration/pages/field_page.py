"""The page of a field calibration: the field before and after, and the figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from calibration.field import EmptyField
from edge.artifacts.profile import Profile
from edge.frames import RawFrame
from edge.rendering.plots import (
    BLUE,
    GREEN,
    PAGE_PX,
    RED,
    Axes,
    Image,
    png,
    resized,
    side_by_side,
)
from edge.rendering.report_blocks import (
    Block,
    Heading,
    Paragraph,
    Picture,
    TextTable,
    write_pages,
)
from edge.stages.colour_correction import correct, prepare


def write_field_page(
    folder: Path, field: EmptyField, profile: Profile, frames: Sequence[RawFrame]
) -> Path:
    """Write `report.html` and `report.md` into the profile's folder.

    Returns the path of `report.html`. One of `frames` is shown before and after.
    """
    raw = frames[len(frames) // 2].pixels
    height, width = raw.shape[:2]
    after = correct(raw, prepare(profile, width, height, raw.dtype))
    before = (raw / (field.full_scale / 255)).astype(np.uint8)
    figures = _figures(field, profile, len(frames), (width, height))
    blocks = [
        *_before_and_after(field, before, after),
        figures,
        Heading("Flat field"),
        *_light(field, before, after),
    ]
    return write_pages(folder, "Field calibration", blocks)


def _before_and_after(field: EmptyField, before: Image, after: Image) -> list[Block]:
    """Show the field as the camera saw it and as it is corrected."""
    shown = "an empty field"
    if not field.is_verified:
        shown = "a field with cells (no empty one was seen: unverified)"
    return [
        Paragraph(
            f"Left as the camera saw {shown}, right as every frame is corrected from "
            "now on, until the next calibration."
        ),
        Picture(
            "fields",
            png(side_by_side(before, after)),
            "The field before and after",
            "Between cells the right one should be one even grey; a cast, a dark "
            "corner or the shadow of a cell would show.",
        ),
    ]


def _figures(
    field: EmptyField, profile: Profile, frames: int, size_px: tuple[int, int]
) -> TextTable:
    """List what was measured."""
    width, height = size_px
    black = "not measured" if field.black_level is None else f"{field.black_level:.1f}"
    white = " / ".join(f"{value:.1f}" for value in field.white_point)
    return TextTable(
        ["measured", "value"],
        [
            ["frames", str(frames)],
            ["size", f"{width} x {height} px"],
            ["black level", black],
            ["white point, red / green / blue", f"{white} of {field.full_scale}"],
            ["darkest place over brightest", f"{field.flat_field.min():.3f}"],
            ["uneven around the fit", f"{field.uneven:.2%}"],
            ["noise of a count", f"{field.noise:.2f}"],
            ["calibration id", str(profile.calibration_id)],
        ],
    )


def _light(field: EmptyField, before: Image, after: Image) -> list[Block]:
    """Show how even the light was, and how even it becomes."""
    green = field.flat_field[..., 1]
    return [
        Picture(
            "flat-field",
            png(_map(green)),
            "Light over the field, green channel",
            f"Dark blue is {green.min():.2f} of the brightest place, yellow is 1.",
        ),
        Picture(
            "profiles",
            png(_profiles(before, after)),
            "Counts along the middle row, before (thin) and after (thick)",
            "From the left border to the right one, 0 to 255. After the correction the "
            "lines lie flat and upon each other.",
        ),
    ]


def _map(share: NDArray[np.float32]) -> Image:
    """Draw a flat field (h, w), 0 to 1, as a map from dark blue to yellow."""
    spread = max(float(np.ptp(share)), 1e-3)
    grey = ((share - share.min()) / spread * 255).astype(np.uint8)
    coloured = cv2.applyColorMap(resized(grey, PAGE_PX), cv2.COLORMAP_CIVIDIS)
    return np.asarray(cv2.cvtColor(coloured, cv2.COLOR_BGR2RGB), np.uint8)


def _profiles(before: Image, after: Image) -> Image:
    """Draw the middle row of both images, averaged over some rows to reduce noise."""
    axes = Axes((0, before.shape[1]), (0, 255), labels=("pixel", "counts, 8 bits"))
    for image, thickness in ((before, 1), (after, 3)):
        middle = image.shape[0] // 2
        rows = image[max(0, middle - 8) : middle + 9].mean(axis=0)
        line = cv2.resize(rows[None], (PAGE_PX, 1), interpolation=cv2.INTER_AREA)[0]
        across = np.linspace(0, before.shape[1], PAGE_PX)
        for channel, colour in enumerate((RED, GREEN, BLUE)):
            axes.line(across.tolist(), line[:, channel].tolist(), colour, thickness)
    return axes.image
