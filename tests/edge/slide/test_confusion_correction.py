from __future__ import annotations

import numpy as np
import pytest

from edge.errors import ConfigurationInvalid
from edge.slide.binomial_intervals import clopper_pearson
from edge.slide.confusion_correction import ConfusionFile, Correction

CLASSES = ("neutrophil", "lymphocyte", "monocyte")
MIXED = np.array([[0.95, 0.03, 0.02], [0.04, 0.92, 0.04], [0.05, 0.10, 0.85]])


def known(shares: np.ndarray, cells: int) -> ConfusionFile:
    rows = tuple(tuple(int(n) for n in row) for row in np.rint(shares * cells))
    return ConfusionFile(CLASSES, rows)


def named(shares: np.ndarray, cells: int) -> dict[str, int]:
    """What would be counted of true shares."""
    counts = np.rint(cells * shares @ MIXED).astype(int).tolist()
    return dict(zip(CLASSES, counts, strict=True))


def test_known_confusion_is_taken_back() -> None:
    true = np.array([0.62, 0.30, 0.08])

    limits = Correction(known(MIXED, 2000)).correct(named(true, 5000))

    found = [limits[name].share for name in CLASSES]
    assert found == pytest.approx(true.tolist(), abs=0.005)
    for name, share in zip(CLASSES, true, strict=True):
        assert limits[name].low < share < limits[name].high


def test_the_less_is_known_of_the_confusion_the_wider_the_limits() -> None:
    counts = named(np.array([0.6, 0.3, 0.1]), 2000)

    widths = [
        (limit := Correction(known(MIXED, cells)).correct(counts)["monocyte"]).high
        - limit.low
        for cells in (50, 500, 5000)
    ]

    exact = clopper_pearson(counts["monocyte"], sum(counts.values()))
    assert widths[0] > 1.3 * widths[1] > 1.3 * widths[2]
    assert widths[2] > exact[1] - exact[0]


def test_limits_are_never_closer_than_exact_ones() -> None:
    perfect = Correction(known(np.eye(3), 100_000))

    limits = perfect.correct({"neutrophil": 60, "lymphocyte": 40, "monocyte": 0})

    for name, count in (("neutrophil", 60), ("monocyte", 0)):
        low, high = clopper_pearson(count, 100)
        assert limits[name].low <= low + 1e-3
        assert limits[name].high >= high - 1e-3


@pytest.mark.parametrize(
    ("classes", "cells", "why"),
    [
        (CLASSES, ((9, 1), (1, 9)), "square"),
        (("a", "a"), ((9, 1), (1, 9)), "square"),
        (("a", "b"), ((4, 6), (1, 9)), "named correctly"),
        (("a", "b"), ((0, 0), (1, 9)), "named correctly"),
        (("a", "b"), ((5, 5), (5, 5)), "named correctly"),  # has no single solution
        ((), (), "square"),
    ],
)
def test_confusion_that_cannot_be_taken_back_is_refused(
    classes: tuple[str, ...], cells: tuple[tuple[int, ...], ...], why: str
) -> None:
    with pytest.raises(ConfigurationInvalid, match=why):
        Correction(ConfusionFile(classes, cells))


def test_confusion_of_another_model_is_refused() -> None:
    with pytest.raises(ConfigurationInvalid, match="basophil"):
        Correction(known(MIXED, 100)).check(["neutrophil", "basophil"])
