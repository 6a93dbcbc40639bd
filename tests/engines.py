"""Models and engines that several tests open."""

from __future__ import annotations

import hashlib
import threading
from datetime import datetime, timezone
from pathlib import Path

import pytest

from edge.artifacts.bundle import Bundle
from edge.engines.build_manifest import (
    BuildOptions,
    EngineManifest,
    build_options_of,
    engine_path,
)
from edge.engines.cuda import GpuFailed, load_driver
from edge.engines.tensorrt import TensorRTEngine
from edge.engines.tensorrt_runtime import load_tensorrt
from edge.settings.models import EngineSettings
from export.engine import build_engine
from export.engine_plan import build_plan

BATCH = (1, 4, 16)
BUILT_AT = datetime(2026, 1, 1, tzinfo=timezone.utc)


def needs_gpu() -> None:
    """Skip where there is neither a GPU nor the stand-in."""
    try:
        load_driver()
    except GpuFailed as error:
        pytest.skip(str(error).split(";")[0])


def on_gpu(folder: Path, **changes: object) -> EngineSettings:
    """Settings of TensorRT with engines in `folder`."""
    return EngineSettings(
        **{"engine": "tensorrt", "batch": BATCH, "engines": folder} | changes
    )  # type: ignore[arg-type]


def build(bundle: Bundle, settings: EngineSettings) -> EngineManifest:
    """Build the engine of a bundle as `hemascope build` does."""
    return build_engine(
        bundle,
        build_options_of(bundle, settings.precision, settings.batch),
        engine_path(bundle, settings),
        settings,
        BUILT_AT,
        progress=lambda share, phase: None,
        cancel=threading.Event(),
    )


def plan_of(model: bytes, shapes: dict[str, tuple[tuple[int, ...], ...]]) -> bytes:
    """Build the plan of a bare model."""
    options = BuildOptions(
        onnx_sha256=hashlib.sha256(model).hexdigest(),
        precision="fp32",
        shapes=shapes,  # type: ignore[arg-type]
    )
    return build_plan(model, options, load_tensorrt()).plan


def recurrent_engine(**options: object) -> TensorRTEngine:
    """The recurrent model for at most eight cells."""
    rows = 1, 4, 8
    shapes = {
        "image": tuple((n, 4, 4, 3) for n in rows),
        "state": tuple((n, 3) for n in rows),
    }
    return TensorRTEngine(plan_of(recurrent_model(), shapes), **options)  # type: ignore[arg-type]


def recurrent_model() -> bytes:
    """next_state = state + mean of the image; logits = next_state."""
    pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    f, u = TensorProto.FLOAT, TensorProto.UINT8
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["x"], to=f),
            helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=0),
            helper.make_node("Add", ["state", "mean"], ["next_state"]),
            helper.make_node("Identity", ["next_state"], ["logits"]),
        ],
        "step",
        [
            helper.make_tensor_value_info("image", u, ["n", 4, 4, 3]),
            helper.make_tensor_value_info("state", f, ["n", 3]),
        ],
        [
            helper.make_tensor_value_info("logits", f, ["n", 3]),
            helper.make_tensor_value_info("next_state", f, ["n", 3]),
        ],
        [helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 10
    return bytes(model.SerializeToString())
