"""The TensorRT runtime, where there is a driver: a GPU's or the stand-in."""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge.artifacts.bundle import Bundle
from edge.engines import EngineFailed
from edge.engines.cuda import GpuFailed
from edge.engines.onnxruntime import OnnxRuntimeEngine
from edge.engines.opening import open_engine
from edge.engines.tensorrt import TensorRTEngine
from edge.engines.tensorrt_runtime import load_tensorrt
from edge.pipeline.parts import Parts
from edge.settings.models import EngineSettings
from tests.engines import build, on_gpu, plan_of, recurrent_engine, recurrent_model

Counts = Callable[[], dict[str, int]]
MODES = [
    {"has_graphs": graphs, "is_mapped": mapped}
    for graphs in (True, False)
    for mapped in (True, False)
]
MODE_NAMES = [f"graphs={m['has_graphs']}-mapped={m['is_mapped']}" for m in MODES]


def crops(bundle: Bundle, count: int) -> np.ndarray:
    """`count` different crops."""
    own = bundle.golden["image"].astype(np.uint8)
    turned = [np.roll(own[k % len(own)], 3 * k, axis=1) for k in range(count)]
    return np.stack(turned)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, parts: Parts) -> EngineSettings:
    settings = on_gpu(tmp_path_factory.mktemp("engines"))
    build(parts.classifier, settings)
    return settings


@pytest.fixture(scope="module")
def reference(parts: Parts) -> OnnxRuntimeEngine:
    return OnnxRuntimeEngine(parts.classifier.model)


@pytest.fixture(params=MODES, ids=MODE_NAMES)
def engine(
    request: pytest.FixtureRequest, built: EngineSettings, parts: Parts
) -> Iterator[TensorRTEngine]:
    settings = msgspec.structs.replace(built, **request.param)
    opened = open_engine(parts.classifier, settings)
    assert isinstance(opened, TensorRTEngine)
    yield opened
    opened.close()


@pytest.mark.parametrize("cells", [1, 3, 4, 16, 17, 33, 70])
def test_batches_of_any_size_are_named_as_the_cpu_names_them(
    engine: TensorRTEngine,
    reference: OnnxRuntimeEngine,
    parts: Parts,
    cells: int,
) -> None:
    batch = crops(parts.classifier, cells)

    for _ in range(3):  # plain, captured, replayed
        found = engine.infer(batch).tensors
        for name, wanted in reference.infer(batch).tensors.items():
            np.testing.assert_allclose(found[name], wanted, atol=2e-3)


def test_what_follows_does_not_change_what_was_said(
    engine: TensorRTEngine, parts: Parts
) -> None:
    batch = crops(parts.classifier, 4)

    first = engine.infer(batch).tensors["logits"]
    kept = first.copy()
    engine.infer(batch[::-1].copy())

    np.testing.assert_array_equal(first, kept)


def test_the_state_goes_from_slot_to_slot_in_every_mode() -> None:
    shown = np.random.default_rng(0).integers(0, 255, (12, 5, 4, 4, 3)).astype(np.uint8)
    for mode in MODES:
        engine = recurrent_engine(**mode)
        engine.reset(5)
        result = [engine.step(batch).tensors["logits"] for batch in shown]

        np.testing.assert_allclose(result, shown.mean((2, 3)).cumsum(0), rtol=1e-5)
        engine.close()


def test_a_given_state_of_more_cells_than_the_plan_goes_in_parts() -> None:
    engine = recurrent_engine()
    batch = np.random.default_rng(1).integers(0, 255, (21, 4, 4, 3)).astype(np.uint8)
    state = np.arange(63, dtype=np.float32).reshape(21, 3)

    outputs = engine.infer(batch, state)

    wanted = state + batch.mean((1, 2))
    np.testing.assert_allclose(outputs.next_state, wanted, rtol=1e-5)
    np.testing.assert_allclose(outputs.tensors["logits"], wanted, rtol=1e-5)
    with pytest.raises(EngineFailed, match="the kept state None"):
        engine.step(batch)
    engine.close()


def test_more_cells_than_the_plan_can_keep_are_refused_with_both_numbers() -> None:
    engine = recurrent_engine()
    with pytest.raises(
        EngineFailed, match="9 cells, the engine was built for at most 8"
    ):
        engine.reset(9)
    engine.close()


