"""Measure tasks in turns, so that other load on the machine affects all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and quartiles, in milliseconds unless the table says otherwise."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        """Median with its quartiles."""
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the report: a value or a ratio, how it was measured, and the goal."""

    name: str
    value: float
    detail: str
    goal: str = ""
    is_met: bool | None = None


def spread(values: list[float]) -> Spread:
    """Summarise measured values."""
    low, median, high = np.percentile(values, [25, 50, 75])
    return Spread(float(median), float(low), float(high))


def in_turns(
    tasks: Mapping[str, Callable[[], object]], rounds: int
) -> dict[str, list[float]]:
    """Run every task once per round, after one round that does not count.

    Returns
    -------
    dict of str to list of float
        Milliseconds per task and round.
    """
    spent_ms: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(rounds + 1):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            if turn > 0:
                spent_ms[name].append((time.perf_counter() - start) * 1e3)
    return spent_ms


def at_most(name: str, value: float, goal: float, detail: str) -> Figure:
    """Make a figure that is good when it is small."""
    return Figure(name, value, detail, f"≤ {goal:g}", value <= goal)


def at_least(name: str, value: float, goal: float, detail: str) -> Figure:
    """Make a figure that is good when it is large."""
    return Figure(name, value, detail, f"≥ {goal:g}", value >= goal)
