"""Figures of confusion matrices (..., K, K), rows: true class, columns: predicted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def count_confusion(
    true: NDArray[np.intp], predicted: NDArray[np.intp], classes: int
) -> NDArray[np.int64]:
    """Count cells (N,) by their true class and the one they were named: (K, K)."""
    pairs = np.bincount(true * classes + predicted, minlength=classes**2)
    return pairs.reshape(classes, classes).astype(np.int64)


def accuracy(confusion: Floats) -> Floats:
    """Share of cells that are named right: (..., K, K) to (...)."""
    right = np.trace(confusion, axis1=-2, axis2=-1)
    return np.asarray(right / confusion.sum(axis=(-2, -1)))


def balanced(confusion: Floats) -> Floats:
    """Balanced accuracy, the mean recall of the classes that occur."""
    return np.asarray(np.nanmean(recalls(confusion), axis=-1))


def recalls(confusion: Floats) -> Floats:
    """Share of each class that is found: (..., K, K) to (..., K), NaN if absent."""
    return _ratio(_right(confusion), confusion.sum(axis=-1), confusion)


def precisions(confusion: Floats) -> Floats:
    """Share of the cells named so that are of the class: (..., K, K) to (..., K).

    0 if the class occurs and is never predicted, NaN if it does not occur.
    """
    named = np.maximum(confusion.sum(axis=-2), 1)
    return _ratio(_right(confusion), named, confusion)


def f1s(confusion: Floats) -> Floats:
    """Harmonic mean of precision and recall, per class: (..., K, K) to (..., K)."""
    both = confusion.sum(axis=-1) + confusion.sum(axis=-2)
    return _ratio(2 * _right(confusion), both, confusion)


def _right(confusion: Floats) -> Floats:
    """Cells of each class that are named right: (..., K, K) to (..., K)."""
    return np.diagonal(confusion, axis1=-2, axis2=-1)


def _ratio(part: Floats, whole: Floats, confusion: Floats) -> Floats:
    """Divide where the true class occurs; NaN elsewhere."""
    ratio = np.full(part.shape, np.nan)
    np.divide(part, whole, out=ratio, where=confusion.sum(axis=-1) > 0)
    return ratio
