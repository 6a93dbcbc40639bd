"""Say what each cell is, how sure that is, and when it is better to say nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.taxonomy import NOT_A_CELL

_DOUBT = 1e-3  # nobody is ever quite sure


@dataclass(frozen=True, slots=True, eq=False)
class Decisions:
    """One row per cell.

    `classes` (N,) the likeliest class; `probabilities` (N, K) float32, rows sum to 1;
    `abstained` (N,) whether the likeliest is still too unlikely to name.
    """

    classes: NDArray[np.intp]
    probabilities: NDArray[np.float32]
    abstained: NDArray[np.bool_]


def second_opinion(
    evidence: NDArray[np.float32], seen: tuple[str, ...], named: tuple[str, ...]
) -> NDArray[np.float32] | None:
    """Say what the locator thinks of each class that the classifier names.

    The locator sees a cell among its neighbours and at its true size, the classifier
    sees it large: where one errs in a strange laboratory, the other often does not.

    Parameters
    ----------
    evidence
        (N, K) float32, the locator's probability of each of its classes.
    seen, named
        Classes of the locator and of the classifier.

    Returns
    -------
    NDArray[np.float32] or None
        (N, len(named)) natural logarithms; plasma is where nothing is seen. None if
        the classifier tells classes apart that the locator does not know.
    """
    if not set(named) <= {*seen, NOT_A_CELL} or evidence.shape[1] != len(seen):
        return None
    nothing = 1 - evidence.max(axis=1, initial=0.0)
    columns = [
        nothing if name == NOT_A_CELL else evidence[:, seen.index(name)]
        for name in named
    ]
    return np.log(np.stack(columns, axis=1) + _DOUBT).astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Adaptation:
    """What a site's reviewed cells taught about the model's confidence there.

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
    opinion: NDArray[np.float32] | float = 0.0,
) -> NDArray[np.float64]:
    """Natural logarithms (N, K) of softmax(logits / temperature + opinion)."""
    scaled = logits.astype(np.float64) / temperature + opinion
    scaled -= scaled.max(axis=1, keepdims=True)
    return np.asarray(scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True)))


def decide(
    logits: NDArray[np.float32],
    temperature: float,
    abstain_below: float,
    opinion: NDArray[np.float32] | float = 0.0,
    adaptation: Adaptation | None = None,
) -> Decisions:
    """Turn logits into calibrated probabilities and decisions.

    softmax(logits / temperature + opinion): the classifier's calibrated word, times
    what somebody else holds likely; then as the site's reviewed cells teach.

    Parameters
    ----------
    logits
        (N, K) float32.
    temperature
        Divides the logits: above 1 makes the model less sure of itself (Guo et al.,
        arXiv 1706.04599).
    abstain_below
        Cells whose highest probability is lower are left unidentified.
    opinion
        (N, K) natural logarithms of a second, calibrated opinion; 0 for none.
    adaptation
        Of this site; None changes nothing.
    """
    log_p = log_probabilities(logits, temperature, opinion)
    if adaptation is not None:
        log_p = log_probabilities(adaptation.applied(log_p), 1.0)
    probabilities = np.exp(log_p).astype(np.float32)
    return Decisions(
        log_p.argmax(axis=1),
        probabilities,
        probabilities.max(axis=1) < abstain_below,
    )
