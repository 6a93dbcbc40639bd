"""Measure how often the limits of the differential hold the true share.

A counting model draws cells of known shares, names them with a known confusion, and
computes limits. Without confusion the exact limits must hold the truth. With confusion
they must not, which is the control, and the corrected limits must.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.slide.binomial_intervals import clopper_pearson
from edge.slide.confusion_correction import ConfusionFile, Correction

KINDS = ("neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil")
SHARES = np.array([0.60, 0.28, 0.07, 0.04, 0.01])
# Rows: true class. 92 to 96 of 100 cells are named right, the others as such cells are
# usually confused.
CONFUSION = np.array(
    [
        [0.960, 0.010, 0.010, 0.015, 0.005],
        [0.010, 0.950, 0.030, 0.005, 0.005],
        [0.020, 0.050, 0.920, 0.005, 0.005],
        [0.030, 0.005, 0.005, 0.950, 0.010],
        [0.020, 0.020, 0.005, 0.005, 0.950],
    ]
)


@dataclass(frozen=True, slots=True)
class Coverage:
    """In how many of `runs` the limits held the true share, by class.

    `width` is the mean width of the limits.
    """

    what: str
    cells: int
    runs: int
    held: dict[str, int]
    width: dict[str, float]


def measure_coverage(runs: int, cells: int, known_from: int) -> list[Coverage]:
    """Draw `cells` white cells `runs` times; the confusion is known from `known_from`.

    The confusion that is given to the correction is itself drawn: `known_from` cells of
    each class.
    """
    ideal, confused, corrected = [], [], []
    for seed in range(runs):
        random = np.random.default_rng(seed)
        true = random.multinomial(cells, SHARES)
        ideal.append(_exact(true))
        named = sum(
            random.multinomial(n, row) for n, row in zip(true, CONFUSION, strict=True)
        )
        confused.append(_exact(np.asarray(named)))
        counted = tuple(
            tuple(int(n) for n in random.multinomial(known_from, row))
            for row in CONFUSION
        )
        correction = Correction(ConfusionFile(KINDS, counted), seed)
        counts = {k: int(n) for k, n in zip(KINDS, np.asarray(named), strict=True)}
        limits = correction.correct(counts)
        corrected.append(np.array([(limits[k].low, limits[k].high) for k in KINDS]))
    coverage = {
        "exact limits, every cell named correctly": ideal,
        "exact limits, cells confused (control)": confused,
        "corrected limits, cells confused": corrected,
    }
    return [_coverage(what, cells, limits) for what, limits in coverage.items()]


def _exact(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Clopper-Pearson limits (K, 2) of counts (K,)."""
    total = int(counts.sum())
    return np.array([clopper_pearson(int(n), total) for n in counts])


def _coverage(what: str, cells: int, limits: list[NDArray[np.float64]]) -> Coverage:
    """Count how often limits (K, 2) of each run hold the true shares."""
    low, high = np.stack(limits).transpose(2, 0, 1)
    held = (low <= SHARES) & (high >= SHARES)
    width = (high - low).mean(axis=0)
    return Coverage(
        what,
        cells,
        len(limits),
        dict(zip(KINDS, held.sum(axis=0).tolist(), strict=True)),
        dict(zip(KINDS, width.round(4).tolist(), strict=True)),
    )


def in_seeds(runs: int, one: Callable[[int], dict[str, bool]]) -> dict[str, int]:
    """Count in how many seeded runs the limits of each class hold the truth."""
    held: dict[str, int] = {}
    for seed in range(runs):
        for name, is_held in one(seed).items():
            held[name] = held.get(name, 0) + is_held
    return held
