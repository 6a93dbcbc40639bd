"""The page of a scale: the lines or cells it was measured on, drawn into the image."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from calibration.scale import PixelScale
from edge.frames import Counts
from edge.rendering.plots import GREEN, PAGE_PX, Image, png, resized
from edge.rendering.report_blocks import Picture, TextTable, write_pages


def write_scale_page(folder: Path, scale: PixelScale, image: Counts) -> Path:
    """Write `report.html` and `report.md` and return the path of the first.

    `image` (H, W, 3) or (H, W), counts, is the first that was measured.
    """
    is_ruler = scale.positions.ndim == 1
    return write_pages(
        folder,
        "Scale",
        [
            Picture(
                "scale",
                png(_drawn(scale, image)),
                "Where the lines were found" if is_ruler else "The red cells measured",
                "Every green line should lie on a line of the micrometer, none beside."
                if is_ruler
                else "Every green box should touch one whole red cell.",
            ),
            TextTable(
                ["measured", "value"],
                [
                    ["µm per pixel", f"{scale.um:.5f}"],
                    ["95 % interval", f"{scale.low_um:.5f} to {scale.high_um:.5f}"],
                    ["lines" if is_ruler else "red cells", str(scale.found)],
                    ["angle of the rulings", f"{scale.angle_deg:.2f}°"],
                ],
            ),
        ],
    )


def _drawn(scale: PixelScale, image: Counts) -> Image:
    """Draw the lines or the boxes of the cells into the image."""
    full_scale = np.iinfo(image.dtype).max
    shown = resized((image / (full_scale / 255)).astype(np.uint8), PAGE_PX)
    zoom = PAGE_PX / image.shape[1]
    if scale.positions.ndim == 2:
        for x0, y0, x1, y1 in (scale.positions * zoom).astype(int).tolist():
            cv2.rectangle(shown, (x0, y0), (x1, y1), GREEN, 1, cv2.LINE_AA)
        return shown
    angle, reach = np.radians(scale.angle_deg), float(sum(shown.shape[:2]))
    across = np.array([np.cos(angle), np.sin(angle)])
    along = np.array([-across[1], across[0]])
    for position in scale.positions * zoom:
        start, end = (np.rint(across * position + along * r) for r in (-reach, reach))
        ends = [(int(p[0]), int(p[1])) for p in (start, end)]
        cv2.line(shown, ends[0], ends[1], GREEN, 1, cv2.LINE_AA)
    return shown
