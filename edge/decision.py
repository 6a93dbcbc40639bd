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


def decide(
    logits: NDArray[np.float32],
    temperature: float,
    abstain_below: float,
    opinion: NDArray[np.float32] | float = 0.0,
) -> Decisions:
    """Turn logits into calibrated probabilities and decisions.

    softmax(logits / temperature + opinion): the classifier's calibrated word, times
    what somebody else holds likely.

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
    """
    scaled = logits.astype(np.float64) / temperature + opinion
    scaled -= scaled.max(axis=1, keepdims=True)
    likely = np.exp(scaled)
    probabilities = (likely / likely.sum(axis=1, keepdims=True)).astype(np.float32)
    return Decisions(
        scaled.argmax(axis=1),
        probabilities,
        probabilities.max(axis=1) < abstain_below,
    )
