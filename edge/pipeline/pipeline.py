"""The way of one frame, from exposure to what is said of it.

This is the table of contents: develop, reduce and correct, locate, cut and correct,
infer, decide, say.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge import __version__, clock
from edge.artifacts.bundle import Bundle, crop_size, first_state
from edge.artifacts.profile import Profile
from edge.engines import Engine
from edge.frames import Counts, Exposure, RawFrame, Shot
from edge.pipeline.pixel_size import FrameScale, PixelSize, estimate_pixel_size
from edge.schema.results import (
    Cell,
    Colour,
    Controls,
    FrameRange,
    FrameResult,
    SeenColours,
)
from edge.schema.row_limits import MAX_CELLS
from edge.sources.control_values import differences
from edge.stages.colour_correction import ColourMap, correct, correct_crops, prepare
from edge.stages.colour_statistics import median, read_colours
from edge.stages.crops import cut_crops, windows
from edge.stages.decision import Adaptation, Decisions, decide, second_opinion
from edge.stages.detection import (
    Regions,
    find_regions,
    locator_spec,
    reduce,
    reduction,
    whole_field,
)
from edge.stages.image_quality import measure_quality
from edge.stages.thumbnail import Thumbnail, thumbnail_of
from edge.taxonomy import UNIDENTIFIED, WHITE_CELLS

_BLIND_PX = 480  # longest side of the reduced frame where the scale is unknown


class Stopwatch:
    """Milliseconds per stage of one frame."""

    def __init__(self) -> None:
        self.spent_ms: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Measure the block as `stage`."""
        start = time.perf_counter()
        yield
        self.spent_ms[stage] = round((time.perf_counter() - start) * 1e3, 3)


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

    Without a locator the whole field is one region.
    """

    profile: Profile
    classifier: Bundle
    classifier_engine: Engine
    locator: Bundle | None
    locator_engine: Engine | None
    scale: FrameScale
    adaptation: Adaptation | None = None

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
            raw = exposure.develop()
            self.profile.check(_width(raw), _height(raw), raw.shot.camera)
        with stage("reduce"):
            scale = self.scale.of(
                raw.shot.pixel_size_um,
                lambda: self._estimate_scale(raw),
                raw.shot.sequence,
            )
            counts = reduce(raw.pixels, self._reduction(raw, scale.um))
        with stage("correct"):
            field = correct(counts, self._colours(counts))
        with stage("locate"):
            regions = self._of_task(self._locate(field, raw))
        with stage("crop"):
            batch = self._cut(raw, regions)
        with stage("infer"):
            state = first_state(self.classifier, len(batch))  # each is new here
            logits = self.classifier_engine.infer(batch, state).tensors["logits"]
        with stage("decide"):
            rule = self.classifier.record
            opinion = self._second_opinion(regions)
            decisions = decide(
                logits,
                rule.temperature,
                self._abstain_below(),
                opinion,
                self.adaptation,
            )
            cells = self._name(regions, decisions)
        with stage("quality"):
            scaled = regions.boxes * (field.shape[1] / _width(raw))
            quality = measure_quality(counts, field, self._white(), scaled)
            colours = self._look_at(field, regions, raw)
        is_countable = self.locator is not None and scale.doubt is None
        result, doubts = cells[:MAX_CELLS], self._doubts_of(raw.shot)
        if self.locator is not None and scale.doubt is not None:
            doubts.append(scale.doubt)
        if len(cells) > len(result):
            doubts.append(f"{len(cells)} cells, the likeliest {len(result)} are said")
        return ExaminedFrame(
            raw,
            FrameResult(
                status="degraded" if doubts else "ok",
                reason="; ".join(doubts) or None,
                utc=raw.shot.utc,
                monotonic_ns=raw.shot.monotonic_ns,
                boot_id=clock.boot_id(),
                clock_synchronised=clock.is_synchronised(),
                source=raw.shot.source_id,
                camera=raw.shot.camera,
                controls=raw.shot.controls,
                frame=FrameRange(first=raw.shot.sequence, last=raw.shot.sequence),
                width_px=_width(raw),
                height_px=_height(raw),
                pixel_size_um=scale.um,
                pixel_size_origin=scale.origin,
                quality=quality,
                colours=colours,
                model=self.classifier.id,
                locator=None if self.locator is None else self.locator.id,
                calibration_id=self.profile.calibration_id,
                software=__version__,
                cells=result,
                counts=Counter(cell.label for cell in result),
                timings_ms=stage.spent_ms,
            ),
            thumbnail_of(field) if is_countable else None,
            scale,
        )

    def close(self) -> None:
        """Release the engines."""
        self.classifier_engine.close()
        if self.locator_engine is not None:
            self.locator_engine.close()

    def _doubts_of(self, shot: Shot) -> list[str]:
        """Say what is not as it was at the start, or at calibration."""
        doubts = [] if shot.doubt is None else [shot.doubt]
        calibrated = self.profile.record.controls
        if isinstance(calibrated, Controls) and shot.controls is not None:
            found = differences(calibrated, shot.controls)
            if found:
                doubts.append(
                    f"not as calibrated: {', '.join(found)}; set the camera back or "
                    "calibrate again"
                )
        return doubts

    def _reduction(self, raw: RawFrame, pixel_size_um: float | None) -> float:
        """Return the factor of the reduced frame; a guess while nobody knows it."""
        if self.locator is not None and pixel_size_um is not None:
            return reduction(pixel_size_um, locator_spec(self.locator))
        return min(1.0, _BLIND_PX / max(_width(raw), _height(raw)))

    def _colours(self, pixels: Counts) -> ColourMap:
        return prepare(self.profile, pixels.shape[1], pixels.shape[0], pixels.dtype)

    def _locate(self, field: NDArray[np.uint8], raw: RawFrame) -> Regions:
        frame_px = (_width(raw), _height(raw))
        if self.locator is None or self.locator_engine is None:
            return whole_field(*frame_px)
        spec = locator_spec(self.locator)
        return find_regions(field, self.locator_engine, spec, frame_px)

    def _of_task(self, regions: Regions) -> Regions:
        """Keep what the classifier has names for: kinds of white cells fit no red one.

        Where it names none of what the locator tells apart, all are kept.
        """
        labels = () if self.locator is None else self.locator.labels
        known = {*self.classifier.labels}
        nameable = [
            name in known or (name == "WBC" and bool(known & WHITE_CELLS))
            for name in labels
        ]
        if all(nameable) or not any(nameable):
            return regions
        kept = np.array(nameable)[regions.kinds]
        return Regions(
            regions.boxes[kept],
            regions.scores[kept],
            regions.kinds[kept],
            regions.evidence[kept],
        )

    def _estimate_scale(self, raw: RawFrame) -> float | None:
        """Micrometres per pixel from the red cells of this frame."""
        if self.locator is None:
            return None

        def locate(pixel_size_um: float) -> Regions:
            counts = reduce(raw.pixels, self._reduction(raw, pixel_size_um))
            return self._locate(correct(counts, self._colours(counts)), raw)

        return estimate_pixel_size((_width(raw), _height(raw)), self.locator, locate)

    def _cut(self, raw: RawFrame, regions: Regions) -> NDArray[np.uint8]:
        """Crops at full resolution, corrected by the map that the locator saw."""
        colours = self._colours(raw.pixels)
        context = self.classifier.record.input.context if self.locator else 1.0
        places, size_px = windows(regions.boxes, context), crop_size(self.classifier)
        crops = cut_crops(raw.pixels, places, size_px)
        return correct_crops(crops, places, colours)

    def _second_opinion(self, regions: Regions) -> NDArray[np.float32] | float:
        """Return what the locator adds to the logits; 0 where it has no say."""
        if self.locator is None:
            return 0.0
        opinion = second_opinion(
            regions.evidence, self.locator.labels, self.classifier.labels
        )
        return 0.0 if opinion is None else locator_spec(self.locator).trust * opinion

    def _look_at(
        self, field: NDArray[np.uint8], regions: Regions, raw: RawFrame
    ) -> SeenColours | None:
        """Median colours of the frame; None where no cells are located."""
        if self.locator is None:
            return None
        frame_px = (_width(raw), _height(raw))
        seen = read_colours(field, regions, self.locator.labels, frame_px)
        return SeenColours(
            background=_said(seen.background),
            red_cells=_said(median(seen.red_cells)),
            nuclei=_said(median(seen.nuclei)),
        )

    def _abstain_below(self) -> float:
        if self.adaptation is None:
            return self.classifier.record.abstain_below
        return abstain_below(self.classifier, self.profile)

    def _white(self) -> NDArray[np.uint8] | None:
        """Return what an empty field looks like corrected, if somebody measured it."""
        if self.profile.calibration_id is None:
            return None
        offset = np.array(self.profile.record.matrix)[:, 3]
        return np.asarray(np.clip(255 * 10**-offset, 0, 255), np.uint8)

    def _name(self, regions: Regions, decisions: Decisions) -> tuple[Cell, ...]:
        classes = self.classifier.record.classes
        labels = self.classifier.labels
        boxes = np.rint(regions.boxes).astype(int).tolist()
        shares = decisions.probabilities.astype(float).round(4).tolist()
        return tuple(
            Cell(
                id=number,
                box=(box[0], box[1], box[2], box[3]),
                label=UNIDENTIFIED if abstained else labels[winner],
                ontology=None if abstained else classes[winner].ontology,
                confidence=share[winner],
                probabilities=dict(zip(labels, share, strict=True)),
                abstained=abstained,
            )
            for number, (box, winner, share, abstained) in enumerate(
                zip(
                    boxes,
                    decisions.classes.tolist(),
                    shares,
                    decisions.abstained.tolist(),
                    strict=True,
                )
            )
        )


def abstain_below(classifier: Bundle, profile: Profile) -> float:
    """Return the confidence to name a cell at: the site's, or the model's."""
    site = profile.record.confidence
    if site is None or site.abstain_below is None:
        return classifier.record.abstain_below
    return site.abstain_below


def _said(colour: NDArray[np.float64] | None) -> Colour | None:
    if colour is None:
        return None
    red, green, blue = colour.round(1).tolist()
    return red, green, blue


def _width(raw: RawFrame) -> int:
    return int(raw.pixels.shape[1])


def _height(raw: RawFrame) -> int:
    return int(raw.pixels.shape[0])
