"""Compare bundles on cells that none of them has seen."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edge.artifacts.bundle import Bundle, BundleRefused, crop_size, load_bundle
from edge.engines import Engine
from edge.engines.onnxruntime import OnnxRuntimeEngine
from training.data.clips import Clips
from training.data.rows import DataInvalid, cut_task_crops, digest
from training.evaluation.studies import read_study
from training.fitting.augmentation import STOCK_CONTEXT
from training.fitting.classifier import (
    Predictions,
    as_clips,
    predict_clips,
    predictions_of,
    some_of_each,
    stock_px,
)
from training.metrics.bootstrap import balanced_accuracy
from training.metrics.cost import ms_per_cell, peak_memory_mb
from training.metrics.held_out import Evaluated, InferenceCost, Robustness
from training.reports.comparison_report import write_report
from training.sessions.gathering import CellSource, Labelled, clips_of, read_usable

_ANGLES = tuple(range(0, 360, 45))
_BLURS_PX = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)  # at 80 px; scaled to the size of the crops
_BLUR_AT_PX = 80
_PER_CLASS = 200  # cells of each class in the altered sets


@dataclass(frozen=True, slots=True)
class BundleComparison:
    """What is compared on what; see `compare`."""

    bundles: Sequence[Path]
    data: Path | None
    split: str
    doubtful: Sequence[tuple[str, str]] = ()
    studies: Sequence[Path] = ()
    gallery: Sequence[Path] = ()


def compare(
    comparison: BundleComparison, report: Path, say: Callable[[str], None]
) -> Path:
    """Evaluate bundles of one task and write a report; return its page.

    Parameters
    ----------
    comparison
        Bundles and cells. `doubtful` are pairs of domain and class that a second
        figure leaves out; `studies` are files of `hemascope study`; `gallery` pictures.
    report
        Folder.
    say
        Shows a line.

    Raises
    ------
    BundleRefused
        The bundles are for different tasks.
    DataInvalid
        The split holds no cell of the task.
    """
    bundles = [load_bundle(folder) for folder in comparison.bundles]
    task = _common_task(bundles)
    rows = _rows(comparison, task, say)
    evaluated = []
    for folder, bundle in zip(comparison.bundles, bundles, strict=True):
        say(f"evaluating {bundle.id}")
        evaluated.append(_evaluate(folder, bundle, rows, comparison.split))
    studies = [read_study(path) for path in comparison.studies]
    return write_report(
        report,
        evaluated,
        title=f"Model families on {task}",
        facts={
            **_machine(),
            "split": comparison.split,
            "cells": str(len(evaluated[0].classes)),
            "data sha256": digest(row for row, _ in rows)[:16],
        },
        exclusions=comparison.doubtful,
        left_out=[cell for study in studies for cell in study.left_out],
        efficiency=[point for study in studies for point in study.efficiency],
        pictures={path.stem: path for path in comparison.gallery},
    )


def _common_task(bundles: Sequence[Bundle]) -> str:
    """Return the task of all bundles.

    Raises
    ------
    BundleRefused
        They are for different tasks.
    """
    tasks = {bundle.record.task for bundle in bundles}
    if len(tasks) != 1:
        raise BundleRefused(
            f"the bundles are for tasks {sorted(tasks)}, expected one; compare those "
            "of one task"
        )
    return tasks.pop()


def _rows(
    comparison: BundleComparison, task: str, say: Callable[[str], None]
) -> Labelled:
    """Read the labelled rows of the split.

    Raises
    ------
    DataInvalid
        There are none, although data are given.
    """
    gathered = read_usable(CellSource(comparison.data, task, is_any_licence=True))
    for note in gathered.notes:
        say(note)
    rows = gathered.parts.get(comparison.split, [])
    if comparison.data is not None and not rows:
        raise DataInvalid(
            f"no {comparison.split} row is of task {task!r}; check the data"
        )
    return rows


def _evaluate(folder: Path, bundle: Bundle, rows: Labelled, split: str) -> Evaluated:
    """Predict the cells with a bundle, and measure what that costs."""
    record = bundle.record
    engine = OnnxRuntimeEngine(bundle.model)
    clips = clips_of(record.task, rows, split, crop_size(bundle), record.input.context)
    start = time.monotonic()
    predicted = _predict(engine, bundle, clips)
    spent_s = time.monotonic() - start
    size = record.size
    return Evaluated(
        name=record.name,
        family=record.family,
        labels=bundle.labels,
        logits=predicted.logits,
        classes=predicted.classes,
        domains=predicted.of_rows("domain"),
        groups=predicted.of_rows("group"),
        temperature=record.temperature,
        abstain_below=record.abstain_below,
        trained_on=tuple(record.training.domains),
        cost=InferenceCost(
            parameters=size.parameters if size else 0,
            multiply_adds=size.operations // 2 if size else 0,
            training_s=record.training.seconds,
            test_s=spent_s,
            ms_per_cell=ms_per_cell(folder),
            peak_memory_mb=peak_memory_mb(folder),
        ),
        robustness=_robustness(engine, bundle, clips, rows),
    )


def _predict(engine: Engine, bundle: Bundle, clips: Clips) -> Predictions:
    """Predict clips frame after frame, with a state where the model has one."""
    state_size = bundle.record.state_size
    logits = predict_clips(engine, clips.pixels, state_size)
    return predictions_of(logits, clips, has_memory=state_size is not None)


def _robustness(
    engine: Engine, bundle: Bundle, clips: Clips, rows: Labelled
) -> Robustness:
    """Evaluate on turned and on blurred cells, equally many of each class."""
    size_px = crop_size(bundle)
    is_boxed = all(row.box is not None for row, _ in rows) and bool(rows)
    few = some_of_each(clips, lambda _: _PER_CLASS)
    wide, share = few, 1.0
    if is_boxed:  # cut wider, so that the corners of turned crops are real, too
        chosen = [
            (row, int(k)) for row, k in zip(few.rows, few.classes[:, 0], strict=True)
        ]
        context = bundle.record.input.context
        side = stock_px(size_px, context)
        wide = as_clips(cut_task_crops(chosen, side, STOCK_CONTEXT))
        share = context / STOCK_CONTEXT

    def accuracy_on(pixels: NDArray[np.uint8], of: Clips) -> float:
        predicted = _predict(engine, bundle, Clips(pixels, of.classes, of.rows))
        return balanced_accuracy(predicted.logits.argmax(axis=1), predicted.classes)

    blurs = {px: px * size_px / _BLUR_AT_PX for px in _BLURS_PX}
    return Robustness(
        {
            float(a): accuracy_on(_turned(wide.pixels, a, size_px, share), wide)
            for a in _ANGLES
        },
        {
            px: accuracy_on(_blurred(few.pixels, sigma), few)
            for px, sigma in blurs.items()
        },
    )


def _turned(
    pixels: NDArray[np.uint8], degrees: float, size_px: int, share: float
) -> NDArray[np.uint8]:
    """Turn clips (N, T, P, P, 3) and cut the middle `share` to (N, T, S, S, 3)."""
    side = pixels.shape[2]
    middle = (side - 1) / 2
    zoom = size_px / (side * share)
    rotation = cv2.getRotationMatrix2D((middle, middle), degrees, zoom)
    rotation[:, 2] += (size_px - 1) / 2 - middle
    return _each(
        pixels,
        lambda frame: cv2.warpAffine(
            frame, rotation, (size_px, size_px), borderMode=cv2.BORDER_REFLECT
        ),
        size_px,
    )


def _blurred(pixels: NDArray[np.uint8], sigma_px: float) -> NDArray[np.uint8]:
    """Blur clips (N, T, S, S, 3) by a Gaussian."""
    if sigma_px == 0:
        return pixels
    return _each(
        pixels, lambda frame: cv2.GaussianBlur(frame, (0, 0), sigma_px), pixels.shape[2]
    )


def _each(
    pixels: NDArray[np.uint8],
    change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]],
    size_px: int,
) -> NDArray[np.uint8]:
    """Change every frame (P, P, 3) of clips; the result is (N, T, S, S, 3)."""
    out = np.empty((*pixels.shape[:2], size_px, size_px, 3), np.uint8)
    for index in np.ndindex(pixels.shape[:2]):
        out[index] = change(pixels[index])
    return out


def _machine() -> dict[str, str]:
    """Describe when and on what the bundles are measured."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "processor": f"{model}, {os.cpu_count()} cores",
        "runtime": f"ONNX Runtime {onnxruntime.__version__}, 1 thread",
    }
