"""The way of one frame, from exposure to the record of what is on it.

This is the table of contents: develop, reduce, correct, locate, measure and check,
classify (crop, infer, decide), fill the record.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edge.artifacts.bundle import Bundle
from edge.artifacts.profile import Profile
from edge.engines import Engine
from edge.frames import Counts, Exposure, RawFrame
from edge.pipeline.classifiers import (
    Classifier,
    classify_cells,
    nameable,
)
from edge.pipeline.frame_record import MadeWith, Measured, cells_of, fill_record
from edge.pipeline.pixel_size import FrameScale, PixelSize
from edge.pipeline.scale_reading import Reading, cells_at_scale, estimate_pixel_size
from edge.pipeline.stopwatch import Stopwatch
from edge.schema.results import Cell, Colour, Controls, FrameResult, SeenColours
from edge.sources.control_values import differences
from edge.stages.colour_correction import ColourMap, correct, correct_crops, prepare
from edge.stages.colour_statistics import median, read_colours
from edge.stages.crops import cut_crops
from edge.stages.detection import (
    Regions,
    find_regions,
    locator_spec,
    reduce,
    reduction,
    whole_field,
)
from edge.stages.field_check import (
    FieldDoubt,
    KnownColours,
    judge_field,
    measure_field,
)
from edge.stages.image_quality import measure_quality
from edge.stages.marks import find_marks, without_marks
from edge.stages.thumbnail import Thumbnail, thumbnail_of

_BLIND_PX = 480  # longest side of the reduced frame where the scale is unknown


@dataclass(frozen=True, slots=True, eq=False)
class ExaminedFrame:
    """A frame and what was found on it.

    `thumbnail` is the small picture by which its place on the slide is found; None
    where the scale is not settled or nobody looks for cells: it cannot be counted.
    `scale` is the pixel size that it was examined with.
    """

    raw: RawFrame
    result: FrameResult
    thumbnail: Thumbnail | None = None
    scale: PixelSize | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Pipeline:
    """Everything a frame needs on its way; built once, used from one thread.

    The first of `classifiers` names every cell, each other one refines one of its
    classes. Without a locator the whole field is one region. `known_colours` are those
    of known laboratories; without them the order of colours is not checked.
    """

    profile: Profile
    classifiers: tuple[Classifier, ...]
    locator: Bundle | None
    locator_engine: Engine | None
    scale: FrameScale
    known_colours: KnownColours | None = None

    @property
    def classifier(self) -> Bundle:
        """The bundle that names every cell."""
        return self.classifiers[0].bundle

    def examine(self, exposure: Exposure) -> ExaminedFrame:
        """Say what is on one exposure.

        Raises
        ------
        FrameRejected
            The frame arrived damaged.
        ProfileMismatch
            The profile was measured for other frames.
        EngineFailed
            The engine refused the batch or returned what cannot be true.
        """
        stage = Stopwatch()
        with stage("develop"):
            raw = self.develop(exposure)
        with stage("reduce"):
            seen, marks = self._without_marks(raw)
            scale, counts = self._reduce(seen)
        with stage("correct"):
            field = correct(counts, self._colours(counts))
        with stage("locate"):
            regions = self._locate(field, seen)
            scale = self._check_scale(scale, regions, seen)
        with stage("quality"):
            measured = self._measure(seen, counts, field, regions)
            doubts = [*marks, *self._doubts_of_field(counts, field, measured, regions)]
        if any(doubt.fault for doubt in doubts):
            regions = regions.none()
        cells = self._classify(seen, regions, stage)
        result = self._record(raw, scale, cells, measured, doubts, stage)
        return ExaminedFrame(raw, result, self._thumbnail(field, scale), scale)

    def close(self) -> None:
        """Release the engines."""
        for classifier in self.classifiers:
            classifier.engine.close()
        if self.locator_engine is not None:
            self.locator_engine.close()

    # -- the steps ---------------------------------------------------------------------

    def develop(self, exposure: Exposure) -> RawFrame:
        """Decode the exposure, and check that the profile is of this camera."""
        raw = exposure.develop()
        width_px, height_px = raw.size_px
        self.profile.check(width_px, height_px, raw.shot.camera)
        return raw

    def _without_marks(self, raw: RawFrame) -> tuple[RawFrame, list[FieldDoubt]]:
        """Return the frame without what is drawn into it, and say so."""
        marks = None if self.locator is None else find_marks(raw.pixels)
        if marks is None:
            return raw, []
        return replace(raw, pixels=without_marks(raw.pixels, marks)), [marks.doubt()]

    def _reduce(self, raw: RawFrame) -> tuple[PixelSize, Counts]:
        """Return the pixel size, and the frame (h, w, 3) at the locator's scale."""
        scale = self.scale.of(
            raw.shot.pixel_size_um,
            lambda: self.estimate_scale(raw),
            raw.shot.sequence,
        )
        return scale, reduce(raw.pixels, self._reduction(raw, scale.um))

    def _locate(self, field: NDArray[np.uint8], raw: RawFrame) -> Regions:
        """Return where cells lie that the classifier has names for."""
        return nameable(self._find(field, raw), self.locator, self.classifier)

    def _check_scale(
        self, scale: PixelSize, regions: Regions, raw: RawFrame
    ) -> PixelSize:
        """Compare the pixel size that was told with the red cells found at it."""
        if self.locator is None or scale.um is None:
            return scale
        um, labels = scale.um, self.locator.labels
        return self.scale.check(
            scale,
            lambda: cells_at_scale(regions, labels, um, raw.size_px),
            lambda: self.estimate_scale(raw),
            raw.shot.sequence,
        )

    def _classify(
        self, raw: RawFrame, regions: Regions, stage: Stopwatch
    ) -> tuple[Cell, ...]:
        """Name cells by crops at full resolution, in the colours the locator saw."""

        def cut(places: NDArray[np.int32], size_px: int) -> NDArray[np.uint8]:
            crops = cut_crops(raw.pixels, places, size_px)
            return correct_crops(crops, places, self._colours(raw.pixels))

        classified = classify_cells(regions, self.classifiers, self.locator, cut, stage)
        with stage("decide"):
            return cells_of(classified, self.classifier)

    def _measure(
        self,
        raw: RawFrame,
        counts: Counts,
        field: NDArray[np.uint8],
        regions: Regions,
    ) -> Measured:
        """Measure quality and colours on the reduced frame (h, w, 3)."""
        scaled = regions.boxes * (field.shape[1] / raw.size_px[0])
        quality = measure_quality(counts, field, self._white(), scaled)
        return Measured(quality, self._read_colours(raw, field, regions), scaled)

    def _doubts_of_field(
        self,
        counts: Counts,
        field: NDArray[np.uint8],
        measured: Measured,
        regions: Regions,
    ) -> list[FieldDoubt]:
        """Say whether the picture is one of a smear; see `edge.stages.field_check`."""
        if self.locator is None:
            return []
        figures = measure_field(field, measured.boxes, regions)
        return judge_field(figures, counts, measured.quality, self.known_colours)

    def _record(
        self,
        raw: RawFrame,
        scale: PixelSize,
        cells: tuple[Cell, ...],
        measured: Measured,
        doubts: Sequence[FieldDoubt],
        stage: Stopwatch,
    ) -> FrameResult:
        """Fill the record of the frame, with all that speaks against believing it."""
        made_with = MadeWith(self.classifier, self.locator, self.profile, scale)
        all_doubts = [*map(FieldDoubt, self._doubts_of(raw)), *doubts]
        return fill_record(raw, cells, made_with, measured, all_doubts, stage.spent_ms)

    # -- what the steps need -----------------------------------------------------------

    def _find(self, field: NDArray[np.uint8], raw: RawFrame) -> Regions:
        """Find cells on the reduced field (h, w, 3); boxes are of the whole frame."""
        if self.locator is None or self.locator_engine is None:
            return whole_field(*raw.size_px)
        spec = locator_spec(self.locator)
        return find_regions(field, self.locator_engine, spec, raw.size_px)

    def _read_colours(
        self, raw: RawFrame, field: NDArray[np.uint8], regions: Regions
    ) -> SeenColours | None:
        """Median colours of the frame; None where no cells are located."""
        if self.locator is None:
            return None
        seen = read_colours(field, regions, self.locator.labels, raw.size_px)
        return SeenColours(
            background=_rounded(seen.background),
            red_cells=_rounded(median(seen.red_cells)),
            nuclei=_rounded(median(seen.nuclei)),
        )

    def _reduction(self, raw: RawFrame, pixel_size_um: float | None) -> float:
        """Return the factor of the reduced frame; a guess while nobody knows it."""
        if self.locator is not None and pixel_size_um is not None:
            return reduction(pixel_size_um, locator_spec(self.locator))
        return min(1.0, _BLIND_PX / max(raw.size_px))

    def estimate_scale(self, raw: RawFrame) -> Reading | None:
        """Micrometres per pixel from the red cells of this frame."""
        if self.locator is None:
            return None

        def locate(pixel_size_um: float) -> Regions:
            counts = reduce(raw.pixels, self._reduction(raw, pixel_size_um))
            return self._find(correct(counts, self._colours(counts)), raw)

        return estimate_pixel_size(raw.size_px, self.locator, locate)

    def _colours(self, pixels: Counts) -> ColourMap:
        return prepare(self.profile, pixels.shape[1], pixels.shape[0], pixels.dtype)

    def _white(self) -> NDArray[np.uint8] | None:
        """Return what an empty field looks like corrected, if somebody measured it."""
        if self.profile.calibration_id is None:
            return None
        offset = np.array(self.profile.record.matrix)[:, 3]
        return np.asarray(np.clip(255 * 10**-offset, 0, 255), np.uint8)

    def _doubts_of(self, raw: RawFrame) -> list[str]:
        """Say what was not looked at, or is not as at the start or at calibration."""
        shot = raw.shot
        doubts = [*raw.notes] if shot.doubt is None else [*raw.notes, shot.doubt]
        calibrated = self.profile.record.controls
        if isinstance(calibrated, Controls) and shot.controls is not None:
            found = differences(calibrated, shot.controls)
            if found:
                doubts.append(
                    f"not as calibrated: {', '.join(found)}; set the camera back or "
                    "calibrate again"
                )
        return doubts

    def _thumbnail(
        self, field: NDArray[np.uint8], scale: PixelSize
    ) -> Thumbnail | None:
        """Return the picture for the mosaic, where the frame can be counted."""
        is_countable = self.locator is not None and scale.doubt is None
        return thumbnail_of(field) if is_countable else None


def abstain_below(classifier: Bundle, profile: Profile) -> float:
    """Return the confidence to name a cell at: the site's, or the model's."""
    site = profile.record.confidence
    if site is None or site.abstain_below is None:
        return classifier.record.abstain_below
    return site.abstain_below


def _rounded(colour: NDArray[np.float64] | None) -> Colour | None:
    """Return a colour (3,) with one decimal."""
    if colour is None:
        return None
    red, green, blue = colour.round(1).tolist()
    return red, green, blue
