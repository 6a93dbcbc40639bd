"""Fill the record of an examined frame: what becomes a row of the ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from edge import __version__, clock
from edge.artifacts.bundle import Bundle
from edge.artifacts.profile import Profile
from edge.frames import RawFrame
from edge.pipeline.classifiers import ClassifiedCells
from edge.pipeline.pixel_size import PixelSize
from edge.schema.results import Cell, FrameRange, FrameResult, Quality, SeenColours
from edge.schema.row_limits import MAX_CELLS
from edge.stages.field_check import FieldDoubt
from edge.taxonomy import UNIDENTIFIED

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, eq=False)
class MadeWith:
    """What a result was made with; a row names each of them."""

    classifier: Bundle
    locator: Bundle | None
    profile: Profile
    scale: PixelSize


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """How good an exposure is, and its colours, where cells are located.

    `boxes` (N, 4) float32 are those of the cells, in pixels of the reduced frame.
    """

    quality: Quality
    colours: SeenColours | None
    boxes: NDArray[np.float32]


def fill_record(
    raw: RawFrame,
    cells: tuple[Cell, ...],
    made_with: MadeWith,
    measured: Measured,
    doubts: Sequence[FieldDoubt],
    timings_ms: dict[str, float],
) -> FrameResult:
    """Return the result of a frame; with any doubt it is `degraded` or `rejected`.

    A row holds `MAX_CELLS` cells: of more, the likeliest are kept, which stand first.
    """
    kept, all_doubts = cells[:MAX_CELLS], [doubt.reason for doubt in doubts]
    fault = next((doubt.fault for doubt in doubts if doubt.fault), None)
    if made_with.locator is not None and made_with.scale.doubt is not None:
        all_doubts.append(made_with.scale.doubt)
    if len(cells) > len(kept):
        all_doubts.append(
            f"too many cells: {len(cells)} were found, the likeliest {len(kept)} are "
            "in the row"
        )
    shot, (width_px, height_px) = raw.shot, raw.size_px
    return FrameResult(
        status="rejected" if fault else "degraded" if all_doubts else "ok",
        reason="; ".join(all_doubts) or None,
        fault=fault,
        utc=shot.utc,
        monotonic_ns=shot.monotonic_ns,
        boot_id=clock.boot_id(),
        clock_synchronised=clock.is_synchronised(),
        source=shot.source_id,
        camera=shot.camera,
        controls=shot.controls,
        frame=FrameRange(first=shot.sequence, last=shot.sequence),
        width_px=width_px,
        height_px=height_px,
        filler_bytes=raw.filler_bytes or UNSET,
        pixel_size_um=made_with.scale.um,
        pixel_size_origin=made_with.scale.origin,
        pixel_size_range_um=_known(made_with.scale.range_um),
        pixel_size_cells=_known(made_with.scale.cells),
        quality=measured.quality,
        colours=measured.colours,
        model=made_with.classifier.id,
        locator=None if made_with.locator is None else made_with.locator.id,
        calibration_id=made_with.profile.calibration_id,
        software=__version__,
        cells=kept,
        cells_found=UNSET if len(cells) == len(kept) else len(cells),
        counts=Counter(cell.label for cell in kept),
        timings_ms=timings_ms,
    )


def _known(value: _T | None) -> _T | UnsetType:
    """Return a value; what is not known takes no bytes in the row."""
    return UNSET if value is None else value


def cells_of(classified: ClassifiedCells, classifier: Bundle) -> tuple[Cell, ...]:
    """Return the cells of a row as the first classifier, `classifier`, names them."""
    classes, labels = classifier.record.classes, classifier.labels
    decisions = classified.decisions
    boxes = classified.regions.boxes.round().astype(int).tolist()
    shares = decisions.probabilities.astype(float).round(4).tolist()
    winners, abstained = decisions.classes.tolist(), decisions.abstained.tolist()
    return tuple(
        Cell(
            id=number,
            box=(box[0], box[1], box[2], box[3]),
            label=UNIDENTIFIED if is_unsure else labels[winner],
            ontology=None if is_unsure else classes[winner].ontology,
            confidence=share[winner],
            probabilities=dict(zip(labels, share, strict=True)),
            abstained=is_unsure,
        )
        for number, (box, winner, share, is_unsure) in enumerate(
            zip(boxes, winners, shares, abstained, strict=True)
        )
    )
