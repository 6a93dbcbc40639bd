"""Open the engine of a bundle, and check that it computes what the export did."""

from __future__ import annotations

import logging
from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from edge.artifacts.bundle import Bundle, BundleRefused
from edge.engines import BATCH, NEXT_STATE, STATE, Engine
from edge.engines.build_manifest import (
    EnginePath,
    EngineStale,
    build_options_of,
    engine_path,
    read_plan,
    stale_reasons,
    this_machine,
)
from edge.engines.cuda import Gpu
from edge.engines.onnxruntime import OnnxRuntimeEngine
from edge.engines.tensorrt import TensorRTEngine
from edge.engines.tensorrt_runtime import load_tensorrt
from edge.settings.models import ON_CPU, EngineSettings, Precision

log = logging.getLogger(__name__)

# How far an output may be from the export's, as a share of the larger one of 1 and the
# output's largest value. Kernels add in another order on other processors, which
# changes the last digits; in half precision these are worth more.
_TOLERANCE: dict[Precision, float] = {"fp32": 2e-3, "fp16": 2e-2, "int8": 5e-2}


def open_engine(
    bundle: Bundle, settings: EngineSettings = ON_CPU
) -> OnnxRuntimeEngine | TensorRTEngine:
    """Open an engine for `bundle`, warm it up and run its self-test.

    Raises
    ------
    EngineFailed
        The runtime refuses the model.
    EngineStale
        TensorRT's plan was not built, or for something else.
    BundleRefused
        The golden input does not give the golden output.
    """
    if settings.engine == "tensorrt":
        path, reasons = stale_engine(bundle, settings)
        if reasons:
            raise EngineStale(
                f"the engine of {bundle.id} is not used: {'; '.join(reasons)}; run "
                f"`hemascope build {bundle.folder}`"
            )
        engine: OnnxRuntimeEngine | TensorRTEngine = open_plan(
            read_plan(path), settings
        )
    else:
        model = bundle.model_of(settings.precision)
        engine = OnnxRuntimeEngine(model, threads=settings.threads)
    cost = bundle.cost_of(settings.precision)
    if cost is not None and cost.is_forced:
        log.warning("model=%s %s: %s", bundle.id, settings.precision, cost)
    try:
        self_test(engine, bundle, settings.precision)
    except BaseException:
        engine.close()
        raise
    return engine


def stale_engine(
    bundle: Bundle, settings: EngineSettings
) -> tuple[EnginePath, list[str]]:
    """Return where TensorRT's plan lies, and why it may not be loaded.

    Raises
    ------
    EngineFailed
        There is no GPU or no TensorRT.
    """
    with closing(Gpu()) as gpu:
        machine = this_machine(load_tensorrt(), gpu)
    path = engine_path(bundle, settings)
    options = build_options_of(bundle, settings.precision, settings.batch)
    return path, stale_reasons(path, options, machine)


def open_plan(plan: bytes, settings: EngineSettings) -> TensorRTEngine:
    """Open a plan that was built here, and warm it up."""
    engine = TensorRTEngine(
        plan, has_graphs=settings.has_graphs, is_mapped=settings.is_mapped
    )
    try:
        engine.warm_up()
    except BaseException:
        engine.close()
        raise
    return engine


def self_test(
    engine: Engine, bundle: Bundle, precision: Precision = "fp32"
) -> dict[str, float]:
    """Compare the engine's outputs for the golden input with those of the export.

    Returns
    -------
    dict of str to float
        The largest difference of each output.

    Raises
    ------
    BundleRefused
        A name, a shape or a value differs.
    """
    bundle.model_of(precision)
    image, state, wanted = _golden(bundle, precision)
    outputs = engine.infer(image, state)
    found = dict(outputs.tensors)
    if outputs.next_state is not None:
        found[NEXT_STATE] = outputs.next_state
    differences = {}
    for name, expected in wanted.items():
        output = found.get(name)
        if output is None or output.shape != expected.shape:
            shape = None if output is None else output.shape
            raise BundleRefused(
                f"{bundle.id}: output {name!r} has shape {shape}, expected "
                f"{expected.shape}; export it again"
            )
        difference = float(np.abs(output - expected).max(initial=0.0))
        largest = float(np.abs(expected).max(initial=0.0))
        tolerance = _TOLERANCE[precision] * max(1.0, largest)
        if difference > tolerance:
            raise BundleRefused(
                f"{bundle.id}: output {name!r} is off by {difference:.4f} on the "
                f"golden input, expected at most {tolerance:.4f}; this device computes "
                "something else, do not trust it"
            )
        differences[name] = difference
    return differences


def _golden(
    bundle: Bundle, precision: Precision
) -> tuple[
    NDArray[np.uint8], NDArray[np.float32] | None, dict[str, NDArray[np.float32]]
]:
    """Return the golden input, state, and outputs of a precision.

    The input is (N, H, W, 3) uint8, the state (N, D) float32 or None, each output
    float32 with N as its first axis.
    """
    golden, prefix = bundle.golden, "" if precision == "fp32" else f"{precision}."
    image, state = golden.get(BATCH), golden.get(STATE)
    names = bundle.record.outputs
    has_state = bundle.record.state_size is not None
    kept = {n: golden[prefix + n] for n in names if prefix + n in golden}
    if image is None or (state is not None) != has_state or set(kept) != set(names):
        raise BundleRefused(
            f"{bundle.id}: golden.npz holds {sorted(golden)}, expected {BATCH!r}, "
            f"{'state, ' if has_state else ''}and {[prefix + n for n in names]}; "
            "export it again"
        )
    return (
        image.astype(np.uint8, casting="safe", copy=False),
        None if state is None else state.astype(np.float32, copy=False),
        {name: values.astype(np.float32) for name, values in kept.items()},
    )
