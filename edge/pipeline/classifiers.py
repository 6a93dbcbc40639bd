"""Name cells by a list of classifiers, of which a later one may refine a class.

The first classifier names every cell, and its classes never change their meaning. A
later one divides one of these classes further, such as white cells by kind: it sees
only the crops of cells that the first one named so, and adds to what is known of them.
A row still holds what the first classifier says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.artifacts.bundle import Bundle, crop_size, first_state
from edge.engines import Engine
from edge.pipeline.stopwatch import Stopwatch
from edge.stages.crops import windows
from edge.stages.decision import Adaptation, Decisions, class_log_evidence, decide
from edge.stages.detection import Regions, locator_spec
from edge.taxonomy import WHITE_CELLS

# Cuts and corrects the crops (N, S, S, 3) uint8 RGB of windows (N, 4), of side S.
CutCrops = Callable[[NDArray[np.int32], int], NDArray[np.uint8]]


@dataclass(frozen=True, slots=True, eq=False)
class Classifier:
    """A bundle that names cells, with the engine that runs it.

    Parameters
    ----------
    bundle, engine
        The model, and what computes it; used from the engine's thread.
    abstain_below
        Confidence below which a cell stays unidentified.
    adaptation
        What the site's reviewed cells taught; None changes nothing.
    refines
        The class of the first classifier that this one divides further; None for the
        first one itself.
    """

    bundle: Bundle
    engine: Engine
    abstain_below: float
    adaptation: Adaptation | None = None
    refines: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Refinement:
    """What a later classifier says of the cells of one class.

    `rows` (M,) tells which cells; `decisions` has one row for each of them, in the
    classes `labels`.
    """

    rows: NDArray[np.intp]
    labels: tuple[str, ...]
    decisions: Decisions


@dataclass(frozen=True, slots=True, eq=False)
class ClassifiedCells:
    """The cells of a frame: where they lie, and what each classifier says of them.

    `decisions` has one row per region, in the classes of the first classifier.
    """

    regions: Regions
    decisions: Decisions
    refinements: tuple[Refinement, ...] = ()


def classify_cells(
    regions: Regions,
    classifiers: Sequence[Classifier],
    locator: Bundle | None,
    cut: CutCrops,
    stage: Stopwatch,
) -> ClassifiedCells:
    """Name the cells of a frame, and refine the classes that can be refined.

    Parameters
    ----------
    regions
        Where the cells lie.
    classifiers
        The first names every cell, each other one refines one of its classes.
    locator
        What found the regions; None where the whole field is one region.
    cut
        Cuts crops out of the frame.
    stage
        Takes the time of `crop`, `infer` and `decide`, of all classifiers together.

    Raises
    ------
    EngineFailed
        An engine refused the batch or returned what cannot be true.
    """
    first, *finer = classifiers
    opinion = locator_opinion(regions, locator, first.bundle)
    decisions = _decide(first, regions.boxes, locator, cut, stage, opinion)
    refinements = [
        _refine(one, regions, first.bundle.labels, decisions, locator, cut, stage)
        for one in finer
    ]
    return ClassifiedCells(regions, decisions, tuple(refinements))


def _refine(
    classifier: Classifier,
    regions: Regions,
    labels: tuple[str, ...],
    decisions: Decisions,
    locator: Bundle | None,
    cut: CutCrops,
    stage: Stopwatch,
) -> Refinement:
    """Show a later classifier the cells of the class that it refines, no others."""
    is_of_class = np.array([label == classifier.refines for label in labels])
    rows = np.flatnonzero(is_of_class[decisions.classes] & ~decisions.abstained)
    finer = _decide(classifier, regions.boxes[rows], locator, cut, stage)
    return Refinement(rows, classifier.bundle.labels, finer)


def _decide(
    classifier: Classifier,
    boxes: NDArray[np.float32],
    locator: Bundle | None,
    cut: CutCrops,
    stage: Stopwatch,
    opinion: NDArray[np.float32] | float = 0.0,
) -> Decisions:
    """Cut the cells in boxes (N, 4) out for a classifier, and let it decide."""
    bundle = classifier.bundle
    with stage("crop"):
        context = bundle.record.input.context if locator is not None else 1.0
        crops = cut(windows(boxes, context), crop_size(bundle))
    with stage("infer"):
        state = first_state(bundle, len(crops))  # each cell is new to it here
        logits = classifier.engine.infer(crops, state).tensors["logits"]
    with stage("decide"):
        return decide(
            logits,
            bundle.record.temperature,
            classifier.abstain_below,
            opinion,
            classifier.adaptation,
        )


def locator_opinion(
    regions: Regions, locator: Bundle | None, classifier: Bundle
) -> NDArray[np.float32] | float:
    """Return what the locator adds to the logits (N, K); 0 where it has no say."""
    if locator is None:
        return 0.0
    opinion = class_log_evidence(regions.evidence, locator.labels, classifier.labels)
    return 0.0 if opinion is None else locator_spec(locator).trust * opinion


def nameable(regions: Regions, locator: Bundle | None, classifier: Bundle) -> Regions:
    """Keep the regions that the classifier has names for.

    A classifier of white-cell kinds has no name for a red cell. Where it names none of
    what the locator tells apart, all are kept.
    """
    labels = () if locator is None else locator.labels
    known = {*classifier.labels}
    has_name = [
        name in known or (name == "WBC" and bool(known & WHITE_CELLS))
        for name in labels
    ]
    if all(has_name) or not any(has_name):
        return regions
    kept = np.array(has_name)[regions.kinds]
    return Regions(
        regions.boxes[kept],
        regions.scores[kept],
        regions.kinds[kept],
        regions.evidence[kept],
    )
