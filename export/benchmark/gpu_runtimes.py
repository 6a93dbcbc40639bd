"""Compare TensorRT, ONNX Runtime and torch, in turns, on the GPU of this machine."""

from __future__ import annotations

import platform
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from datetime import datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.artifacts.bundle import Bundle, crop_size, first_state
from edge.engines import Engine
from edge.engines.build_manifest import (
    EngineManifest,
    build_options_of,
    engine_path,
    read_manifest,
    read_plan,
)
from edge.engines.cuda import Gpu, GpuFailed
from edge.engines.onnxruntime import OnnxRuntimeEngine
from edge.engines.opening import open_plan
from edge.engines.tensorrt import TensorRTEngine
from edge.errors import HemascopeError
from edge.settings.models import EngineSettings, Precision
from export.benchmark.interleaved_timing import Spread, in_turns, spread
from export.engine import build_engine

BATCHES = (1, 8, 32, 64)
Batch = NDArray[np.uint8]


def measure_gpu(
    bundles: Sequence[Bundle], rounds: int, now: datetime, say: Callable[[str], None]
) -> list[str]:
    """Build every precision of the bundles, measure it, and return Markdown lines.

    Parameters
    ----------
    bundles
        Classifiers.
    rounds
        Turns per measurement.
    now
        For the manifests of the engines.
    say
        Shows a line.

    Raises
    ------
    EngineFailed
        There is no GPU or no TensorRT.
    BundleRefused
        A bundle is no classifier.
    """
    for bundle in bundles:
        crop_size(bundle)  # a locator is refused before anything is measured
    lines = [*_machine(), ""]
    with tempfile.TemporaryDirectory() as folder:
        for bundle in bundles:
            for precision in bundle.models:
                settings = EngineSettings(
                    engine="tensorrt",
                    precision=precision,
                    batch=(1, 32, max(BATCHES)),
                    engines=Path(folder),
                )
                say(f"{bundle.id} {precision}: building and measuring")
                try:
                    lines += _build_lines(bundle, _build(bundle, settings, now))
                    lines += _measure(bundle, settings, rounds)
                except GpuFailed:
                    raise
                except HemascopeError as error:  # the others are still measured
                    lines += [f"{bundle.id} {precision}: {error}", ""]
    return lines


def _machine() -> list[str]:
    """Return what was measured on: hardware, clocks, versions."""
    with closing(Gpu()) as gpu:
        lines = [
            f"GPU: {gpu.name}, compute capability {gpu.compute_capability}, driver API "
            f"{gpu.driver}, {'integrated' if gpu.is_integrated else 'discrete'}",
        ]
    query = "clocks.sm,clocks.mem,clocks.max.sm,power.limit,persistence_mode"
    for command in (
        ["nvidia-smi", f"--query-gpu={query}", "--format=csv"],
        ["nvpmodel", "-q"],
        ["jetson_clocks", "--show"],
    ):
        text = _output_of(command)
        if text:
            lines.append(f"{command[0]}: {text}")
    packages = [f"Python {platform.python_version()}", platform.platform()]
    for name in ("onnxruntime", "pycuda", "torch"):
        try:
            packages.append(f"{name} {version(name)}")
        except ImportError:
            packages.append(f"no {name}")
    return [*lines, ", ".join(packages)]


def _output_of(command: list[str]) -> str:
    """Return the output of a program on one line; nothing if it is not installed."""
    try:
        finished = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (
        " | ".join(finished.stdout.split("\n")).strip(" |")
        if not finished.returncode
        else ""
    )


def _build(bundle: Bundle, settings: EngineSettings, now: datetime) -> EngineManifest:
    """Build an engine and return its manifest."""
    path = engine_path(bundle, settings)
    build_engine(
        bundle,
        build_options_of(bundle, settings.precision, settings.batch),
        path,
        settings,
        now,
        progress=lambda share, phase: None,
        cancel=threading.Event(),
    )
    return read_manifest(path)


