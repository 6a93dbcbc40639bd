"""What is said of an examined image: one set of fields for every way out.

JSON lines, CSV, the table and the annotated picture all take it from here, so that none
of them leaves out what speaks against believing a result.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from msgspec import UnsetType

from edge.pipeline.pipeline import ExaminedFrame
from edge.schema.results import Cell, Fault, Quality, Status, cells_found


class CellLine(msgspec.Struct, frozen=True):
    """One cell of a JSON line."""

    box: tuple[int, int, int, int]
    label: str
    confidence: float
    probabilities: dict[str, float]
    abstained: bool


class ImageLine(msgspec.Struct, frozen=True, kw_only=True):
    """One JSON line: what is on one image, and what speaks against believing it.

    `status`, `reason` and `fault` are those of a row of the ledger: a `rejected` image
    has no cells, a `degraded` one has some with a doubt. `cells_found` counts what was
    found, also where the quality gate rejected it. `pixel_size_origin` says who told
    the size of a pixel; where it was read off the cells, `pixel_size_range_um` are its
    95 % limits. `model`, `locator` and `calibration_id` are what it was examined with.
    """

    path: str
    status: Status
    reason: str | None
    fault: Fault | None
    width: int
    height: int
    pixel_size_um: float | None
    pixel_size_origin: str | None
    pixel_size_range_um: tuple[float, float] | None
    quality: Quality | None
    model: str | None
    locator: str | None
    calibration_id: str | None
    software: str
    cells_found: int
    counts: dict[str, int]
    cells: list[CellLine]
    timings_ms: dict[str, float]


class ErrorLine(msgspec.Struct, frozen=True):
    """One JSON line: why an image could not be examined."""

    path: str
    error: str


CELL_COLUMNS = ("x0", "y0", "x1", "y1", "label", "confidence", "abstained")
IMAGE_COLUMNS = (
    "path",
    "status",
    "reason",
    "fault",
    "width",
    "height",
    "pixel_size_um",
    "pixel_size_origin",
    "focus",
    "brightness",
    "model",
    "locator",
    "calibration_id",
    "software",
    "cells_found",
)


def image_line(path: str, examined: ExaminedFrame) -> ImageLine:
    """Return the line of an image that was examined."""
    result = examined.result
    limits = result.pixel_size_range_um
    return ImageLine(
        path=path,
        status=result.status,
        reason=result.reason,
        fault=result.fault,
        width=result.width_px,
        height=result.height_px,
        pixel_size_um=result.pixel_size_um,
        pixel_size_origin=result.pixel_size_origin,
        pixel_size_range_um=None if isinstance(limits, UnsetType) else limits,
        quality=result.quality,
        model=result.model,
        locator=result.locator,
        calibration_id=result.calibration_id,
        software=result.software,
        cells_found=cells_found(result),
        counts=dict(sorted(result.counts.items())),
        cells=[_cell_line(cell) for cell in result.cells],
        timings_ms=result.timings_ms,
    )


def csv_rows(line: ImageLine | ErrorLine) -> Iterator[tuple[object, ...]]:
    """Return the rows of a CSV file: `IMAGE_COLUMNS`, then `CELL_COLUMNS`.

    One row for each cell; one without a cell where an image has none. The status of an
    image that could not be examined is "failed".
    """
    if isinstance(line, ErrorLine):
        known: dict[str, object] = {
            "path": line.path,
            "status": "failed",
            "reason": line.error,
        }
        yield tuple(known.get(name) for name in (*IMAGE_COLUMNS, *CELL_COLUMNS))
        return
    quality = line.quality
    figures = {
        "focus": None if quality is None else quality.focus,
        "brightness": None if quality is None else quality.brightness,
    }
    image = tuple(
        figures[name] if name in figures else getattr(line, name)
        for name in IMAGE_COLUMNS
    )
    for cell in line.cells:
        yield (*image, *cell.box, cell.label, cell.confidence, cell.abstained)
    if not line.cells:
        yield (*image, *(None for _ in CELL_COLUMNS))


def doubt_of(line: ImageLine | ErrorLine) -> str | None:
    """Return in one text why a line is not to be believed as it is; None if it is."""
    if isinstance(line, ErrorLine):
        return line.error
    return None if line.status == "ok" else f"{line.status}: {line.reason}"


def _cell_line(cell: Cell) -> CellLine:
    return CellLine(
        cell.box, cell.label, cell.confidence, cell.probabilities, cell.abstained
    )
