"""Evaluate the whole pipeline, from image file to named cell, on labelled data."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from edge.artifacts.bundle import crop_size
from edge.clock import utc_of
from edge.frames import Exposure, RawFrame, Shot
from edge.pipeline.pipeline import ExaminedFrame, Pipeline
from edge.pipeline.pixel_size import Scale
from edge.rendering.annotation import draw, to_jpeg
from edge.schema.results import FrameResult
from edge.slide.confusion_correction import ConfusionFile
from edge.stages.decision import Decisions, decide
from edge.stages.detection import RED_CELL_UM
from edge.taxonomy import NOT_A_CELL, UNIDENTIFIED
from training.data.rows import Crops, DataInvalid, Field, Row, cut_task_crops
from training.fitting.classifier import predict
from training.fitting.locator import CLASSES
from training.metrics.box_matching import Tally, match
from training.metrics.confusion import count_confusion
from training.metrics.detection_confidence import NamedBoxes, confidence_quality


@dataclass(frozen=True, slots=True)
class _NamedBox:
    """A box that was given a name; `is_right` if a cell of that name is there."""

    domain: str
    label: str
    confidence: float
    is_right: bool
    field: int


@dataclass(slots=True)
class _FieldResults:
    """What was found in fields, counted by domain and class.

    `located` counts found boxes whatever their name, `named` those with the right name.
    `scale_errors` holds, by domain, the measured over the true size of a pixel.
    `boxes` holds each box that was given a name, but for red cells without a label in
    fields that are not completely labelled: nobody knows whether those are right.
    """

    located: dict[tuple[str, str], Tally] = field(default_factory=dict)
    named: dict[tuple[str, str], Tally] = field(default_factory=dict)
    scale_errors: dict[str, list[float]] = field(default_factory=dict)
    boxes: list[_NamedBox] = field(default_factory=list)
    fields: int = 0

    def add(self, truth: Field, result: FrameResult) -> None:
        """Count what was found in one field."""
        cells = [c for c in result.cells if c.label != NOT_A_CELL]
        cells.sort(key=lambda c: -c.confidence)
        boxes = np.array([c.box for c in cells], np.float32).reshape(-1, 4)
        matched, _ = match(boxes, truth.boxes)
        self.fields += 1
        self.boxes += [
            _NamedBox(
                truth.domain,
                cell.label,
                cell.confidence,
                true >= 0 and cell.label == CLASSES[truth.classes[true]],
                self.fields,
            )
            for cell, true in zip(cells, matched, strict=True)
            if cell.label != UNIDENTIFIED
            and (true >= 0 or cell.label != "RBC" or truth.is_complete)
        ]
        found = set(matched.tolist())
        for index, name in enumerate(CLASSES):
            if name == "RBC" and not truth.is_complete:
                continue
            true = np.flatnonzero(truth.classes == index)
            right = sum(i in found for i in true)
            own = [i for i, cell in enumerate(cells) if cell.label == name]
            _, tally = match(boxes[own], truth.boxes[true])
            key = (truth.domain, name)
            location = Tally(right, 0, len(true) - right)
            self.located[key] = self.located.get(key, Tally()) + location
            self.named[key] = self.named.get(key, Tally()) + tally
        if result.pixel_size_um is not None:
            error = result.pixel_size_um / (RED_CELL_UM / truth.diameter_px)
            self.scale_errors.setdefault(truth.domain, []).append(error)


def examine_fields(
    fields: Sequence[Field], pipeline: Pipeline, true_scale: bool, pictures: Path | None
) -> tuple[Table, Table]:
    """Run whole fields through the pipeline and compare with the labels.

    Every found box counts as located, whatever its name, unless it was named plasma:
    by that name the classifier rejects a box. Red cells of fields that are not
    completely labelled are left out.

    Parameters
    ----------
    fields
        With their labels.
    pipeline
        Locator and classifier.
    true_scale
        Take the size of a pixel from the labels, in place of measuring it.
    pictures
        Folder for annotated pictures, if they are wanted.

    Returns
    -------
    tuple
        Location and names, per domain and class; and what the confidence of every box
        that was given a name is worth, false boxes included.
    """
    results = _FieldResults()
    for one in track(fields, "fields"):
        result = _examine(one, pipeline, true_scale).result
        results.add(one, result)
        if pictures is not None:
            pictures.mkdir(parents=True, exist_ok=True)
            path = pictures / f"{one.domain}-{one.path.stem}.jpg"
            path.write_bytes(to_jpeg(draw(one.pixels, result, 960)))
    grid = _fields_table(results.located, results.named, results.scale_errors)
    return grid, _confidence_table(results.boxes)


def examine_crops(
    rows: Sequence[tuple[Row, int]], pipeline: Pipeline
) -> tuple[Table, ConfusionFile]:
    """Evaluate the classifier alone, on crops cut from the labelled boxes.

    Returns
    -------
    tuple
        A table per domain and class, and the confusion of all domains together,
        without the cells left unidentified.

    Raises
    ------
    DataInvalid
        There are no rows.
    """
    if not rows:
        raise DataInvalid("no row of this split is of the model's task; check `task`")
    record = pipeline.classifier.record
    crops = cut_task_crops(rows, crop_size(pipeline.classifier), record.input.context)
    logits = predict(pipeline.classifiers[0].engine, crops.pixels, record.state_size)
    decisions = decide(logits, record.temperature, record.abstain_below)
    labels = pipeline.classifier.labels
    named = ~decisions.abstained
    cells = count_confusion(crops.classes[named], decisions.classes[named], len(labels))
    confusion = ConfusionFile(labels, tuple(map(tuple, cells.tolist())))
    return _crops_table(crops, decisions, labels), confusion


def _crops_table(crops: Crops, decisions: Decisions, labels: tuple[str, ...]) -> Table:
    """Count right, wrong and missing names of each class, domain by domain."""
    grid = Table(
        "domain",
        "class",
        "cells",
        "precision",
        "recall",
        "F1",
        "unidentified",
        title="crops of labelled boxes",
    )
    domains = np.array([row.domain for row in crops.rows])
    for domain in sorted(set(domains)):
        here = domains == domain
        for index, name in enumerate(labels):
            true = here & (crops.classes == index)
            claimed = (decisions.classes == index) & ~decisions.abstained
            if not true.any():
                continue
            tally = Tally(
                int((true & claimed).sum()),
                int((here & (crops.classes != index) & claimed).sum()),
                int((true & ~claimed).sum()),
            )
            unidentified = int((true & decisions.abstained).sum())
            cells = str(int(true.sum()))
            grid.add_row(domain, name, cells, *_figures(tally), str(unidentified))
    return grid


def show(console: Console, table: Table) -> None:
    """Print a table with an empty line below."""
    console.print(table)
    console.print()


def _examine(truth: Field, pipeline: Pipeline, true_scale: bool) -> ExaminedFrame:
    """Run a field through the pipeline as if it were the first of a camera."""
    own = replace(pipeline, scale=Scale(None, agreeing=1))
    known_um = RED_CELL_UM / truth.diameter_px if true_scale else None
    now_ns = time.monotonic_ns()
    shot = Shot(0, now_ns, utc_of(now_ns), truth.path.name, pixel_size_um=known_um)
    return own.examine(Exposure(shot, lambda: RawFrame(shot, truth.pixels)))


def _fields_table(
    located: dict[tuple[str, str], Tally],
    named: dict[tuple[str, str], Tally],
    scale_errors: dict[str, list[float]],
) -> Table:
    """Write a row per domain and class that has cells; see `_FieldResults`."""
    grid = Table(
        "domain",
        "class",
        "cells",
        "located",
        "precision",
        "recall",
        "F1",
        "scale error",
        title="whole fields, IoU 0.5",
    )
    for key in sorted(named):
        domain, name = key
        tally = named[key]
        if tally.right + tally.missed == 0:
            continue
        errors = scale_errors.get(domain, [])
        scale = f"{100 * (np.median(errors) - 1):+.0f} %" if errors else ""
        grid.add_row(
            domain,
            name,
            str(tally.right + tally.missed),
            f"{located[key].recall:.3f}",
            *_figures(tally),
            scale,
        )
    return grid


def _confidence_table(found: Sequence[_NamedBox]) -> Table:
    """Compare confidence with truth, per domain and class that was said."""
    grid = Table(
        "domain",
        "class",
        "boxes",
        "confidence",
        "right",
        "calibration error",
        "Brier",
        "log loss",
        title="confidence of every box with a name, false boxes included",
    )
    boxes = NamedBoxes(
        np.array([box.confidence for box in found], np.float64),
        np.array([box.is_right for box in found], bool),
        np.array([box.field for box in found], np.int64),
    )
    domains = np.array([box.domain for box in found], str)
    labels = np.array([box.label for box in found], str)
    for domain in sorted(set(domains)):
        here = domains == domain
        for label in ("all", *sorted(set(labels[here]))):
            chosen = here if label == "all" else here & (labels == label)
            quality = confidence_quality(boxes.where(chosen))
            error = quality.calibration_error
            grid.add_row(
                domain,
                label,
                str(quality.boxes),
                f"{quality.confidence:.3f}",
                f"{quality.right:.3f}",
                f"{error.value:.3f} ({error.low:.3f} to {error.high:.3f})",
                f"{quality.brier:.3f}",
                f"{quality.log_loss:.3f}",
            )
    return grid


def _figures(tally: Tally) -> tuple[str, str, str]:
    """Write precision, recall and F1."""
    return f"{tally.precision:.3f}", f"{tally.recall:.3f}", f"{tally.f1:.3f}"
