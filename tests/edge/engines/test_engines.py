"""One suite for every engine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from edge.artifacts.bundle import Bundle
from edge.engines import Engine, EngineFailed, RecurrentEngine
from edge.engines.onnxruntime import OnnxRuntimeEngine
from edge.engines.opening import open_engine
from edge.pipeline.parts import Parts
from edge.settings.models import EngineSettings
from tests import engines
from tests.engines import recurrent_model

KINDS = ["onnxruntime", "tensorrt"]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, shipped: Parts) -> EngineSettings:
    """TensorRT's engine of the shipped classifier."""
    engines.needs_gpu()
    settings = engines.on_gpu(tmp_path_factory.mktemp("engines"))
    engines.build(shipped.classifier, settings)
    return settings


@pytest.fixture(params=KINDS)
def engine(request: pytest.FixtureRequest, parts: Parts) -> Iterator[Engine]:
    settings = EngineSettings()
    if request.param == "tensorrt":
        settings = request.getfixturevalue("built")
    opened = open_engine(parts.classifier, settings)
    yield opened
    opened.close()


@pytest.fixture(params=KINDS)
def recurrent(request: pytest.FixtureRequest) -> Iterator[RecurrentEngine]:
    if request.param == "tensorrt":
        engines.needs_gpu()
    opened: RecurrentEngine = (
        engines.recurrent_engine()
        if request.param == "tensorrt"
        else OnnxRuntimeEngine(recurrent_model())
    )
    yield opened
    opened.close()


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


def test_a_recurrent_model_carries_its_state_on(recurrent: RecurrentEngine) -> None:
    engine = recurrent
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
    recurrent: RecurrentEngine, state: np.ndarray
) -> None:
    with pytest.raises(EngineFailed, match=r"state is .* takes float32 \(2, 3\)"):
        recurrent.infer(np.ones((2, 4, 4, 3), np.uint8), state)


def frames(steps: int, cells: int) -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 255, (steps, cells, 4, 4, 3))
    return values.astype(np.uint8)


def test_a_kept_state_goes_on_as_one_that_is_given(recurrent: RecurrentEngine) -> None:
    shown = frames(9, 3)
    wanted = shown.mean((2, 3)).cumsum(0)

    recurrent.reset(3)
    kept = [recurrent.step(batch) for batch in shown]

    for step, outputs in enumerate(kept):
        np.testing.assert_allclose(outputs.tensors["logits"], wanted[step], rtol=1e-5)
        assert outputs.next_state is None
    np.testing.assert_allclose(recurrent.peek(), wanted[-1], rtol=1e-5)


def test_a_state_can_be_put_peeked_and_reset(recurrent: RecurrentEngine) -> None:
    first = np.arange(6, dtype=np.float32).reshape(2, 3)
    black = np.zeros((2, 4, 4, 3), np.uint8)
    recurrent.put(first)

    np.testing.assert_array_equal(recurrent.peek(), first)
    np.testing.assert_array_equal(recurrent.step(black).tensors["logits"], first)
    np.testing.assert_array_equal(recurrent.peek(), first)

    recurrent.reset(2)
    np.testing.assert_array_equal(recurrent.step(black).tensors["logits"], 0 * first)


def test_a_given_state_becomes_the_kept_one(recurrent: RecurrentEngine) -> None:
    white = np.full((1, 4, 4, 3), 10, np.uint8)
    recurrent.infer(white, np.zeros((1, 3), np.float32))

    np.testing.assert_allclose(recurrent.step(white).tensors["logits"], 20)


def test_a_step_without_the_state_of_as_many_cells_is_refused(
    recurrent: RecurrentEngine,
) -> None:
    with pytest.raises(EngineFailed, match="state"):
        recurrent.step(frames(1, 2)[0])
    recurrent.reset(3)
    with pytest.raises(EngineFailed, match="2 cells, the kept state 3"):
        recurrent.step(frames(1, 2)[0])


def test_no_cells_leave_no_cells_behind(recurrent: RecurrentEngine) -> None:
    recurrent.reset(2)

    recurrent.infer(frames(1, 0)[0], np.zeros((0, 3), np.float32))

    assert recurrent.peek().shape == (0, 3)
    with pytest.raises(EngineFailed, match="2 cells, the kept state 0"):
        recurrent.step(frames(1, 2)[0])


def test_an_engine_without_a_memory_keeps_no_state(engine: Engine) -> None:
    with pytest.raises(EngineFailed, match="not recurrent"):
        cast(RecurrentEngine, engine).reset(2)


def test_an_output_that_is_not_finite_is_refused(recurrent: RecurrentEngine) -> None:
    state = np.full((1, 3), np.nan, np.float32)

    with pytest.raises(EngineFailed, match="NaN"):
        recurrent.infer(np.ones((1, 4, 4, 3), np.uint8), state)


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
