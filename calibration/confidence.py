"""Make confidence mean what it says: temperature, calibration error, abstention."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge.errors import HemascopeError
from edge.stages.decision import Adaptation, decide, log_probabilities

Logits = NDArray[np.floating]
Classes = NDArray[np.int64]


class TooFewCells(HemascopeError):
    """Confidence cannot be calibrated on so few cells."""


REVIEWED = 100  # cells that a site is asked to review
_LEAST_CELLS, _LEAST_REVIEWED = 50, 30
_SCALE_SPREAD, _BIAS_SPREAD = 0.5, 1.0  # how far from 1 and 0 a site may well be
_STEPS = 50
_FOLDS = 5


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


def fit_adaptation(predicted: NDArray[np.float64], classes: Classes) -> Adaptation:
    """Fit vector scaling to the reviewed cells of a site.

    The maximum a posteriori of softmax(said * scale + bias) by Newton's method, with
    Gaussian priors around scale 1 and bias 0: a hundred cells do not overrule the
    thousands behind the model.

    Parameters
    ----------
    said
        (N, K) natural logarithms of what was said of cells, as they come: a review of
        chosen cells would teach their choice.
    classes
        (N,) what a person says they are.

    Raises
    ------
    TooFewCells
        N is below 30.
    """
    if len(predicted) < _LEAST_REVIEWED:
        raise TooFewCells(
            f"{len(predicted)} reviewed cells, expected {_LEAST_REVIEWED} to "
            f"{REVIEWED}; review more"
        )
    return _fitted(predicted, classes)


def _fitted(predicted: NDArray[np.float64], classes: Classes) -> Adaptation:
    kinds = predicted.shape[1]
    prior = np.repeat([1.0, 0.0], kinds)
    weight = np.repeat([_SCALE_SPREAD**-2, _BIAS_SPREAD**-2], kinds)
    known = np.eye(kinds)[classes]
    at = prior.copy()

    def loss(at: NDArray[np.float64]) -> float:
        shares = log_probabilities(predicted * at[:kinds] + at[kinds:], 1.0)
        return float(0.5 * (weight * (at - prior) ** 2).sum() - shares[known > 0].sum())

    for _ in range(_STEPS):
        shares = np.exp(log_probabilities(predicted * at[:kinds] + at[kinds:], 1.0))
        off = shares - known
        slope = np.concatenate([(off * predicted).sum(0), off.sum(0)])
        slope += weight * (at - prior)
        step = np.linalg.solve(_curvature(predicted, shares) + np.diag(weight), slope)
        length = 1.0
        while loss(at - length * step) > loss(at) and length > 1e-6:
            length /= 2
        at = at - length * step
        if np.abs(step).max() < 1e-9:
            break
    return Adaptation(at[:kinds], at[kinds:])


def _curvature(
    predicted: NDArray[np.float64], shares: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Hessian (2K, 2K) of the negative log likelihood by scale and bias."""
    kinds = predicted.shape[1]
    spread = shares[:, :, None] * (np.eye(kinds) - shares[:, None, :])
    ways = np.concatenate([predicted, np.ones_like(predicted)], axis=1)
    spread = np.tile(spread, (1, 2, 2))
    return np.asarray((ways[:, :, None] * spread * ways[:, None, :]).sum(axis=0))


def gain_of_adapting(
    predicted: NDArray[np.float64], classes: Classes, seed: int = 0
) -> float:
    """Nats per cell that adapting saves on reviewed cells it was not fitted to.

    Cross-validated in five parts; negative: it does harm.
    """
    part = np.random.default_rng(seed).permutation(len(predicted)) % _FOLDS
    saved = []
    for fold in range(_FOLDS):
        rest, held = part != fold, part == fold
        fitted = _fitted(predicted[rest], classes[rest])
        after = log_probabilities(fitted.applied(predicted[held]), 1.0)
        at = np.arange(int(held.sum())), classes[held]
        saved.append(after[at] - predicted[held][at])
    return float(np.concatenate(saved).mean())


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
