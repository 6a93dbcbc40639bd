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


def compare(asked: BundleComparison, report: Path, say: Callable[[str], None]) -> Path:
    """Judge bundles of one task and write a report; return its page.

    Parameters
    ----------
    asked
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
    bundles = [load_bundle(folder) for folder in asked.bundles]
    tasks = {bundle.record.task for bundle in bundles}
    if len(tasks) != 1:
        raise BundleRefused(
            f"the bundles are for tasks {sorted(tasks)}, expected one; compare those "
            "of one task"
        )
    task = tasks.pop()
    gathered = read_usable(CellSource(asked.data, task, is_any_licence=True))
    for note in gathered.notes:
        say(note)
    rows = gathered.parts.get(asked.split, [])
    if asked.data is not None and not rows:
        raise DataInvalid(f"no {asked.split} row is of task {task!r}; check the data")
    judged = []
    for folder, bundle in zip(asked.bundles, bundles, strict=True):
        say(f"judging {bundle.id}")
        judged.append(_judge(folder, bundle, rows, asked.split))
    studies = [read_study(path) for path in asked.studies]
    return write_report(
        report,
        judged,
        title=f"Model families on {task}",
        facts={
            **_machine(),
            "split": asked.split,
            "cells": str(len(judged[0].classes)),
            "data sha256": digest(row for row, _ in rows)[:16],
        },
        exclusions=asked.doubtful,
        left_out=[cell for study in studies for cell in study.left_out],
        efficiency=[point for study in studies for point in study.efficiency],
        pictures={path.stem: path for path in asked.gallery},
    )


def _judge(folder: Path, bundle: Bundle, rows: Labelled, split: str) -> Evaluated:
    record = bundle.record
    engine = OnnxRuntimeEngine(bundle.model)
    clips = clips_of(record.task, rows, split, crop_size(bundle), record.input.context)
    start = time.monotonic()
    predicted = _said(engine, bundle, clips)
    spent = time.monotonic() - start
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
            test_s=spent,
            ms_per_cell=ms_per_cell(folder),
            peak_memory_mb=peak_memory_mb(folder),
        ),
        robustness=_robustness(engine, bundle, clips, rows),
    )


def _said(engine: Engine, bundle: Bundle, clips: Clips) -> Predictions:
    state_size = bundle.record.state_size
    logits = predict_clips(engine, clips.pixels, state_size)
    return predictions_of(logits, clips, has_memory=state_size is not None)


def _robustness(
    engine: Engine, bundle: Bundle, clips: Clips, rows: Labelled
) -> Robustness:
    """Judge turned and blurred cells, equally many of each class."""
    size_px = crop_size(bundle)
    is_boxed = all(row.box is not None for row, _ in rows) and bool(rows)
    few = some_of_each(clips, lambda _: _PER_CLASS)
    wide, share = few, 1.0
    if is_boxed:  # cut wider, so that turning brings no foreign corners in
        chosen = [
            (row, int(k)) for row, k in zip(few.rows, few.classes[:, 0], strict=True)
        ]
        context = bundle.record.input.context
        side = stock_px(size_px, context)
        wide = as_clips(cut_task_crops(chosen, side, STOCK_CONTEXT))
        share = context / STOCK_CONTEXT

    def right(pixels: NDArray[np.uint8], of: Clips) -> float:
        predicted = _said(engine, bundle, Clips(pixels, of.classes, of.rows))
        return balanced_accuracy(predicted.logits.argmax(axis=1), predicted.classes)

    blurs = {px: px * size_px / _BLUR_AT_PX for px in _BLURS_PX}
    return Robustness(
        {
            float(a): right(_turned(wide.pixels, a, size_px, share), wide)
            for a in _ANGLES
        },
        {px: right(_blurred(few.pixels, sigma), few) for px, sigma in blurs.items()},
    )


def _turned(
    pixels: NDArray[np.uint8], degrees: float, size_px: int, share: float
) -> NDArray[np.uint8]:
    """Turn clips (N, T, P, P, 3) and cut the middle `share` to (N, T, S, S, 3)."""
    side = pixels.shape[2]
    middle = (side - 1) / 2
    zoom = size_px / (side * share)
    turn = cv2.getRotationMatrix2D((middle, middle), degrees, zoom)
    turn[:, 2] += (size_px - 1) / 2 - middle
    return _each(
        pixels,
        lambda frame: cv2.warpAffine(
            frame, turn, (size_px, size_px), borderMode=cv2.BORDER_REFLECT
        ),
        size_px,
    )


def _blurred(pixels: NDArray[np.uint8], sigma_px: float) -> NDArray[np.uint8]:
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
    out = np.empty((*pixels.shape[:2], size_px, size_px, 3), np.uint8)
    for place in np.ndindex(pixels.shape[:2]):
        out[place] = change(pixels[place])
    return out


def _machine() -> dict[str, str]:
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
