"""Count the cells of a slide, each once.

Frames come here in their order, already examined. The gate turns bad ones away before
cells are followed; then the mosaic says where the others lie, the census knows every
cell once, and the running differential goes into the row.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime

import msgspec
import numpy as np

from edge.schema.results import Differential, FrameResult
from edge.schema.row_limits import MAX_FOLLOWED_CELLS
from edge.slide.cell_registry import CellRegistry, Detections, detections_of
from edge.slide.confusion_correction import Correction
from edge.slide.differential import differentiate
from edge.slide.mosaic import Mosaic, MosaicPosition
from edge.slide.quality_gate import QualityGate
from edge.slide.run_state import RunState
from edge.stages.thumbnail import Thumbnail

MARGIN_UM = 9.0  # half of the largest cell: what is centred further inside is whole
_MOST_MARGIN = 0.15  # of the shorter side, where the field itself is small


class SlideCounter(RunState):
    """The slide that is being counted.

    What `judge` and `count` change (`gate`, `mosaic`, `registry`) is of their thread.
    """

    _since: datetime | None  # the first frame of a run that was resumed

    def __init__(
        self,
        labels: tuple[str, ...],
        abstain_below: float,
        wanted_width: float,
        correction: Correction | None = None,
    ) -> None:
        self._labels, self._abstain_below = labels, abstain_below
        self._wanted_width, self._correction = wanted_width, correction
        super().__init__()

    def judge(self, result: FrameResult) -> FrameResult:
        """See `RunState.judge`; frames that are no good are rejected."""
        result = super().judge(result)
        if self._is_resumed and self._since is None:
            self._since = result.utc
        return self.gate.judge(result)

    def count(self, result: FrameResult, thumbnail: Thumbnail | None) -> FrameResult:
        """See `RunState.count`; the differential goes into what is said."""
        if result.run is None:
            return result
        place = None
        if thumbnail is not None and result.status in ("ok", "degraded"):
            if _is_cut_short(result):
                reason = f"{result.reason}; nothing is counted on it"
                result = msgspec.structs.replace(result, reason=reason)
            else:
                place = self._count(result, thumbnail)
        differential = self._differentiate()
        if place is not None and thumbnail is not None:
            differential = msgspec.structs.replace(
                differential,
                patch=place.patch,
                place_um=_in_um(place, result, thumbnail),
            )
        return msgspec.structs.replace(result, differential=differential)

    def _begin(self) -> None:
        """Know nothing yet."""
        self.gate, self.mosaic = QualityGate(), Mosaic()
        self.registry = CellRegistry(self._labels, self._abstain_below)
        self._said: tuple[Counter[str], int, Differential] | None = None
        self._since = None

    def _differentiate(self) -> Differential:
        """Say what was counted so far; where nothing changed, that is said again."""
        counts, patches = self.registry.counts(), self.mosaic.patches
        if self._said is None or self._said[:2] != (counts, patches):
            differential = differentiate(
                counts, self._labels, self._wanted_width, patches, self._correction
            )
            differential = msgspec.structs.replace(differential, since=self._since)
            self._said = counts, patches, differential
        return self._said[2]

    def _count(self, result: FrameResult, thumbnail: Thumbnail) -> MosaicPosition:
        size = (thumbnail.shape[1], thumbnail.shape[0])
        detections = _sights(result, self._labels, size)
        placement = self.mosaic.lay(
            thumbnail, lambda: self.registry.nominate(detections)
        )
        for join in placement.joins:
            self.registry.join(join)
        if placement.snap is not None:
            self.registry.snap(placement.place, size, placement.snap)
        margin_px = counting_margin(size, _um_per_px(result, thumbnail))
        self.registry.look(placement.place, size, margin_px, detections)
        return placement.place


def _is_cut_short(result: FrameResult) -> bool:
    """Whether cells were left out because they are followed: they would seem gone."""
    return result.following is not None and len(result.cells) >= MAX_FOLLOWED_CELLS


def counting_margin(size: tuple[int, int], um_per_px: float) -> float:
    """How far inside a picture of this size the centre of a counted cell lies (px)."""
    return float(min(MARGIN_UM / um_per_px, _MOST_MARGIN * min(size)))


def _sights(
    result: FrameResult, labels: tuple[str, ...], view_px: tuple[int, int]
) -> Detections:
    boxes = np.array([cell.box for cell in result.cells], np.float64).reshape(-1, 4)
    likely = np.array(
        [[cell.probabilities[label] for label in labels] for cell in result.cells]
    ).reshape(-1, len(labels))
    return detections_of(boxes, likely, (result.width_px, result.height_px), view_px)


def _um_per_px(result: FrameResult, thumbnail: Thumbnail) -> float:
    """Micrometres per pixel of a view, which is only made where a pixel's are known."""
    if result.pixel_size_um is None:
        raise ValueError("a frame of unknown scale has a view")
    return float(result.pixel_size_um * result.width_px / thumbnail.shape[1])


def _in_um(
    place: MosaicPosition, result: FrameResult, thumbnail: Thumbnail
) -> tuple[float, float]:
    um = _um_per_px(result, thumbnail)
    return round(place.x_px * um, 2), round(place.y_px * um, 2)
