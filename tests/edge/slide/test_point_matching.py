from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from edge.slide.point_matching import likely_shifts

CELL_PX = 9.0


def test_a_place_is_told_on_a_wide_slide_in_little_memory() -> None:
    random = np.random.default_rng(0)
    known = random.uniform(0, 60_000, (4000, 2))  # five centimetres across
    here = np.array([41_000, 17_000])
    near = random.uniform(0, 160, (60, 2)) + here
    seen = near - here + random.normal(0, 0.3, near.shape)

    tracemalloc.start()
    [best, *_] = likely_shifts(seen, np.vstack([known, near]), CELL_PX)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert best == pytest.approx(here.tolist(), abs=0.5)
    assert peak < 200 << 20