def _build_lines(bundle: Bundle, manifest: EngineManifest) -> list[str]:
    """Say how an engine was built and how exact it is."""
    worst = ", ".join(f"{n} {v:.2g}" for n, v in manifest.parity.worst.items())
    size = len(bundle.model_of(manifest.order.precision)) / 1e6
    return [
        f"### {bundle.record.family} {manifest.order.precision}",
        "",
        f"{bundle.id}, ONNX {size:.2f} MB; {manifest.site.flavour} "
        f"{manifest.site.tensorrt}; built in {manifest.build_seconds:.1f} s; worst "
        f"difference on golden input: {worst}",
        "",
    ]


def _measure(bundle: Bundle, settings: EngineSettings, rounds: int) -> list[str]:
    """Write a table of milliseconds per call and size of batch: medians, quartiles."""
    with ExitStack() as opened:

        def engine(**changes: bool) -> TensorRTEngine:
            plan = read_plan(engine_path(bundle, settings))
            changed = EngineSettings(
                **{f: getattr(settings, f) for f in settings.__struct_fields__}
                | changes
            )
            return opened.enter_context(closing(open_plan(plan, changed)))

        usual = engine()
        engines: dict[str, Engine] = {
            "TensorRT, graphs": usual,
            "TensorRT, no graphs": engine(has_graphs=False),
            f"TensorRT, {'copied' if usual.is_mapped else 'mapped'} memory": engine(
                is_mapped=not usual.is_mapped
            ),
            "ONNX Runtime, 1 CPU thread": OnnxRuntimeEngine(
                bundle.model_of(settings.precision)
            ),
            **_torch(bundle, settings.precision),
        }
        columns = ["kernels alone", *engines]
        lines = [
            "| cells | " + " | ".join(columns) + " |",
            "|---" * (len(columns) + 1) + "|",
        ]
        for rows in BATCHES:
            inputs = _crops(bundle, rows), first_state(bundle, rows)
            tasks = {name: partial(e.infer, *inputs) for name, e in engines.items()}
            spent_ms = in_turns(tasks, rounds)
            cells = [spread(usual.kernel_ms(inputs[0], rounds))]
            cells += [spread(spent_ms[name]) for name in engines]
            lines.append(f"| {rows} | " + " | ".join(map(_short, cells)) + " |")
    return [*lines, ""]


def _short(spent_ms: Spread) -> str:
    """Write a median with its quartiles."""
    return f"{spent_ms.median:.3f} ({spent_ms.low:.3f} to {spent_ms.high:.3f})"


def _crops(bundle: Bundle, rows: int) -> Batch:
    """Repeat the golden crops of a bundle to a batch (rows, S, S, 3) uint8."""
    golden = np.asarray(bundle.golden["image"], np.uint8)
    size_px = crop_size(bundle)
    indices = np.arange(rows) % len(golden)
    return np.ascontiguousarray(golden[indices]).reshape(rows, size_px, size_px, 3)


def _torch(bundle: Bundle, precision: Precision) -> dict[str, Engine]:
    """Return the same network in torch, on a GPU if there is one; nothing for int8."""
    if precision == "int8":
        return {}
    try:
        import torch

        from training.fitting.families import CLASSIFIERS, new_classifier
        from training.fitting.model_graphs import Standardise, TorchEngine
    except ImportError:
        return {}
    family = bundle.record.family
    network = CLASSIFIERS[family].network
    grey = Standardise((0.7,) * 3, (0.2,) * 3)
    graph = new_classifier(family, len(bundle.labels), network, grey).eval()
    size = bundle.record.size
    if size is None or size.parameters != sum(p.numel() for p in graph.parameters()):
        return {}  # the bundle was built with other settings: another network
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if precision == "fp16":
        from export.precision import halve

        graph = halve(graph)  # type: ignore[assignment]
    return {f"torch eager, {device}": TorchEngine(graph.to(device))}