def test_a_frame_outside_the_range_is_refused_with_both_shapes(
    parts: Parts, tmp_path: Path
) -> None:
    locator = parts.locator
    assert locator is not None
    settings = on_gpu(tmp_path)
    build(locator, settings)
    engine = open_engine(locator, settings)

    with pytest.raises(
        EngineFailed, match=r"\(1, 2048, 960, 3\).*\(1, 1024, 1536, 3\)"
    ):
        engine.infer(np.zeros((1, 2048, 960, 3), np.uint8))
    fits = np.zeros((1, 160, 240, 3), np.uint8)
    assert engine.infer(fits).tensors["likely"].shape == (1, 40, 60, 3)
    engine.close()


def test_each_size_that_occurs_again_is_replayed(
    counts: Counts, built: EngineSettings, parts: Parts
) -> None:
    engine = open_engine(parts.classifier, built)
    assert isinstance(engine, TensorRTEngine)
    before = counts()
    for cells in (1, 2, 3, 4, 3, 4, 16, 16):
        engine.infer(crops(parts.classifier, cells))
    made = counts()["graphs"] - before["graphs"]

    assert made == 3  # 1, 2 and 16; the warm-up made 4, the golden input 8
    assert counts()["replays"] - before["replays"] == 5
    assert engine.graphs == made + 2
    engine.close()


