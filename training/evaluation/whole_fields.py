"""Judge the shipped way, from image file to named cell, on labelled data."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from calibration.confidence import calibration_error
from edge.artifacts.bundle import crop_size
from edge.clock import utc_of
from edge.frames import Exposure, RawFrame, Shot
from edge.pipeline.pipeline import ExaminedFrame, Pipeline
from edge.pipeline.pixel_size import Scale
from edge.rendering.annotation import draw, to_jpeg
from edge.slide.confusion_correction import ConfusionFile
from edge.stages.decision import decide
from edge.stages.detection import RED_CELL_UM
from edge.taxonomy import NOT_A_CELL
from training.data.rows import DataInvalid, Field, Row, cut_task_crops
from training.fitting.classifier import predict
from training.fitting.locator import CLASSES
from training.metrics.box_matching import Tally, match
from training.metrics.confusion import count_confusion


def examine_fields(
    fields: Sequence[Field], pipeline: Pipeline, true_scale: bool, pictures: Path | None
) -> Table:
    """Location alone and named cells, per domain and class.

    A found box counts for location whatever it was named, unless it was named plasma:
    that is how the classifier says that nothing is there. Red cells of fields that are
    not completely labelled are not judged.
    """
    located: dict[tuple[str, str], Tally] = {}
    named: dict[tuple[str, str], Tally] = {}
    scale_errors: dict[str, list[float]] = {}
    sure: list[tuple[float, bool]] = []
    for field in track(fields, "fields"):
        seen = _examine(field, pipeline, true_scale)
        cells = [c for c in seen.result.cells if c.label != NOT_A_CELL]
        cells.sort(key=lambda c: -c.confidence)
        boxes = np.array([c.box for c in cells], np.float32).reshape(-1, 4)
        matched, _ = match(boxes, field.boxes)
        found = set(matched.tolist())
        sure += [
            (cell.confidence, cell.label == CLASSES[field.classes[true]])
            for cell, true in zip(cells, matched, strict=True)
            if true >= 0
        ]
        for index, name in enumerate(CLASSES):
            if name == "RBC" and not field.is_complete:
                continue
            key = (field.domain, name)
            true = np.flatnonzero(field.classes == index)
            right = sum(i in found for i in true)
            located[key] = located.get(key, Tally()) + Tally(
                right, 0, len(true) - right
            )
            mine = [i for i, c in enumerate(cells) if c.label == name]
            _, tally = match(boxes[mine], field.boxes[true])
            named[key] = named.get(key, Tally()) + tally
        told = seen.result.pixel_size_um
        if told is not None:
            error = told / (RED_CELL_UM / field.diameter_px)
            scale_errors.setdefault(field.domain, []).append(error)
        if pictures is not None:
            pictures.mkdir(parents=True, exist_ok=True)
            picture = draw(field.pixels, seen.result, 960)
            path = pictures / f"{field.domain}-{field.path.stem}.jpg"
            path.write_bytes(to_jpeg(picture))
    grid = _fields_table(located, named, scale_errors)
    confidence, right = np.array(sure, float).reshape(-1, 2).T
    gap = calibration_error(confidence, right > 0) if sure else float("nan")
    grid.caption = f"calibration error of {len(sure)} cells that are there: {gap:.4f}"
    return grid


def examine_crops(
    rows: Sequence[tuple[Row, int]], pipeline: Pipeline
) -> tuple[Table, ConfusionFile]:
    """Judge the classifier alone, on crops cut from the labelled boxes.

    The confusion is of all domains together, without the cells left unidentified.
    """
    if not rows:
        raise DataInvalid("no row of this split is of the model's task; check `task`")
    record = pipeline.classifier.record
    crops = cut_task_crops(rows, crop_size(pipeline.classifier), record.input.context)
    logits = predict(pipeline.classifiers[0].engine, crops.pixels, record.state_size)
    decisions = decide(logits, record.temperature, record.abstain_below)
    domains = np.array([row.domain for row in crops.rows])
    labels = pipeline.classifier.labels
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
    for domain in sorted(set(domains)):
        for index, name in enumerate(labels):
            here = domains == domain
            true, claimed = crops.classes == index, (decisions.classes == index)
            claimed = claimed & ~decisions.abstained
            if not (here & true).any():
                continue
            tally = Tally(
                int((here & true & claimed).sum()),
                int((here & ~true & claimed).sum()),
                int((here & true & ~claimed).sum()),
            )
            unsure = int((here & true & decisions.abstained).sum())
            shown = str(int((here & true).sum()))
            grid.add_row(domain, name, shown, *_figures(tally), str(unsure))
    named = ~decisions.abstained
    cells = count_confusion(crops.classes[named], decisions.classes[named], len(labels))
    return grid, ConfusionFile(labels, tuple(map(tuple, cells.tolist())))


def show(console: Console, table: Table) -> None:
    """Print a table with room below."""
    console.print(table)
    console.print()


def _examine(field: Field, pipeline: Pipeline, true_scale: bool) -> ExaminedFrame:
    own = replace(pipeline, scale=Scale(None, agreeing=1))
    told = RED_CELL_UM / field.diameter_px if true_scale else None
    now_ns = time.monotonic_ns()
    shot = Shot(0, now_ns, utc_of(now_ns), field.path.name, pixel_size_um=told)
    return own.examine(Exposure(shot, lambda: RawFrame(shot, field.pixels)))


def _fields_table(
    located: dict[tuple[str, str], Tally],
    named: dict[tuple[str, str], Tally],
    scale_errors: dict[str, list[float]],
) -> Table:
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


def _figures(tally: Tally) -> tuple[str, str, str]:
    return f"{tally.precision:.3f}", f"{tally.recall:.3f}", f"{tally.f1:.3f}"
