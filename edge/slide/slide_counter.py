"""Count the cells of a slide, each once.

Frames come here in their order, already examined. The quality gate turns bad ones away
before cells are followed; then the mosaic says where the others lie on the slide, the
registry knows every cell once, and the differential so far goes into the row.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime

import msgspec
import numpy as np

from edge.pipeline.quality_gate import QualityGate
from edge.schema.results import Differential, FrameResult
from edge.schema.row_limits import MAX_FOLLOWED_CELLS
from edge.slide.cell_registry import CellRegistry, Detections, detections_of
from edge.slide.confusion_correction import Correction
from edge.slide.differential import differentiate
from edge.slide.mosaic import Mosaic, MosaicPosition
from edge.slide.run_state import CurrentRun
from edge.stages.thumbnail import Thumbnail

MARGIN_UM = 9.0  # half of the largest cell: what is centred further inside is whole
_MAX_MARGIN = 0.15  # of the shorter side, where the field itself is small


class SlideCounter:
    """The count of one slide after the other. Used from one thread.

    With the first frame of another run everything begins anew: `gate`, `mosaic` and
    `registry` are of the run that is being counted.

    Parameters
    ----------
    labels
        The classes of the classifier, in the order of its probabilities.
    abstain_below
        Confidence below which a cell stays unidentified.
    wanted_width
        Width of the 95 % limits at which a class has been counted enough.
    correction
        The classifier's known confusion, taken back out of the counts.
    """

    def __init__(
        self,
        labels: tuple[str, ...],
        abstain_below: float,
        wanted_width: float,
        correction: Correction | None = None,
    ) -> None:
        self._labels, self._abstain_below = labels, abstain_below
        self._wanted_width, self._correction = wanted_width, correction
        self._since: datetime | None = None
        self._start(CurrentRun())

    def judge(self, result: FrameResult, run: CurrentRun) -> FrameResult:
        """Return the result, rejected where the frame is not good enough to count.

        `run` is the run of the frame; another one than before begins a new count.
        """
        if run.id != self._run.id:
            self._start(run)
        if run.is_resumed and self._since is None:
            self._since = result.utc
        return self.gate.judge(result)

    def count(self, result: FrameResult, thumbnail: Thumbnail | None) -> FrameResult:
        """Count what is new on a judged frame; return it with the differential.

        `thumbnail` tells the place of the frame on the slide; without it nothing is
        counted. Between two runs the result comes back as it is.
        """
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

    def _start(self, run: CurrentRun) -> None:
        """Begin the count of a run with nothing known."""
        self._run = run
        self.gate, self.mosaic = QualityGate(), Mosaic()
        self.registry = CellRegistry(self._labels, self._abstain_below)
        self._newest: tuple[Counter[str], int, Differential] | None = None
        self._since = None  # the first frame, where the run was resumed

    def _differentiate(self) -> Differential:
        """Return the differential so far, computed anew only where counts changed."""
        counts, patches = self.registry.counts(), self.mosaic.patches
        if self._newest is None or self._newest[:2] != (counts, patches):
            differential = differentiate(
                counts, self._labels, self._wanted_width, patches, self._correction
            )
            differential = msgspec.structs.replace(differential, since=self._since)
            self._newest = counts, patches, differential
        return self._newest[2]

    def _count(self, result: FrameResult, thumbnail: Thumbnail) -> MosaicPosition:
        size = (thumbnail.shape[1], thumbnail.shape[0])
        detections = _detections(result, self._labels, size)
        placement = self.mosaic.place_frame(
            thumbnail, lambda: self.registry.propose_positions(detections)
        )
        for join in placement.joins:
            self.registry.join(join)
        if placement.loop_error is not None:
            error = placement.loop_error
            self.registry.close_loop(placement.position, size, error)
        margin_px = counting_margin(size, _um_per_px(result, thumbnail))
        self.registry.add_frame(placement.position, size, margin_px, detections)
        return placement.position


def counting_margin(size: tuple[int, int], um_per_px: float) -> float:
    """How far inside a picture of this size the centre of a counted cell lies (px)."""
    return float(min(MARGIN_UM / um_per_px, _MAX_MARGIN * min(size)))


def _is_cut_short(result: FrameResult) -> bool:
    """Whether cells were left out because they are followed: they would seem gone."""
    return result.following is not None and len(result.cells) >= MAX_FOLLOWED_CELLS


def _detections(
    result: FrameResult, labels: tuple[str, ...], thumbnail_px: tuple[int, int]
) -> Detections:
    """Return the cells of a frame: boxes (N, 4), probabilities (N, K), float64."""
    boxes = np.array([cell.box for cell in result.cells], np.float64).reshape(-1, 4)
    probabilities = np.array(
        [[cell.probabilities[label] for label in labels] for cell in result.cells]
    ).reshape(-1, len(labels))
    frame_px = (result.width_px, result.height_px)
    return detections_of(boxes, probabilities, frame_px, thumbnail_px)


def _um_per_px(result: FrameResult, thumbnail: Thumbnail) -> float:
    """Micrometres per pixel of a thumbnail; only frames of known scale have one."""
    if result.pixel_size_um is None:
        raise ValueError("a frame of unknown scale has a thumbnail, expected none")
    return float(result.pixel_size_um * result.width_px / thumbnail.shape[1])


def _in_um(
    place: MosaicPosition, result: FrameResult, thumbnail: Thumbnail
) -> tuple[float, float]:
    um = _um_per_px(result, thumbnail)
    return round(place.x_px * um, 2), round(place.y_px * um, 2)
