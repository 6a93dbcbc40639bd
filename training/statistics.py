"""Figures with their uncertainty."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from edge.bundle import Metric


def with_interval(
    figure: Callable[[NDArray[np.intp]], float],
    groups: Sequence[str],
    *,
    draws: int = 1000,
    seed: int = 0,
) -> Metric:
    """Compute a figure and its 95 % interval, by bootstrap over groups.

    Cells of one slide are alike, so whole groups are drawn, not single cells.

    Parameters
    ----------
    figure
        Computes the figure of the rows with these indices.
    groups
        The group of each row.
    draws, seed
        Of the bootstrap.
    """
    names = np.array(groups)
    members = [np.flatnonzero(names == group) for group in sorted(set(groups))]
    random = np.random.default_rng(seed)
    drawn = [
        figure(
            np.concatenate(
                [members[i] for i in random.integers(0, len(members), len(members))]
            )
        )
        for _ in range(draws)
    ]
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    value = figure(np.arange(len(names)))
    return Metric(
        value=round(value, 4),
        low=round(float(low), 4),
        high=round(float(high), 4),
        rows=len(names),
    )


def balanced_accuracy(
    predicted: NDArray[np.integer], classes: NDArray[np.integer]
) -> float:
    """Mean recall of the classes that occur."""
    right = predicted == classes
    return float(np.mean([right[classes == k].mean() for k in np.unique(classes)]))
