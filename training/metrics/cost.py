"""Measure what a bundle costs on the processor: time per cell and memory."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import numpy as np

from edge.artifacts.bundle import crop_size, first_state, load_bundle
from edge.engines.onnxruntime import OnnxRuntimeEngine

_BATCH, _REPEATS, _WARM_UP = 64, 60, 10


def ms_per_cell(folder: Path) -> float:
    """Median milliseconds for one crop at a time, on one thread of ONNX Runtime."""
    bundle = load_bundle(folder)
    engine = OnnxRuntimeEngine(bundle.model)
    size_px = crop_size(bundle)
    crop = np.full((1, size_px, size_px, 3), 127, np.uint8)
    spent_s = []
    for _ in range(_WARM_UP + _REPEATS):
        start = time.perf_counter()
        engine.infer(crop, first_state(bundle, 1))
        spent_s.append(time.perf_counter() - start)
    return float(np.median(spent_s[_WARM_UP:])) * 1e3


def peak_memory_mb(folder: Path) -> float:
    """Megabytes by which a new process grows when it runs 64 crops at once."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_growth_mb, (folder,))


def _growth_mb(folder: Path) -> float:
    """Run a bundle in this process and return by how much its memory grew."""
    before = _peak_resident_mb()
    bundle = load_bundle(folder)
    engine = OnnxRuntimeEngine(bundle.model)
    size_px = crop_size(bundle)
    crops = np.full((_BATCH, size_px, size_px, 3), 127, np.uint8)
    for _ in range(3):
        engine.infer(crops, first_state(bundle, _BATCH))
    return _peak_resident_mb() - before


def _peak_resident_mb() -> float:
    """Read the greatest memory that this process has used so far (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return float("nan")
