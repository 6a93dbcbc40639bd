"""What the quality gate lets through: real fields as they are, and made bad on purpose.

Each laboratory is a run: its fields go through the whole pipeline and the gate in the
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
from edge.schema.results import FrameResult
from edge.slide.quality_gate import QualityGate
from edge.sources.image_files import read_image

Frame = NDArray[np.uint8]
Degrade = Callable[[Frame, float, np.random.Generator], Frame]


@dataclasses.dataclass(frozen=True, slots=True)
class GateScore:
    """How frames of one laboratory fared. `faults` counts what rejected ones had.

    `learned`: after the good frames of the run; else at its very start.
    """

    laboratory: str
    shown: str
    learned: bool
    frames: int
    accepted: int
    faults: dict[str, int]


def gate_laboratory(
    name: str, paths: Sequence[Path], parts: Parts, most_degraded: int, seed: int = 0
) -> Iterator[GateScore]:
    """Judge the fields of a laboratory as they are, then degraded ones."""
    opened = parts.open_pipeline()
    pipeline = dataclasses.replace(opened, scale=Scale(None))
    fields = [np.asarray(read_image(path), np.uint8) for path in paths]
    for field in fields[:5]:  # until the scale is settled
        _examine(pipeline, field)
    gate = QualityGate()
    seen = [gate.judge(_examine(pipeline, field)) for field in fields]
    yield _gated(name, "as they are", True, seen)
    cold = [QualityGate().judge(_examine(pipeline, f)) for f in fields[:most_degraded]]
    yield _gated(name, "as they are", False, cold)
    um = _examine(pipeline, fields[0]).pixel_size_um or 0.07
    chosen = fields[:: max(1, len(fields) // most_degraded)][:most_degraded]
    for shown, degrade in DEGRADED.items():
        random = np.random.default_rng(seed)
        bad = [degrade(field, um, random) for field in chosen]
        result = [_examine(pipeline, field) for field in bad]
        yield _gated(name, shown, True, [gate.judge(one) for one in result])
        yield _gated(name, shown, False, [QualityGate().judge(one) for one in result])
    opened.close()


def laboratories(manifest: Path) -> dict[str, list[Path]]:
    """Whole fields of each laboratory that a manifest lists, in its order."""
    found: dict[str, dict[Path, None]] = {}
    with manifest.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            is_field = row["task"] == "cells4" or row["path"].startswith("rpi_wbc/")
            if is_field:
                path = manifest.parent / row["path"]
                found.setdefault(row["domain"], {})[path] = None
    return {name: list(paths) for name, paths in found.items()}


def blurred(sigma_um: float) -> Degrade:
    """Put it out of focus: a Gaussian of so many µm before the sensor's noise."""

    def degrade(field: Frame, um: float, random: np.random.Generator) -> Frame:
        light = cv2.GaussianBlur(field.astype(np.float32), (0, 0), sigma_um / um)
        return _sensed(light, field, random)

    return degrade


def moved(length_um: float) -> Degrade:
    """Move it so many µm during the exposure, in any direction."""

    def degrade(field: Frame, um: float, random: np.random.Generator) -> Frame:
        angle, steps = random.uniform(0, np.pi), 25
        light = np.zeros(field.shape, np.float32)
        for part in np.linspace(-0.5, 0.5, steps):
            way = part * length_um / um
            matrix = np.array(
                [[1, 0, way * np.cos(angle)], [0, 1, way * np.sin(angle)]], np.float32
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
    """Give it a share of the light."""

    def degrade(field: Frame, um: float, random: np.random.Generator) -> Frame:
        return _sensed(field.astype(np.float32) * share, field, random)

    return degrade


def saturated(over: float) -> Degrade:
    """Expose it so that the background would be so many times full scale."""

    def degrade(field: Frame, um: float, random: np.random.Generator) -> Frame:
        background = float(np.percentile(field[..., 1], 90))
        light = field.astype(np.float32) * (255 * over / background)
        return _sensed(light, field, random)

    return degrade


def emptied(field: Frame, um: float, random: np.random.Generator) -> Frame:
    """Leave the light of the background, as a smooth surface, and noise."""
    small = cv2.resize(field, (64, 48), interpolation=cv2.INTER_AREA).astype(np.float32)
    terms, whole = _surface(48, 64), _surface(*field.shape[:2])
    light = np.empty(field.shape, np.float32)
    for channel in range(3):
        values = small[..., channel].reshape(-1)
        bright = np.ones(values.shape, bool)
        for share in (50, 60, 70, 80):  # cells are darker: keep what is brightest
            weights, *_ = np.linalg.lstsq(terms[bright], values[bright], rcond=None)
            off = values - terms @ weights
            bright = off > np.percentile(off, share)
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
    """Add the noise that the field's own sensor has, and end at full scale."""
    grain = field.astype(np.float32) - cv2.GaussianBlur(field, (0, 0), 1.0)
    deviation = 1.4826 * float(np.median(np.abs(grain)))
    noise = random.standard_normal(field.shape, np.float32) * deviation
    return np.clip(light + noise, 0, 255).astype(np.uint8)


def _examine(pipeline: Pipeline, field: Frame) -> FrameResult:
    now_ns = time.monotonic_ns()
    shot = Shot(0, now_ns, utc_of(now_ns), "field")
    return pipeline.examine(Exposure(shot, lambda: RawFrame(shot, field))).result


def _gated(
    laboratory: str, shown: str, learned: bool, result: Sequence[FrameResult]
) -> GateScore:
    faults = Counter(str(one.fault) for one in result if one.status == "rejected")
    accepted = len(result) - sum(faults.values())
    return GateScore(laboratory, shown, learned, len(result), accepted, dict(faults))
