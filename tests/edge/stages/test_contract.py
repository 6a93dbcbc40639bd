from __future__ import annotations

import doctest
import importlib
import pkgutil

import numpy as np
import pytest

import edge.stages
from edge.stages.crops import cut_crops, windows


def test_the_example_in_the_contract_is_true() -> None:
    result = doctest.testmod(edge.stages)

    assert result.attempted >= 8
    assert result.failed == 0


def test_a_wrong_example_would_fail() -> None:
    text = str(edge.stages.__doc__).replace("[[35, 20, 95, 80]]", "[[35, 20, 95, 81]]")
    example = doctest.DocTestParser().get_doctest(text, {}, "wrong", None, None)
    runner = doctest.DocTestRunner()

    runner.run(example, out=lambda text: None)

    assert runner.summarize(verbose=False).failed == 1


@pytest.mark.parametrize(
    "name", [m.name for m in pkgutil.iter_modules(edge.stages.__path__)]
)
def test_every_public_function_of_a_stage_says_what_it_does(name: str) -> None:
    module = importlib.import_module(f"edge.stages.{name}")

    for key, value in vars(module).items():
        if callable(value) and getattr(value, "__module__", "") == module.__name__:
            assert key.startswith("_") or value.__doc__, key


def test_crops_leave_the_frame_as_it_was() -> None:
    frame = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    before = frame.copy()

    cut_crops(frame, windows(np.array([[5, 5, 70, 55]], np.float32), 1.5), 16)

    np.testing.assert_array_equal(frame, before)
