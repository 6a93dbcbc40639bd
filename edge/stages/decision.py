"""Decide the class of each cell, with its probability, or abstain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.taxonomy import NOT_A_CELL

_MIN_PROBABILITY = 1e-3  # added to evidence: no class is ever ruled out by it


@dataclass(frozen=True, slots=True, eq=False)
class Decisions:
    """One row per cell.

    `classes` (N,) int, the likeliest class; `probabilities` (N, K) float32, rows sum to
    1; `abstained` (N,) bool, whether the likeliest class is too unlikely to be named.
    """

    classes: NDArray[np.intp]
    probabilities: NDArray[np.float32]
    abstained: NDArray[np.bool_]


def class_log_evidence(
    evidence: NDArray[np.float32],
    locator_labels: tuple[str, ...],
    labels: tuple[str, ...],
) -> NDArray[np.float32] | None:
    """Return the locator's log-probability of each class of the classifier.

    The locator sees a cell among its neighbours and at its true size, the classifier
    sees it large: where one errs in a strange laboratory, the other often does not.

    Parameters
    ----------
    evidence
        (N, K) float32, the locator's probability of each of its classes.
    locator_labels, labels
        Classes of the locator and of the classifier.

    Returns
    -------
    NDArray[np.float32] or None
        (N, len(labels)) natural logarithms. The evidence for plasma is one minus the
        highest of the others. None if the classifier has classes that the locator
        does not know.
    """
    known = {*locator_labels, NOT_A_CELL}
    if not set(labels) <= known or evidence.shape[1] != len(locator_labels):
        return None
    nothing = 1 - evidence.max(axis=1, initial=0.0)
    columns = [
        nothing if name == NOT_A_CELL else evidence[:, locator_labels.index(name)]
        for name in labels
    ]
    return np.log(np.stack(columns, axis=1) + _MIN_PROBABILITY).astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Adaptation:
    """Correction of the model's confidence, learned from reviewed cells of a site.

    `scale` and `bias` (K,): vector scaling (Guo et al., arXiv 1706.04599) of the
    natural logarithms of the probabilities.
    """

    scale: NDArray[np.float64]
    bias: NDArray[np.float64]

    def applied(self, log_probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return adapted log-probabilities (N, K), not normalised."""
        return np.asarray(log_probabilities * self.scale + self.bias)


def log_probabilities(
    logits: NDArray[np.floating],
    temperature: float,
    log_evidence: NDArray[np.float32] | float = 0.0,
) -> NDArray[np.float64]:
    """Natural logarithms (N, K) of softmax(logits / temperature + log_evidence)."""
    scaled = logits.astype(np.float64) / temperature + log_evidence
    scaled -= scaled.max(axis=1, keepdims=True)
    return np.asarray(scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True)))


def decide(
    logits: NDArray[np.float32],
    temperature: float,
    abstain_below: float,
    log_evidence: NDArray[np.float32] | float = 0.0,
    adaptation: Adaptation | None = None,
) -> Decisions:
    """Turn logits into calibrated probabilities and decisions.

    p = softmax(logits / temperature + log_evidence): the product of the classifier's
    calibrated probabilities and the locator's, normalised. Then `adaptation` is
    applied.

    Parameters
    ----------
    logits
        (N, K) float32.
    temperature
        Divides the logits: above 1 makes the model less sure of itself (Guo et al.,
        arXiv 1706.04599).
    abstain_below
        Cells whose highest probability is lower are left unidentified.
    log_evidence
        (N, K) natural logarithms of the locator's probabilities; 0 for none.
    adaptation
        Learned from reviewed cells of this site; None changes nothing.
    """
    log_p = log_probabilities(logits, temperature, log_evidence)
    if adaptation is not None:
        log_p = log_probabilities(adaptation.applied(log_p), 1.0)
    probabilities = np.exp(log_p).astype(np.float32)
    return Decisions(
        log_p.argmax(axis=1),
        probabilities,
        probabilities.max(axis=1) < abstain_below,
    )