def test_graphs_are_no_condition(
    built: EngineSettings,
    parts: Parts,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where a capture fails the engine enqueues, and says so."""

    def refuse(*_: object) -> None:
        raise EngineFailed("the captured CUDA graph is empty")

    monkeypatch.setattr("edge.engines.tensorrt_program.Graph", refuse)
    engine = open_engine(parts.classifier, built)
    assert isinstance(engine, TensorRTEngine)

    assert engine.graphs == 0
    assert "no CUDA graph" in caplog.text
    assert engine.infer(crops(parts.classifier, 3)).tensors["logits"].shape == (3, 4)
    engine.close()


@pytest.mark.parametrize("mode", MODES, ids=MODE_NAMES)
def test_nothing_is_left_behind(counts: Counts, mode: dict[str, bool]) -> None:
    gc.collect()
    before = counts()
    engine = recurrent_engine(**mode)
    engine.reset(3)
    for batch in np.zeros((40, 3, 4, 4, 3), np.uint8):
        engine.step(batch)
    busy = counts()
    engine.close()
    del engine
    gc.collect()
    after = counts()

    assert busy["pinned"] > before["pinned"]
    for name in ("memory", "pinned", "streams", "events", "graphs", "retained"):
        assert after[name] == before[name], name


def test_ten_thousand_frames_take_no_more_memory(counts: Counts) -> None:
    engine = recurrent_engine()
    engine.reset(2)
    frames = np.zeros((10_000, 2, 4, 4, 3), np.uint8)
    for batch in frames[:500]:
        engine.step(batch)
    before, alive = counts(), resident_bytes()
    for batch in frames[500:]:
        engine.step(batch)
    after = counts()
    grown = resident_bytes() - alive
    engine.close()

    for name in ("memory", "pinned", "streams", "events", "graphs"):
        assert after[name] == before[name], name
    assert after["replays"] - before["replays"] == 9500
    assert grown < 9500 * 48  # half of what one frame's pixels would add up to


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


def test_no_context_stays_current(
    driver: ctypes.CDLL, built: EngineSettings, parts: Parts
) -> None:
    engine = open_engine(parts.classifier, built)
    assert driver.standin_depth() == 0
    engine.infer(crops(parts.classifier, 2))
    assert driver.standin_depth() == 0
    with pytest.raises(EngineFailed):
        engine.infer(np.zeros((2, 2, 2, 3), np.uint8))
    assert driver.standin_depth() == 0
    engine.close()
    assert driver.standin_depth() == 0


def test_an_engine_of_another_thread_is_refused(
    built: EngineSettings, parts: Parts
) -> None:
    engine = open_engine(parts.classifier, built)
    result: list[str] = []

    def elsewhere() -> None:
        for call in (lambda: engine.infer(crops(parts.classifier, 1)), engine.close):
            with pytest.raises(EngineFailed) as error:
                call()
            result.append(str(error.value))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()

    assert len(result) == 2
    assert all("another thread" in text for text in result)
    engine.close()


def test_each_thread_may_have_its_own(built: EngineSettings, parts: Parts) -> None:
    named: list[np.ndarray] = []

    def work() -> None:
        engine = open_engine(parts.classifier, built)
        named.append(engine.infer(crops(parts.classifier, 5)).tensors["logits"])
        engine.close()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(named) == 3
    np.testing.assert_allclose(named[0], named[1], atol=1e-5)
    np.testing.assert_allclose(named[0], named[2], atol=1e-5)


def test_a_lost_gpu_is_said_and_no_other_takes_its_place(
    built: EngineSettings, parts: Parts, lost_gpu: Callable[[], None]
) -> None:
    engine = open_engine(parts.classifier, built)
    batch = crops(parts.classifier, 2)
    lost_gpu()

    for _ in range(2):
        with pytest.raises(
            GpuFailed, match=r"stopped answering.*nothing is computed on"
        ):
            engine.infer(batch)
    engine.close()


def test_what_is_no_plan_is_refused() -> None:
    with pytest.raises(EngineFailed, match="refuses the plan"):
        TensorRTEngine(b"not a plan")


def test_an_output_in_half_precision_is_refused() -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(recurrent_model())
    cast = onnx.helper.make_node("Cast", ["next_state"], ["logits"], to=10)
    del model.graph.node[-1]
    model.graph.node.append(cast)
    model.graph.output[0].type.tensor_type.elem_type = 10
    shapes = {"image": ((1, 4, 4, 3),) * 3, "state": ((1, 3),) * 3}

    with pytest.raises(EngineFailed, match=r"'logits' is .*HALF, expected UINT8 or"):
        TensorRTEngine(plan_of(bytes(model.SerializeToString()), shapes))


def test_a_thread_that_ends_with_an_open_engine_does_not_end_the_process() -> None:
    """A context left on a thread's stack aborts: rc 134."""
    script = (
        "import threading\n"
        "from tests.engines import recurrent_engine\n"
        "def work():\n"
        "    engine = recurrent_engine()\n"
        "    engine.reset(2)\n"
        "    import numpy as np\n"
        "    engine.step(np.zeros((2, 4, 4, 3), np.uint8))\n"
        "    del engine\n"
        "thread = threading.Thread(target=work)\n"
        "thread.start(); thread.join()\n"
        "print('alive')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "alive" in done.stdout


def test_of_many_shapes_those_used_last_stay_ready(
    parts: Parts,
    tmp_path: Path,
    counts: Counts,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edge.engines.tensorrt_program._MAX_PROGRAMS", 3)
    locator = parts.locator
    assert locator is not None
    settings = on_gpu(tmp_path)
    build(locator, settings)
    engine = open_engine(locator, settings)
    assert isinstance(engine, TensorRTEngine)
    for height in (64, 80, 96, 64, 112, 128, 64):
        engine.infer(np.zeros((1, height, 64, 3), np.uint8))
    before = counts()

    engine.infer(np.zeros((1, 64, 64, 3), np.uint8))

    assert engine.graphs == 3
    assert counts()["replays"] == before["replays"] + 1
    engine.close()


def test_a_call_that_fails_half_way_does_not_spoil_the_next(
    built: EngineSettings,
    reference: OnnxRuntimeEngine,
    parts: Parts,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = open_engine(parts.classifier, built)
    batch = crops(parts.classifier, 40)
    launch, calls = TensorRTEngine._launch, []

    def fail_once(self: TensorRTEngine, *given: object, **more: object) -> None:
        calls.append(given)
        if len(calls) == 2:
            raise EngineFailed("the second part")
        launch(self, *given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(TensorRTEngine, "_launch", fail_once)
    with pytest.raises(EngineFailed, match="the second part"):
        engine.infer(batch)

    found = engine.infer(batch[::-1].copy()).tensors["logits"]
    wanted = reference.infer(batch[::-1].copy()).tensors["logits"]
    np.testing.assert_allclose(found, wanted, atol=2e-3)
    engine.close()


def test_where_memory_is_short_other_shapes_give_way(
    built: EngineSettings,
    reference: OnnxRuntimeEngine,
    parts: Parts,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trt = load_tensorrt()
    if not hasattr(trt, "most_contexts"):
        pytest.skip("a real TensorRT takes what it needs")
    gc.collect()
    monkeypatch.setattr(trt, "most_contexts", trt.live_contexts + 2)
    engine = open_engine(parts.classifier, built)
    for cells in (1, 2, 4, 8, 16, 1):
        batch = crops(parts.classifier, cells)
        found = engine.infer(batch).tensors["logits"]
        wanted = reference.infer(batch).tensors["logits"]
        np.testing.assert_allclose(found, wanted, atol=2e-3)
    engine.close()
