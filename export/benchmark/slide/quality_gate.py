"""Measure what the quality gate accepts: real fields as they are, and degraded ones.

Each laboratory is a run. Its fields go through the whole pipeline and the gate in the
order of the manifest; then some of them again, degraded by a physical amount.
"""

from __future__ import annotations

import csv
import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.clock import utc_of
from edge.frames import Exposure, RawFrame, Shot
from edge.pipeline.parts import Parts
from edge.pipeline.pipeline import Pipeline
from edge.pipeline.pixel_size import Scale
from edge.pipeline.quality_gate import QualityGate
from edge.schema.results import FrameResult
from edge.sources.image_files import read_image

Frame = NDArray[np.uint8]
Degrade = Callable[[Frame, float, np.random.Generator], Frame]


@dataclasses.dataclass(frozen=True, slots=True)
class GateScore:
    """How many frames of a laboratory the gate accepted in one condition.

    `faults` counts the reasons of the rejected ones. `learned` says that the gate had
    learned its limits from good frames of the run before; else the run had just begun.
    """

    laboratory: str
    condition: str
    learned: bool
    frames: int
    accepted: int
    faults: dict[str, int]


def gate_laboratory(
    name: str, paths: Sequence[Path], parts: Parts, max_degraded: int, seed: int = 0
) -> Iterator[GateScore]:
    """Run the gate on the fields of a laboratory as they are, then on degraded ones.

    At most `max_degraded` fields are degraded, each in every way of `DEGRADED`.
    """
    opened = parts.open_pipeline()
    pipeline = dataclasses.replace(opened, scale=Scale(None))
    fields = [np.asarray(read_image(path), np.uint8) for path in paths]
    for field in fields[:5]:  # until the scale is known
        _examine(pipeline, field)
    gate = QualityGate()
    learned = [gate.judge(_examine(pipeline, field)) for field in fields]
    yield _score(name, "as they are", True, learned)
    first = [QualityGate().judge(_examine(pipeline, f)) for f in fields[:max_degraded]]
    yield _score(name, "as they are", False, first)
    um = _examine(pipeline, fields[0]).pixel_size_um or 0.07
    chosen = fields[:: max(1, len(fields) // max_degraded)][:max_degraded]
    for condition, degrade in DEGRADED.items():
        random = np.random.default_rng(seed)
        bad = [degrade(field, um, random) for field in chosen]
        results = [_examine(pipeline, field) for field in bad]
        learned = [gate.judge(result) for result in results]
        yield _score(name, condition, True, learned)
        first = [QualityGate().judge(result) for result in results]
        yield _score(name, condition, False, first)
    opened.close()


def laboratories(manifest: Path) -> dict[str, list[Path]]:
    """Whole fields of each laboratory that a manifest lists, in its order."""
    fields: dict[str, dict[Path, None]] = {}
    with manifest.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            is_field = row["task"] == "cells4" or row["path"].startswith("rpi_wbc/")
            if is_field:
                path = manifest.parent / row["path"]
                fields.setdefault(row["domain"], {})[path] = None
    return {name: list(paths) for name, paths in fields.items()}


def blurred(sigma_um: float) -> Degrade:
    """Return a change that defocuses: a Gaussian of `sigma_um` before sensor noise."""

    def degrade(field: Frame, um: float, random: np.random.Generator) -> Frame:
        light = cv2.GaussianBlur(field.astype(np.float32), (0, 0), sigma_um / um)
        return _sensed(light, field, random)

    return degrade


def moved(length_um: float) -> Degrade:
    """Return a change that moves the slide by `length_um` during the exposure."""

    def degrade(field: Frame, um: float, random: np.random.Generator) -> Frame:
        angle, steps = random.uniform(0, np.pi), 25
        light = np.zeros(field.shape, np.float32)
        for part in np.linspace(-0.5, 0.5, steps):
            shift = part * length_um / um
            matrix = np.array(
                [[1, 0, shift * np.cos(angle)], [0, 1, shift * np.sin(angle)]],
                np.float32,
            )
            light += cv2.warpAffine(
                field.astype(np.float32),
                matrix,
                (field.shape[1], field.shape[0]),
                borderMode=cv2.BORDER_REFLECT,
            )
        return _sensed(light / np.float32(steps), field, random)

    return degrade


def dark(share: float) -> Degrade:
    """Return a change that leaves a share of the light."""

    def degrade(field: Frame, um: float, random: np.random.Generator) -> Frame:
        return _sensed(field.astype(np.float32) * share, field, random)

    return degrade


def saturated(over: float) -> Degrade:
    """Return a change that exposes the background to `over` times full scale."""

    def degrade(field: Frame, um: float, random: np.random.Generator) -> Frame:
        background = float(np.percentile(field[..., 1], 90))
        light = field.astype(np.float32) * (255 * over / background)
        return _sensed(light, field, random)

    return degrade


def emptied(field: Frame, um: float, random: np.random.Generator) -> Frame:
    """Replace a field by its background, as a smooth surface, with sensor noise."""
    small = cv2.resize(field, (64, 48), interpolation=cv2.INTER_AREA).astype(np.float32)
    terms, whole = _surface(48, 64), _surface(*field.shape[:2])
    light = np.empty(field.shape, np.float32)
    for channel in range(3):
        values = small[..., channel].reshape(-1)
        bright = np.ones(values.shape, bool)
        for share in (50, 60, 70, 80):  # cells are darker: keep what is brightest
            weights, *_ = np.linalg.lstsq(terms[bright], values[bright], rcond=None)
            residual = values - terms @ weights
            bright = residual > np.percentile(residual, share)
        light[..., channel] = (whole @ weights).reshape(field.shape[:2])
    return _sensed(light, field, random)


DEGRADED: dict[str, Degrade] = {
    "out of focus, 0.5 µm": blurred(0.5),
    "out of focus, 0.8 µm": blurred(0.8),
    "out of focus, 1.2 µm": blurred(1.2),
    "out of focus, 2 µm": blurred(2.0),
    "moved by 2 µm": moved(2.0),
    "moved by 3 µm": moved(3.0),
    "moved by 4 µm": moved(4.0),
    "moved by 8 µm": moved(8.0),
    "a quarter of the light": dark(0.25),
    "a tenth of the light": dark(0.1),
    "exposed 1.3 times full scale": saturated(1.3),
    "exposed 2 times full scale": saturated(2.0),
    "empty": emptied,
}


def _surface(height: int, width: int) -> NDArray[np.float32]:
    """Terms (height * width, 6) of a surface of second order."""
    y, x = np.meshgrid(
        np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij"
    )
    terms = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=-1)
    return terms.reshape(-1, 6).astype(np.float32)


def _sensed(
    light: NDArray[np.floating[Any]], field: Frame, random: np.random.Generator
) -> Frame:
    """Add noise as the field's own sensor has it, and clip at full scale.

    `light` (H, W, 3), 0 to 255. 1.4826 times the median absolute deviation is the
    standard deviation of normal noise.
    """
    grain = field.astype(np.float32) - cv2.GaussianBlur(field, (0, 0), 1.0)
    deviation = 1.4826 * float(np.median(np.abs(grain)))
    noise = random.standard_normal(field.shape, np.float32) * deviation
    return np.clip(light + noise, 0, 255).astype(np.uint8)


def _examine(pipeline: Pipeline, field: Frame) -> FrameResult:
    """Send a field (H, W, 3) through the pipeline."""
    now_ns = time.monotonic_ns()
    shot = Shot(0, now_ns, utc_of(now_ns), "field")
    return pipeline.examine(Exposure(shot, lambda: RawFrame(shot, field))).result


def _score(
    laboratory: str, condition: str, learned: bool, results: Sequence[FrameResult]
) -> GateScore:
    """Count accepted and rejected frames."""
    faults = Counter(str(one.fault) for one in results if one.status == "rejected")
    accepted = len(results) - sum(faults.values())
    return GateScore(
        laboratory, condition, learned, len(results), accepted, dict(faults)
    )
