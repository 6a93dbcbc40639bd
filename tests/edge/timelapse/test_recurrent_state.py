from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from edge.artifacts.bundle import Bundle, BundleRefused
from edge.engines import EngineFailed, RecurrentEngine
from edge.engines.onnxruntime import OnnxRuntimeEngine
from edge.pipeline.parts import Parts
from edge.timelapse.recurrent_state import StateStore
from tests import engines
from tests.engines import recurrent_engine, recurrent_model

MAX_BATCH = 8


@pytest.fixture(params=["onnxruntime", "tensorrt"])
def engine(request: pytest.FixtureRequest) -> Iterator[RecurrentEngine]:
    """next_state = state + mean of the image; logits = next_state."""
    if request.param == "tensorrt":
        engines.needs_gpu()
        opened: RecurrentEngine = recurrent_engine()
    else:
        opened = OnnxRuntimeEngine(recurrent_model())
    yield opened
    opened.close()


@pytest.fixture
def bundle(parts: Parts) -> Bundle:
    """A record of a model with a state of three numbers, for three classes."""
    record = msgspec.structs.replace(
        parts.classifier.record, state_size=3, temperature=1.0
    )
    shipped = parts.classifier
    return Bundle(record, shipped.id, shipped.folder, shipped.models, shipped.golden)


def grey(*levels: int) -> NDArray[np.uint8]:
    return np.stack([np.full((4, 4, 3), level, np.uint8) for level in levels])


def tracks(*numbers: int) -> NDArray[np.int64]:
    return np.array(numbers, np.int64)


class Ledger:
    """What each cell's state must be: the sum of what was shown of it."""

    def __init__(self) -> None:
        self.sums: dict[int, float] = {}

    def show(self, states: StateStore, numbers: list[int], levels: list[int]) -> None:
        for number, level in zip(numbers, levels, strict=True):
            self.sums[number] = self.sums.get(number, 0.0) + level
        states.step(tracks(*numbers), grey(*levels))


def state_of(states: StateStore, number: int) -> float:
    states._read_back()
    return float(states._states[states._row_of[number], 0])


def test_each_cell_has_its_own_state_whoever_comes_and_goes(
    bundle: Bundle, engine: RecurrentEngine
) -> None:
    states, expected = StateStore(bundle, engine, 40, MAX_BATCH), Ledger()
    random = np.random.default_rng(0)
    for _ in range(60):  # also more cells than the engine takes at once
        numbers = sorted(random.choice(30, random.integers(1, 20), False).tolist())
        expected.show(states, numbers, random.integers(0, 9, len(numbers)).tolist())

    for number, total in expected.sums.items():
        assert state_of(states, number) == pytest.approx(total)


def test_the_same_cells_leave_their_states_in_the_engine(
    bundle: Bundle, engine: RecurrentEngine
) -> None:
    states = StateStore(bundle, engine, 8, MAX_BATCH)
    for _ in range(5):
        result = states.step(tracks(3, 5), grey(1, 2))

    np.testing.assert_allclose(engine.peek()[:, 0], [5, 10])
    assert result.frames.tolist() == [5, 5]
    assert states._states.max() == 0  # never read back


def test_a_forgotten_cell_begins_anew_and_leaves_room(
    bundle: Bundle, engine: RecurrentEngine
) -> None:
    states = StateStore(bundle, engine, 2, MAX_BATCH)
    states.step(tracks(1, 2), grey(7, 8))
    states.forget([1, 99])
    result = states.step(tracks(2, 3), grey(1, 4))

    assert result.frames.tolist() == [2, 1]
    assert (state_of(states, 2), state_of(states, 3)) == (9.0, 4.0)


def test_too_many_cells_are_refused_and_all_begin_anew(
    bundle: Bundle, engine: RecurrentEngine
) -> None:
    states = StateStore(bundle, engine, 2, MAX_BATCH)
    states.step(tracks(1, 2), grey(7, 8))

    with pytest.raises(EngineFailed, match="no room for track 3"):
        states.step(tracks(1, 2, 3), grey(1, 1, 1))

    assert len(states) == 0
    assert states.step(tracks(1), grey(2)).frames.tolist() == [1]


def test_a_model_without_a_state_is_refused(
    parts: Parts, engine: RecurrentEngine
) -> None:
    with pytest.raises(BundleRefused, match="keeps no state"):
        StateStore(parts.classifier, engine, 2, MAX_BATCH)
