"""Curves of confidence: reliability, and accuracy over the share of named cells."""

from __future__ import annotations

import numpy as np

from training.metrics.confusion import Floats
from training.metrics.held_out import Evaluated, bin_sums, decisions_of


def reliability(evaluated: Evaluated) -> Floats:
    """Confidence and accuracy over equally wide bins of confidence.

    Returns
    -------
    NDArray[np.float64]
        (filled bins, 3): mean confidence, accuracy, number of cells.
    """
    sums = bin_sums(evaluated).sum(axis=0)
    filled = sums[sums[:, 2] > 0]
    return np.column_stack([filled[:, :2] / filled[:, 2:], filled[:, 2]])


def abstention(evaluated: Evaluated) -> Floats:
    """Compute the accuracy if only the surest cells are named.

    Returns
    -------
    NDArray[np.float64]
        (M, 2): share of cells named, accuracy among them; the surest first, one row
        per distinct confidence.
    """
    decisions = decisions_of(evaluated)
    confidence = decisions.probabilities.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    right = (decisions.classes == evaluated.classes)[order]
    named = np.arange(1, len(right) + 1)
    last = np.append(np.diff(confidence[order]) != 0, True)  # ties are named together
    curve = np.column_stack([named / len(right), right.cumsum() / named])
    return np.asarray(curve[last])


def named_share(evaluated: Evaluated) -> tuple[float, float | None]:
    """Share of cells named at `abstain_below`, and accuracy among them if any."""
    decisions = decisions_of(evaluated)
    named = ~decisions.abstained
    right = (decisions.classes == evaluated.classes)[named]
    return float(named.mean()), float(right.mean()) if named.any() else None
