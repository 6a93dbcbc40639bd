"""Calibrate confidence: temperature, adaptation to a site, error, abstention."""

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
_MIN_CELLS, _MIN_REVIEWED = 50, 30
_SCALE_SPREAD, _BIAS_SPREAD = 0.5, 1.0  # standard deviations of the priors
_MAX_STEPS = 50
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
    if len(logits) < _MIN_CELLS:
        raise TooFewCells(
            f"{len(logits)} cells, expected {_MIN_CELLS}; hold back more cells"
        )
    low, high = np.log(1 / 20), np.log(20)
    ratio = (np.sqrt(5) - 1) / 2
    for _ in range(60):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if _mean_loss(logits, classes, left) < _mean_loss(logits, classes, right):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))


def _mean_loss(logits: Logits, classes: Classes, log_temperature: float) -> float:
    """Mean negative log likelihood of classes (N,) under logits (N, K)."""
    scaled = logits.astype(np.float64) / np.exp(log_temperature)
    top = scaled.max(axis=1, keepdims=True)
    total = np.log(np.exp(scaled - top).sum(axis=1)) + top[:, 0]
    return float((total - scaled[np.arange(len(classes)), classes]).mean())


def fit_adaptation(predicted: NDArray[np.float64], classes: Classes) -> Adaptation:
    """Fit vector scaling to the reviewed cells of a site.

    The maximum a posteriori of softmax(predicted * scale + bias), with Gaussian priors
    around scale 1 and bias 0: a hundred cells do not overrule the thousands that the
    model was fitted to.

    Parameters
    ----------
    predicted
        (N, K) natural logarithms of the predicted probabilities of cells that were not
        selected: a review of selected cells would teach the selection.
    classes
        (N,) the classes that a person gave them.

    Raises
    ------
    TooFewCells
        N is below 30.
    """
    if len(predicted) < _MIN_REVIEWED:
        raise TooFewCells(
            f"{len(predicted)} reviewed cells, expected {_MIN_REVIEWED} to "
            f"{REVIEWED}; review more"
        )
    return _most_probable(predicted, classes)


def _most_probable(predicted: NDArray[np.float64], classes: Classes) -> Adaptation:
    """Find the scale and bias (K,) that are most probable after the review.

    Newton's method on the negative logarithm of the posterior. It is convex, so there
    is one minimum; a step that would make it worse is halved until it does not.

    `predicted` (N, K) natural logarithms, `classes` (N,) int64.
    """
    kinds = predicted.shape[1]
    prior = np.repeat([1.0, 0.0], kinds)
    weight = np.repeat([_SCALE_SPREAD**-2, _BIAS_SPREAD**-2], kinds)
    is_true = np.eye(kinds)[classes]
    parameters = prior.copy()  # (2K,): scale, then bias

    def shares_at(at: NDArray[np.float64]) -> NDArray[np.float64]:
        return log_probabilities(predicted * at[:kinds] + at[kinds:], 1.0)

    def loss(at: NDArray[np.float64]) -> float:
        logs = shares_at(at)
        return float(0.5 * (weight * (at - prior) ** 2).sum() - logs[is_true > 0].sum())

    for _ in range(_MAX_STEPS):
        shares = np.exp(shares_at(parameters))
        error = shares - is_true
        slope = np.concatenate([(error * predicted).sum(0), error.sum(0)])
        slope += weight * (parameters - prior)
        step = np.linalg.solve(_curvature(predicted, shares) + np.diag(weight), slope)
        length = 1.0
        while loss(parameters - length * step) > loss(parameters) and length > 1e-6:
            length /= 2
        parameters = parameters - length * step
        if np.abs(step).max() < 1e-9:
            break
    return Adaptation(parameters[:kinds], parameters[kinds:])


def _curvature(
    predicted: NDArray[np.float64], shares: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Hessian (2K, 2K) of the negative log likelihood by scale and bias.

    `predicted` (N, K) natural logarithms, `shares` (N, K) the adapted probabilities.
    """
    kinds = predicted.shape[1]
    spread = shares[:, :, None] * (np.eye(kinds) - shares[:, None, :])
    inputs = np.concatenate([predicted, np.ones_like(predicted)], axis=1)
    spread = np.tile(spread, (1, 2, 2))
    return np.asarray((inputs[:, :, None] * spread * inputs[:, None, :]).sum(axis=0))


def adaptation_gain(
    predicted: NDArray[np.float64], classes: Classes, seed: int = 0
) -> float:
    """Nats per cell that adapting saves on cells that it was not fitted to.

    Cross-validated in five parts. A negative gain means that adapting does harm.

    Parameters
    ----------
    predicted, classes
        As for `fit_adaptation`.
    seed
        Of the division into parts.
    """
    part = np.random.default_rng(seed).permutation(len(predicted)) % _FOLDS
    saved = []
    for fold in range(_FOLDS):
        train, test = part != fold, part == fold
        fitted = _most_probable(predicted[train], classes[train])
        after = log_probabilities(fitted.applied(predicted[test]), 1.0)
        true = np.arange(int(test.sum())), classes[test]
        saved.append(after[true] - predicted[test][true])
    return float(np.concatenate(saved).mean())


def expected_calibration_error(
    logits: Logits, classes: Classes, temperature: float, bins: int = 15
) -> float:
    """Calibration error of the model's predictions at this temperature.

    Parameters
    ----------
    logits, classes
        As for `fit_temperature`.
    temperature
        Of the probabilities.
    bins
        Equally wide bins of confidence.
    """
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
        (N,) the confidence, 0 to 1, and whether the name was right.
    bins
        Equally wide bins of confidence.

    Notes
    -----
    The expected calibration error of Guo et al., arXiv 1706.04599, section 2.
    """
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        abs(float(confidence[bin_of == b].mean() - right[bin_of == b].mean()))
        * float((bin_of == b).mean())
        for b in np.unique(bin_of)
    ]
    return sum(gaps)


def abstention_threshold(
    logits: Logits,
    classes: Classes,
    temperature: float,
    error_rate: float,
    max_abstained: float,
) -> float:
    """Return the confidence below which a cell is left unidentified.

    Parameters
    ----------
    logits, classes
        As for `fit_temperature`.
    temperature
        Of the probabilities.
    error_rate
        Wanted share of errors among the cells that are named.
    max_abstained
        Share of cells that may be left unidentified. Where both cannot be had, this
        limit holds and the error rate does not.

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
    # Share of errors if this cell and all surer ones are named.
    rate = np.cumsum(wrong[::-1])[::-1] / named
    allowed = int(max_abstained * len(wrong))
    for left_out in range(allowed + 1):
        if rate[left_out] <= error_rate:
            break
    return 0.0 if left_out == 0 else float(confidence[order][left_out])
