"""Make confidence mean what it says: temperature, calibration error, abstention."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge.decision import decide
from edge.errors import HemascopeError

Logits = NDArray[np.float32]
Classes = NDArray[np.int64]


class TooFewCells(HemascopeError):
    """Confidence cannot be calibrated on so few cells."""


_LEAST_CELLS = 50


def fit_temperature(logits: Logits, classes: Classes) -> float:
    """Temperature that makes the held-out classes most likely.

    Minimises the negative log likelihood (Guo et al., arXiv 1706.04599) by golden
    section on ln T between 1/20 and 20; the likelihood is unimodal in it.

    Parameters
    ----------
    logits
        (N, K) of cells that the model was not fitted to.
    classes
        (N,) the true classes.

    Raises
    ------
    TooFewCells
        N is below 50.
    """
    if len(logits) < _LEAST_CELLS:
        raise TooFewCells(
            f"{len(logits)} cells, expected {_LEAST_CELLS}; hold back more cells"
        )
    low, high = np.log(1 / 20), np.log(20)
    ratio = (np.sqrt(5) - 1) / 2
    for _ in range(60):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if _surprise(logits, classes, left) < _surprise(logits, classes, right):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))


def _surprise(logits: Logits, classes: Classes, log_temperature: float) -> float:
    """Mean negative log likelihood."""
    scaled = logits.astype(np.float64) / np.exp(log_temperature)
    top = scaled.max(axis=1, keepdims=True)
    total = np.log(np.exp(scaled - top).sum(axis=1)) + top[:, 0]
    return float((total - scaled[np.arange(len(classes)), classes]).mean())


def expected_calibration_error(
    logits: Logits, classes: Classes, temperature: float, bins: int = 15
) -> float:
    """Calibration error of what the model would say at this temperature."""
    decided = decide(logits, temperature, 0.0)
    confidence = decided.probabilities.max(axis=1)
    return calibration_error(confidence, decided.classes == classes, bins)


def calibration_error(
    confidence: NDArray[np.floating], right: NDArray[np.bool_], bins: int = 15
) -> float:
    """Mean gap between confidence and accuracy over equally wide bins of confidence.

    Parameters
    ----------
    confidence, right
        (N,) what was said, 0 to 1, and whether it was true.
    bins
        How many.
    """
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        abs(float(confidence[place == b].mean() - right[place == b].mean()))
        * float((place == b).mean())
        for b in np.unique(place)
    ]
    return sum(gaps)


def abstention_threshold(
    logits: Logits,
    classes: Classes,
    temperature: float,
    error_rate: float,
    most_abstained: float,
) -> float:
    """Return the lowest confidence to name a cell at.

    Parameters
    ----------
    logits, classes
        As for `fit_temperature`.
    temperature
        Of the probabilities.
    error_rate
        Wanted share of errors among the cells that are named.
    most_abstained
        Share of cells that may at most be left unidentified; it goes before the wish.

    Returns
    -------
    float
        0 where naming every cell is good enough.
    """
    decided = decide(logits, temperature, 0.0)
    confidence = decided.probabilities.max(axis=1)
    order = np.argsort(confidence, kind="stable")
    wrong = (decided.classes != classes)[order]
    named = np.arange(len(wrong), 0, -1)
    rate = (
        np.cumsum(wrong[::-1])[::-1] / named
    )  # errors if only these and later are named
    allowed = int(most_abstained * len(wrong))
    for left_out in range(allowed + 1):
        if rate[left_out] <= error_rate:
            break
    return 0.0 if left_out == 0 else float(confidence[order][left_out])
