"""Sections of a report on models that were evaluated on the same cells."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from edge.artifacts.bundle import Metric
from edge.rendering.report_blocks import Block, Heading, Paragraph, Picture, TextTable
from training.fitting.families import CLASSIFIERS
from training.metrics.held_out import ClassScores, Evaluated, Scores
from training.metrics.reliability import named_share
from training.reports import figures

# Accuracy, precision and recall that the paper reports, on its own data.
PUBLISHED = {
    name: family.published
    for name, family in CLASSIFIERS.items()
    if family.published is not None
}


def compared(
    evaluated: Sequence[Evaluated], scores: Sequence[Scores]
) -> Iterator[Block]:
    """Yield the blocks that show how good the models are, and what they cost."""
    yield from _summary(evaluated, scores)
    yield from _classes(evaluated, scores)
    yield from _domains(evaluated, scores)
    yield from _confusion(evaluated, scores)
    yield from _confidence(evaluated, scores)
    yield from _robustness(evaluated)
    yield from _cost(evaluated, scores)


def _summary(
    evaluated: Sequence[Evaluated], scores: Sequence[Scores]
) -> Iterator[Block]:
    yield Heading("Accuracy")
    head = ["model", "accuracy", "paper", "precision", "paper"]
    head += ["recall = balanced accuracy", "paper", "F1", "calibration error"]
    rows = []
    for model, each in zip(evaluated, scores, strict=True):
        paper = [f"{v:.3f}" for v in PUBLISHED.get(model.family, ())] or ["none"] * 3
        ours = map(
            interval_text, (each.accuracy, each.precision, each.balanced_accuracy)
        )
        pairs = [cell for pair in zip(ours, paper, strict=True) for cell in pair]
        rest = [interval_text(each.f1), interval_text(each.calibration_error)]
        rows.append([model.name, *pairs, *rest])
    yield TextTable(head, rows)
    yield Paragraph(
        "In brackets: 95 % intervals, bootstrap over slides. Precision, recall and F1 "
        "are means over the classes that occur. Every cell is named here. The paper's "
        "numbers were measured on another data set: the distance from ours does not "
        "say which model is better."
    )
    yield Picture(
        "performance",
        figures.performance(evaluated, scores, PUBLISHED),
        "Accuracy, precision and recall of each model and of the paper",
        "Filled: ours, the whisker is the 95 % interval. Hollow: the paper's, on its "
        "own data. The bars do not start at 0; the axis says where.",
    )


def _classes(
    evaluated: Sequence[Evaluated], scores: Sequence[Scores]
) -> Iterator[Block]:
    yield Heading("Per class")
    yield TextTable(
        ("model", "class", "cells", "precision", "recall", "F1"),
        [
            [model.name, name, *_class_cells(scores_of)]
            for model, each in zip(evaluated, scores, strict=True)
            for name, scores_of in each.classes.items()
        ],
    )
    yield Picture(
        "class-f1",
        figures.class_f1(evaluated, scores),
        "F1 of each class and model",
        "F1 falls with missed cells as with false ones. Below each class: how many "
        "cells of it there are; the fewer, the longer the whisker.",
    )


def _class_cells(scores: ClassScores | None) -> list[str]:
    if scores is None:
        return ["0", *["does not occur"] * 3]
    three = (scores.precision, scores.recall, scores.f1)
    return [str(scores.cells), *map(interval_text, three)]


def _confusion(
    evaluated: Sequence[Evaluated], scores: Sequence[Scores]
) -> Iterator[Block]:
    yield Heading("Confusion")
    yield Picture(
        "confusion",
        figures.confusion(evaluated, scores),
        "Confusion matrix of each model",
        "A row is a true class: which share of it was called what, and how many cells "
        "that is. A good model is dark on the diagonal only.",
    )


def _domains(
    evaluated: Sequence[Evaluated], scores: Sequence[Scores]
) -> Iterator[Block]:
    yield Heading("Per domain")
    first = evaluated[0]
    names, excluded = list(scores[0].domains), list(scores[0].without_excluded)
    head = ["balanced accuracy"]
    for name in names:
        here = first.domains == name
        slides = len(np.unique(first.groups[here]))
        head.append(f"{name} ({int(here.sum())} cells, {slides} slides)")
    head += [f"{name}, doubtful labels left out" for name in excluded]
    rows = []
    for model, each in zip(evaluated, scores, strict=True):
        marks = [
            "" if d in model.trained_on else ", unseen" for d in (*names, *excluded)
        ]
        metrics = [*each.domains.values(), *each.without_excluded.values()]
        cells = [
            interval_text(m) + mark for m, mark in zip(metrics, marks, strict=True)
        ]
        rows.append([model.name, *cells])
    yield TextTable(head, rows)
    yield Paragraph(
        "Unseen: the weights never met this domain. An interval over one or two slides "
        "says little."
    )
    yield Picture(
        "domains",
        figures.domain_matrix(evaluated, scores),
        "Balanced accuracy of each model on each domain",
        "Outlined and bold: domains that the weights never met. These show what to "
        "expect in a new laboratory.",
    )


def _confidence(
    evaluated: Sequence[Evaluated], scores: Sequence[Scores]
) -> Iterator[Block]:
    yield Heading("Reliability")
    yield Picture(
        "reliability",
        figures.calibration(evaluated, scores),
        "Accuracy over confidence of each model",
        "On the dotted line confidence is what it says; below it the model is too sure "
        "of itself. The area of a point is its share of the cells. ECE: the mean gap.",
    )
    yield Heading("Abstention")
    rows = []
    for model, each in zip(evaluated, scores, strict=True):
        share, right = named_share(model)
        named = "names no cell" if right is None else f"{right:.4f}"
        limit, everything = f"{model.abstain_below:.3f}", f"{each.accuracy.value:.4f}"
        rows.append([model.name, limit, f"{share:.3f}", named, everything])
    head = ("model", "abstains below", "share named", "accuracy of those")
    yield TextTable((*head, "accuracy of all"), rows)
    yield Picture(
        "abstention",
        figures.abstaining(evaluated),
        "Accuracy among the named cells over the share that is named",
        "To the left only the surest cells are named. The marker is the threshold that "
        "the model is shipped with.",
    )


def _robustness(evaluated: Sequence[Evaluated]) -> Iterator[Block]:
    if any(j.robustness.rotation or j.robustness.blur for j in evaluated):
        yield Heading("Robustness")
        rotated = [(j.name, j.robustness.rotation) for j in evaluated]
        blurred = [(j.name, j.robustness.blur) for j in evaluated]
        yield from _altered("rotated by", "°", rotated)
        yield from _altered("blurred by", " px", blurred)
        yield Picture(
            "robustness",
            figures.robustness(evaluated),
            "Balanced accuracy on rotated and on blurred crops",
            "A flat line is a model that does not mind. Cells lie in any direction, so "
            "rotation should cost nothing.",
        )


def _altered(
    how: str, unit: str, curves: Sequence[tuple[str, Mapping[float, float]]]
) -> Iterator[Block]:
    steps = sorted({step for _, curve in curves for step in curve})
    if steps:
        yield TextTable(
            [f"balanced accuracy, {how}", *(f"{step:g}{unit}" for step in steps)],
            [
                [name, *(number(curve.get(s), ".3f") for s in steps)]
                for name, curve in curves
            ],
        )


def _cost(evaluated: Sequence[Evaluated], scores: Sequence[Scores]) -> Iterator[Block]:
    yield Heading("Cost")
    head = ("model", "parameters", "multiply-adds per crop", "training (s)")
    yield TextTable(
        (*head, "test (s)", "per cell, one at a time (ms)", "peak memory (MB)"),
        [[j.name, *_cost_cells(j)] for j in evaluated],
    )
    yield Picture(
        "speed",
        figures.speed(evaluated, scores),
        "Accuracy over time per cell",
        "Better is higher and further left. The area of a marker grows with the number "
        "of parameters, which the legend gives.",
    )
    yield Picture(
        "durations",
        figures.durations(evaluated),
        "Seconds of training and of testing",
        "On a logarithmic scale equal distances are equal factors; bars have no zero.",
    )


def _cost_cells(evaluated: Evaluated) -> list[str]:
    cost = evaluated.cost
    rest = (cost.training_s, cost.test_s, cost.ms_per_cell, cost.peak_memory_mb)
    sizes = [figures.si(cost.parameters), figures.si(cost.multiply_adds)]
    return sizes + [number(value, ",.4g") for value in rest]


def interval_text(metric: Metric | None) -> str:
    """Write a metric with its interval."""
    if metric is None:
        return "no cells left"
    return f"{metric.value:.3f} ({metric.low:.3f} to {metric.high:.3f})"


def number(value: float | None, form: str) -> str:
    """Write a number, or that it was not measured."""
    known = value is not None and math.isfinite(value)
    return format(value, form) if known else "not measured"
