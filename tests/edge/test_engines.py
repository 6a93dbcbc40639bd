"""One suite for every engine."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from edge.assembly import Parts
from edge.bundle import Bundle
from edge.engines import Engine, EngineFailed
from edge.engines.onnxruntime import OnnxRuntimeEngine
from edge.engines.opening import open_engine


@pytest.fixture(params=["onnxruntime"])
def engine(request: pytest.FixtureRequest, parts: Parts) -> Engine:
    return open_engine(parts.classifier, request.param)


def golden(bundle: Bundle) -> np.ndarray:
    return bundle.golden["image"].astype(np.uint8)


def test_the_golden_input_gives_the_golden_output(engine: Engine, parts: Parts) -> None:
    outputs = engine.infer(golden(parts.classifier))

    for name in parts.classifier.record.outputs:
        np.testing.assert_allclose(
            outputs.tensors[name], parts.classifier.golden[name], atol=1e-3
        )
    assert outputs.next_state is None


def test_each_crop_is_judged_alone(engine: Engine, parts: Parts) -> None:
    batch = golden(parts.classifier)

    together = engine.infer(batch).tensors["logits"]
    alone = [engine.infer(crop[None]).tensors["logits"][0] for crop in batch]

    np.testing.assert_allclose(together, alone, atol=1e-3)


def test_an_empty_batch_gives_empty_outputs(engine: Engine, parts: Parts) -> None:
    size_px = parts.classifier.record.input.size_px
    nothing = np.zeros((0, size_px, size_px, 3), np.uint8)

    logits = engine.infer(nothing).tensors["logits"]

    assert logits.shape == (0, len(parts.classifier.labels))


@pytest.mark.parametrize(
    "batch",
    [
        np.zeros((2, 80, 80, 3), np.float32),
        np.zeros((2, 64, 80, 3), np.uint8),
        np.zeros((2, 3, 80, 80), np.uint8),
        np.zeros((80, 80, 3), np.uint8),
    ],
    ids=["float", "size", "layout", "rank"],
)
def test_a_batch_that_does_not_fit_is_refused_with_both_shapes(
    engine: Engine, batch: np.ndarray
) -> None:
    with pytest.raises(EngineFailed, match="takes uint8") as error:
        engine.infer(batch)

    assert str(batch.shape) in str(error.value)


def test_state_for_a_model_without_one_is_refused(engine: Engine, parts: Parts) -> None:
    batch = golden(parts.classifier)

    with pytest.raises(EngineFailed, match="state"):
        engine.infer(batch, np.zeros((len(batch), 4), np.float32))


def test_a_closed_engine_says_so(engine: Engine, parts: Parts) -> None:
    engine.close()
    engine.close()

    with pytest.raises(EngineFailed, match="closed"):
        engine.infer(golden(parts.classifier))


def test_a_thousand_calls_leave_nothing_behind(engine: Engine, parts: Parts) -> None:
    crop = golden(parts.classifier)[:1]
    for _ in range(200):
        engine.infer(crop)
    before = resident_bytes()
    for _ in range(1000):
        engine.infer(crop)

    assert resident_bytes() - before < 1000 * 80 * 80 * 3 / 4  # a crop is 19 kB


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


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


def test_a_recurrent_model_carries_its_state_on() -> None:
    engine = OnnxRuntimeEngine(recurrent_model())
    state = np.zeros((2, 3), np.float32)
    batch = np.ones((2, 4, 4, 3), np.uint8)
    for step in range(1, 4):
        outputs = engine.infer(batch, state)
        assert outputs.next_state is not None
        assert "next_state" not in outputs.tensors
        state = outputs.next_state
        np.testing.assert_allclose(state, step)

    with pytest.raises(EngineFailed, match="takes state"):
        engine.infer(batch)


@pytest.mark.parametrize(
    "state",
    [np.zeros((1, 3), np.float32), np.zeros((2, 4), np.float32), np.zeros((2, 3))],
    ids=["cells", "size", "type"],
)
def test_a_state_that_does_not_fit_is_refused_with_both_shapes(
    state: np.ndarray,
) -> None:
    engine = OnnxRuntimeEngine(recurrent_model())

    with pytest.raises(EngineFailed, match=r"state is .* takes float32 \(2, 3\)"):
        engine.infer(np.ones((2, 4, 4, 3), np.uint8), state)


def test_an_output_that_is_not_finite_is_refused() -> None:
    engine = OnnxRuntimeEngine(recurrent_model())
    state = np.full((1, 3), np.nan, np.float32)

    with pytest.raises(EngineFailed, match="NaN"):
        engine.infer(np.ones((1, 4, 4, 3), np.uint8), state)


@pytest.mark.parametrize("data", [b"", b"not a model", b"\x08\x0a" * 50])
def test_what_is_no_model_is_refused(data: bytes) -> None:
    with pytest.raises(EngineFailed, match="refuses the model"):
        OnnxRuntimeEngine(data)


def test_a_model_that_names_its_input_otherwise_is_refused() -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(recurrent_model())
    model.graph.input[0].name = "picture"
    model.graph.node[0].input[0] = "picture"

    with pytest.raises(EngineFailed, match="picture"):
        OnnxRuntimeEngine(bytes(model.SerializeToString()))
