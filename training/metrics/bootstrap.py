"""Compute figures with their uncertainty, by bootstrap over groups of cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from edge.artifacts.bundle import Metric

Figure = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def with_interval(
    figure: Callable[[NDArray[np.intp]], float],
    groups: Sequence[str],
    *,
    draws: int = 1000,
) -> Metric:
    """Compute a figure and its 95 % interval, by bootstrap over groups.

    Cells of one slide are alike, so whole groups are drawn, not single cells.

    Parameters
    ----------
    figure
        Computes the figure of the rows with these indices.
    groups
        The group of each row.
    draws
        Of the bootstrap.
    """
    names = np.array(groups)
    members = [np.flatnonzero(names == group) for group in sorted(set(groups))]
    random = np.random.default_rng(0)
    values = [
        figure(
            np.concatenate(
                [members[i] for i in random.integers(0, len(members), len(members))]
            )
        )
        for _ in range(draws)
    ]
    low, high = np.nanpercentile(values, [2.5, 97.5])
    value = figure(np.arange(len(names)))
    return Metric(
        value=round(value, 4),
        low=round(float(low), 4),
        high=round(float(high), 4),
        rows=len(names),
    )


def estimate(
    figure: Figure,
    sums: NDArray[np.generic],
    cells: int,
    *,
    draws: int = 1000,
) -> Metric:
    """Compute a figure and its 95 % interval, by bootstrap over groups.

    The draws are those of `with_interval`; only sums of the drawn groups are formed,
    so that a thousand draws are one matrix product.

    Parameters
    ----------
    figure
        Computes the figure from sums: (..., S) to (...).
    sums
        (G, S) what each group adds; S may be several axes.
    cells
        How many cells the sums are of.
    draws
        Of the bootstrap; those in which the figure is NaN do not count.

    Notes
    -----
    A draw repeats cells, so its calibration error is larger than that of all cells; the
    interval is widened to hold the value.
    """
    groups = len(sums)
    chosen = np.random.default_rng(0).integers(0, groups, (draws, groups))
    chosen += groups * np.arange(draws)[:, None]
    counts = np.bincount(chosen.ravel(), minlength=draws * groups).astype(np.float64)
    flat = counts.reshape(draws, groups) @ sums.reshape(groups, -1).astype(np.float64)
    values = figure(flat.reshape(draws, *sums.shape[1:]))
    value = float(figure(sums.astype(np.float64).sum(axis=0)))
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return Metric(
        value=round(value, 4),
        low=round(min(float(low), value), 4),
        high=round(max(float(high), value), 4),
        rows=cells,
    )


def balanced_accuracy(
    predicted: NDArray[np.integer], classes: NDArray[np.integer]
) -> float:
    """Mean recall of the classes that occur, from (N,) predicted and true classes."""
    right = predicted == classes
    return float(np.mean([right[classes == k].mean() for k in np.unique(classes)]))
