"""What needs a driver: a GPU's, or the one of `tests/edge/engines/test_stand_in.py`."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edge.engines.cuda import GpuFailed, load_driver

NAMES = (
    "memory",
    "pinned",
    "streams",
    "events",
    "graphs",
    "retained",
    "replays",
    "calls",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    try:
        load_driver()
    except GpuFailed as error:
        here = str(Path(__file__).parent)
        for item in items:
            if str(item.path).startswith(here):
                item.add_marker(pytest.mark.skip(reason=str(error).split(";")[0]))


@pytest.fixture
def driver() -> ctypes.CDLL:
    """Return the stand-in, which counts; skip on a real driver."""
    library = ctypes.CDLL("libcuda.so.1")
    if not hasattr(library, "standin_counts"):
        pytest.skip("a real driver counts nothing")
    return library


@pytest.fixture
def counts(driver: ctypes.CDLL) -> Callable[[], dict[str, int]]:
    def read() -> dict[str, int]:
        values = (ctypes.c_long * len(NAMES))()
        driver.standin_counts(values)
        return dict(zip(NAMES, values, strict=True))

    return read


@pytest.fixture
def lost_gpu(driver: ctypes.CDLL) -> Iterator[Callable[[], None]]:
    """Lose the GPU when called; it is back after the test."""
    yield lambda: driver.standin_fail(719)
    driver.standin_fail(0)


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)
