"""Open the engine of a bundle, and prove that it computes what it did at export."""

from __future__ import annotations

import numpy as np

from edge.bundle import Bundle, BundleRefused
from edge.engines import NEXT_STATE, STATE, Engine
from edge.engines.onnxruntime import OnnxRuntimeEngine
from edge.settings import EngineKind

_ENGINES = {"onnxruntime": OnnxRuntimeEngine}
_TOLERANCE = 2e-3  # of a probability or logit: kernels differ between processors


def open_engine(
    bundle: Bundle, kind: EngineKind = "onnxruntime", threads: int = 1
) -> Engine:
    """Open an engine for `bundle` and run its self-test.

    Raises
    ------
    EngineFailed
        The runtime refuses the model.
    BundleRefused
        The golden input does not give the golden output.
    """
    engine = _ENGINES[kind](bundle.model, threads=threads)
    self_test(engine, bundle)
    return engine


def self_test(engine: Engine, bundle: Bundle) -> None:
    """Compare the engine's outputs for the golden input with those of the export.

    Raises
    ------
    BundleRefused
        A name, a shape or a value differs.
    """
    golden = dict(bundle.golden)
    image = golden.pop("image", None)
    state = golden.pop(STATE, None)
    has_state = bundle.record.state_size is not None
    if (
        image is None
        or (state is not None) != has_state
        or set(golden) != set(bundle.record.outputs)
    ):
        raise BundleRefused(
            f"{bundle.id}: golden.npz holds {sorted(bundle.golden)}, expected 'image', "
            f"{'state, ' if has_state else ''}and {sorted(bundle.record.outputs)}; "
            "export it again"
        )
    outputs = engine.infer(
        image.astype(np.uint8, casting="safe", copy=False),
        None if state is None else state.astype(np.float32, copy=False),
    )
    found = dict(outputs.tensors)
    if outputs.next_state is not None:
        found[NEXT_STATE] = outputs.next_state
    for name, want in golden.items():
        have = found.get(name)
        if have is None or have.shape != want.shape:
            shape = None if have is None else have.shape
            raise BundleRefused(
                f"{bundle.id}: output {name!r} has shape {shape}, expected "
                f"{want.shape}; export it again"
            )
        wanted = want.astype(np.float32)
        worst = float(np.abs(have - wanted).max(initial=0.0))
        if worst > _TOLERANCE * max(1.0, float(np.abs(wanted).max(initial=0.0))):
            raise BundleRefused(
                f"{bundle.id}: output {name!r} is off by {worst:.4f} on the golden "
                "input; this device computes something else, do not trust it"
            )
