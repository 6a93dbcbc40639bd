"""Axes are marked with round numbers."""

from __future__ import annotations

import pytest

from edge.rendering.plots import ticks


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1.99, [0, 0.5, 1, 1.5]),
        (0, 106, [0, 20, 40, 60, 80, 100]),
        (0, 0.8, [0, 0.2, 0.4, 0.6, 0.8]),
        (0, 6, [0, 1, 2, 3, 4, 5, 6]),
        (-3, 3, [-3, -2, -1, 0, 1, 2, 3]),
        (0.2, 1960, [500, 1000, 1500]),
    ],
)
def test_ticks_are_round_and_few(
    low: float, high: float, expected: list[float]
) -> None:
    assert ticks(low, high) == pytest.approx(expected)
