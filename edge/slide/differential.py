"""The differential: the share of each class among the cells counted, with limits."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from edge.schema.results import ClassShare, Differential, Limits
from edge.slide.binomial_intervals import clopper_pearson, more_cells
from edge.slide.confusion_correction import Correction
from edge.taxonomy import NOT_A_CELL, UNIDENTIFIED, WHITE_CELLS

Of = Literal["all cells", "white cells"]


def counted_of(labels: tuple[str, ...]) -> Of:
    """Return what shares refer to: white cells, where the model knows their kinds."""
    return "white cells" if len(WHITE_CELLS & set(labels)) > 1 else "all cells"


def differentiate(
    counts: Counter[str],
    labels: tuple[str, ...],
    wanted_width: float,
    patches: int,
    correction: Correction | None = None,
) -> Differential:
    """Return the differential of cells that were counted once each.

    Parameters
    ----------
    counts
        Cells per label, unidentified ones among them.
    labels
        The classes of the model, in its order.
    wanted_width
        Distance between the limits of a class at which enough is counted.
    patches
        Parts of the mosaic that are not joined.
    correction
        Corrects the counts for the model's confusion; None for no correction.
    """
    of = counted_of(labels)
    named = [
        label
        for label in labels
        if label != NOT_A_CELL and (of == "all cells" or label in WHITE_CELLS)
    ]
    total = sum(counts[label] for label in named)
    corrected = None
    if correction is not None and total:
        corrected = correction.correct({label: counts[label] for label in named})
    return Differential(
        of=of,
        total=total,
        unidentified=counts[UNIDENTIFIED],
        classes=tuple(
            ClassShare(
                label=label,
                count=counts[label],
                exact=_exact(counts[label], total),
                corrected=None if corrected is None else corrected[label],
                more=more_cells(counts[label], total, wanted_width),
            )
            for label in named
        ),
        wanted_width=wanted_width,
        patches=patches,
    )


def _exact(count: int, total: int) -> Limits:
    """Return a share with its exact limits."""
    low, high = clopper_pearson(count, total)
    share = count / total if total else 0.0
    return Limits(share=round(share, 6), low=_rounded(low, 0), high=_rounded(high, 1))


def _rounded(limit: float, up: int) -> float:
    """Round outwards, so that the limits stay true; `up` is 1 for the upper limit."""
    return min(1.0, (int(limit * 1e6) + up) / 1e6)
