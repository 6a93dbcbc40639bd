"""The page of a slide reference: its cells before and after, beside the reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calibration.reference import (
    NUCLEUS_DENSITY,
    RED_CELL_DENSITY,
    SlideColours,
    without_reference,
)
from edge.artifacts.profile import Profile, ReferenceRecord
from edge.frames import Counts
from edge.rendering.plots import INK, RED, Axes, Image, png, side_by_side
from edge.rendering.report_blocks import (
    Heading,
    Paragraph,
    Picture,
    TextTable,
    write_pages,
)
from edge.stages.colour_correction import correct, prepare

_NUCLEI, _DOTS = (90, 60, 150), 400


def write_slide_page(
    folder: Path,
    slide: SlideColours,
    reference: ReferenceRecord,
    before: Profile,
    after: Profile,
    frame: Counts,
) -> Path:
    """Write `report.html` and `report.md` and return the path of the first.

    `frame` (H, W, 3), counts, shows what changes.
    """
    matrix = np.array(reference.matrix)
    rows = [
        _row("red cells", slide.red_cells, matrix, RED_CELL_DENSITY),
        _row("nuclei", slide.nuclei, matrix, NUCLEUS_DENSITY),
    ]
    return write_pages(
        folder,
        "Slide reference",
        [
            Paragraph(
                "Left at a common white, right with the slide's own map to the "
                "reference look. Accept it if the right one looks like the smears that "
                "you know: cells keep their structure, plasma stays light grey."
            ),
            Picture(
                "slide",
                png(
                    side_by_side(
                        _look(without_reference(before), frame), _look(after, frame)
                    )
                ),
                "A field of this slide before and after",
                "Nothing but colour may differ.",
            ),
            TextTable(
                [
                    "optical density above plasma, red / green / blue",
                    "cells",
                    "this slide",
                    "after the map",
                    "reference",
                ],
                [row for row in rows if row is not None],
            ),
            Heading("Cells"),
            Picture(
                "cells",
                png(_cloud(slide, matrix)),
                "Optical density of each cell: green over red, before and after",
                "Pale dots are cells before the map, strong ones after it; the crosses "
                "are where the medians of red cells and nuclei belong.",
            ),
        ],
    )


def _look(profile: Profile, frame: Counts) -> Image:
    """Show a frame (H, W, 3) as the device corrects it with a profile."""
    height, width = frame.shape[:2]
    return correct(frame, prepare(profile, width, height, frame.dtype))


def _row(
    name: str,
    cells: NDArray[np.float64],
    matrix: NDArray[np.float64],
    reference: tuple[float, ...],
) -> list[str] | None:
    """Median density of cells (N, 3), before and after the map, and the reference."""
    if len(cells) == 0:
        return None
    middle = np.median(cells, axis=0)
    densities = [_three(v) for v in (middle, matrix @ middle, np.array(reference))]
    return [name, str(len(cells)), *densities]


def _three(values: NDArray[np.float64]) -> str:
    return " / ".join(f"{value:.3f}" for value in values)


def _cloud(slide: SlideColours, matrix: NDArray[np.float64]) -> Image:
    """Draw the density of each cell, before and after the map (3, 3)."""
    axes = Axes((0.0, 0.8), (0.0, 1.2), labels=("red channel", "green channel"))
    for cells, colour in ((slide.red_cells, RED), (slide.nuclei, _NUCLEI)):
        shown = cells[:: max(1, len(cells) // _DOTS)]
        mapped = shown @ matrix.T
        r, g, b = (round(255 - 0.35 * (255 - value)) for value in colour)
        axes.dots(shown[:, 0].tolist(), shown[:, 1].tolist(), (r, g, b))
        axes.dots(mapped[:, 0].tolist(), mapped[:, 1].tolist(), colour)
    axes.cross(RED_CELL_DENSITY[0], RED_CELL_DENSITY[1], INK, "red cells")
    axes.cross(NUCLEUS_DENSITY[0], NUCLEUS_DENSITY[1], INK, "nuclei")
    return axes.image
