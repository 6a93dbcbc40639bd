"""Compute how well models name held-out cells, each figure with its uncertainty.

Every cell is named here, however low the confidence is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.artifacts.bundle import Metric
from edge.errors import HemascopeError
from edge.stages.decision import Decisions, decide
from training.metrics.bootstrap import Figure, estimate
from training.metrics.confusion import (
    Floats,
    accuracy,
    balanced,
    f1s,
    precisions,
    recalls,
)

_BINS = 15


class EvaluationRefused(HemascopeError):
    """The outputs and the labels do not fit together."""


@dataclass(frozen=True, slots=True)
class InferenceCost:
    """Size, operations, time and memory of a model; NaN where it was not measured.

    `multiply_adds` are those of one crop, `test_s` is for all cells, `ms_per_cell` for
    one cell at a time (batch 1), `peak_memory_mb` is that of the process.
    """

    parameters: int
    multiply_adds: int
    training_s: float
    test_s: float
    ms_per_cell: float
    peak_memory_mb: float


@dataclass(frozen=True, slots=True)
class Robustness:
    """Balanced accuracy on altered crops.

    `rotation` by degrees, `blur` by the standard deviation of a Gaussian in pixels.
    """

    rotation: dict[float, float]
    blur: dict[float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Evaluated:
    """The predictions of one model on labelled cells, and their cost.

    `name` is shown in reports, such as "VGG16"; `logits` (N, K) float32; `classes` (N,)
    int64 the true ones; `domains` and `groups` (N,) the laboratory and the slide of
    each cell;
    `trained_on` the domains that the weights have seen.

    Raises
    ------
    EvaluationRefused
        The arrays differ in length, are empty, hold a logit that is no number or a
        class without a label.
    """

    name: str
    family: str
    labels: tuple[str, ...]
    logits: NDArray[np.float32]
    classes: NDArray[np.int64]
    domains: NDArray[np.str_]
    groups: NDArray[np.str_]
    temperature: float
    abstain_below: float
    trained_on: tuple[str, ...]
    cost: InferenceCost
    robustness: Robustness

    def __post_init__(self) -> None:
        cells, width = len(self.classes), len(self.labels)
        lengths = len(self.logits), len(self.domains), len(self.groups)
        if cells == 0 or lengths != (cells, cells, cells):
            raise EvaluationRefused(
                f"{self.name}: rows of logits, domains and groups are {lengths}, "
                f"expected {cells} of each and at least 1; use labelled cells"
            )
        low, high = int(self.classes.min()), int(self.classes.max())
        if self.logits.shape[1] != width or low < 0 or high >= width:
            raise EvaluationRefused(
                f"{self.name}: {self.logits.shape[1]} logits and classes {low} to "
                f"{high}, expected {width} as there are labels; use those of its task"
            )
        if not np.isfinite(self.logits).all():
            row = np.flatnonzero(~np.isfinite(self.logits).all(axis=1))[0]
            raise EvaluationRefused(
                f"{self.name}: cell {row} has logits {self.logits[row]}, expected "
                "finite numbers; train the model again"
            )


@dataclass(frozen=True, slots=True)
class ClassScores:
    """How well one class is recognised; `cells` are labelled with it."""

    precision: Metric
    recall: Metric
    f1: Metric
    cells: int


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """The figures of one model.

    Means are taken over the classes that occur. `classes` holds None for a class that
    does not. `domains` is the balanced accuracy on each domain. `without_excluded` is
    the same without the excluded classes, for each domain that has any; None if no cell
    is left. `confusion` (K, K) int64 counts cells, a row per true class, a column per
    predicted class.
    """

    accuracy: Metric
    balanced_accuracy: Metric
    precision: Metric
    f1: Metric
    calibration_error: Metric
    classes: dict[str, ClassScores | None]
    domains: dict[str, Metric]
    without_excluded: dict[str, Metric | None]
    confusion: NDArray[np.int64]


def score(evaluated: Evaluated, exclusions: Sequence[tuple[str, str]] = ()) -> Scores:
    """Compute every figure of a model; `exclusions` are pairs (domain, class)."""
    sums = confusions(evaluated)
    cells = len(evaluated.classes)
    total = sums.sum(axis=0)

    def of(figure: Figure) -> Metric:
        return estimate(figure, sums, cells)

    def of_class(k: int) -> ClassScores | None:
        if not total[k].any():
            return None
        return ClassScores(
            precision=of(lambda c: precisions(c)[..., k]),
            recall=of(lambda c: recalls(c)[..., k]),
            f1=of(lambda c: f1s(c)[..., k]),
            cells=int(total[k].sum()),
        )

    return Scores(
        accuracy=of(accuracy),
        balanced_accuracy=of(balanced),
        precision=of(lambda c: np.nanmean(precisions(c), axis=-1)),
        f1=of(lambda c: np.nanmean(f1s(c), axis=-1)),
        calibration_error=estimate(_calibration_gap, bin_sums(evaluated), cells),
        classes={name: of_class(k) for k, name in enumerate(evaluated.labels)},
        domains=_by_domain(evaluated, np.ones(cells, bool)),
        without_excluded=_without_excluded(evaluated, exclusions),
        confusion=total,
    )


def decisions_of(evaluated: Evaluated) -> Decisions:
    """Return the decision of the model on each cell."""
    return decide(evaluated.logits, evaluated.temperature, evaluated.abstain_below)


def confusions(
    evaluated: Evaluated, rows: NDArray[np.bool_] | slice = slice(None)
) -> NDArray[np.int64]:
    """Count true and predicted classes, slide by slide.

    Returns
    -------
    NDArray[np.int64]
        (G, K, K) cells: group, true class, predicted class; groups alphabetically.
    """
    width = len(evaluated.labels)
    names, group = np.unique(evaluated.groups[rows], return_inverse=True)
    pairs = evaluated.classes[rows] * width + decisions_of(evaluated).classes[rows]
    counts = np.bincount(group * width**2 + pairs, minlength=len(names) * width**2)
    return counts.reshape(-1, width, width).astype(np.int64)


def _by_domain(evaluated: Evaluated, kept: NDArray[np.bool_]) -> dict[str, Metric]:
    """Balanced accuracy on the kept cells of each domain that has any."""
    domains = {}
    for domain in np.unique(evaluated.domains[kept]).tolist():
        rows = kept & (evaluated.domains == domain)
        domains[domain] = estimate(
            balanced, confusions(evaluated, rows), int(rows.sum())
        )
    return domains


def _without_excluded(
    evaluated: Evaluated, exclusions: Sequence[tuple[str, str]]
) -> dict[str, Metric | None]:
    """Balanced accuracy on each domain with exclusions, without the excluded cells."""
    names = np.array(evaluated.labels)[evaluated.classes]
    kept = np.ones(len(names), bool)
    for domain, label in exclusions:
        kept &= (evaluated.domains != domain) | (names != label)
    metrics = _by_domain(evaluated, kept)
    return {d: metrics.get(d) for d in np.unique(evaluated.domains[~kept]).tolist()}


def bin_sums(evaluated: Evaluated) -> Floats:
    """Sum over bins of confidence, slide by slide: (G, bins, 3).

    The last axis holds the confidence, the number of right names, and that of cells.
    """
    decisions = decisions_of(evaluated)
    confidence = decisions.probabilities.max(axis=1)
    bin_of = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    names, group = np.unique(evaluated.groups, return_inverse=True)
    sums = np.zeros((len(names), _BINS, 3))
    right = decisions.classes == evaluated.classes
    each = np.stack([confidence, right, np.ones(len(right))], axis=1)
    np.add.at(sums, (group, bin_of), each)
    return sums


def _calibration_gap(sums: Floats) -> Floats:
    """Compute the expected calibration error from bin sums: (..., bins, 3) to (...)."""
    gaps = np.abs(sums[..., 0] - sums[..., 1]).sum(axis=-1)
    return np.asarray(gaps / sums[..., 2].sum(axis=-1))
