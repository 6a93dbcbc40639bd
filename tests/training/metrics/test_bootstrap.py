"""Figures with intervals, and simulated slides as data."""

from __future__ import annotations

import numpy as np
import pytest

from training.metrics.bootstrap import balanced_accuracy, with_interval
from training.synthetic.smears import DOMAIN, simulated_crops, simulated_fields


def test_an_interval_holds_its_value_and_narrows_with_more_groups() -> None:
    random = np.random.default_rng(0)
    right = random.random(400) < 0.9

    def interval(groups: int) -> tuple[float, float]:
        names = [f"g{i % groups}" for i in range(400)]
        metric = with_interval(lambda i: float(right[i].mean()), names)
        assert metric.low <= metric.value <= metric.high
        assert metric.value == pytest.approx(right.mean(), abs=1e-4)
        return metric.low, metric.high

    low, high = interval(400)
    binomial = 1.96 * np.sqrt(0.9 * 0.1 / 400)
    assert (high - low) / 2 == pytest.approx(binomial, rel=0.25)


def test_balanced_accuracy_is_the_mean_recall() -> None:
    classes = np.array([0, 0, 0, 0, 1, 1])

    assert balanced_accuracy(np.array([0, 0, 0, 1, 1, 0]), classes) == (0.75 + 0.5) / 2


def test_simulated_slides_hold_every_class_in_many_colours() -> None:
    fields = simulated_fields(6, ("RBC", "WBC", "Platelet"))
    crops = simulated_crops(6, 32, 1.3)

    for field in fields:
        assert set(field.classes.tolist()) == {0, 1, 2}
        assert field.is_complete
    backgrounds = np.array([np.median(f.pixels.reshape(-1, 3), axis=0) for f in fields])
    assert backgrounds.std(axis=0).max() > 5
    assert set(crops.classes.tolist()) == {0, 1, 2, 3}
    assert {row.domain for row in crops.rows} == {DOMAIN}
    assert len(crops.rows) == len(crops.pixels) == len(crops.classes)
