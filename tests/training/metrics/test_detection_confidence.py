from __future__ import annotations

import numpy as np
import pytest

from training.metrics.detection_confidence import NamedBoxes, confidence_quality


def boxes(confidence: list[float], right: list[bool]) -> NamedBoxes:
    return NamedBoxes(
        np.array(confidence), np.array(right), np.arange(len(right), dtype=np.int64)
    )


def test_boxes_that_are_right_as_often_as_they_say_have_no_error() -> None:
    quality = confidence_quality(boxes([0.75] * 8, [True] * 6 + [False] * 2))

    assert quality.calibration_error.value == 0
    assert quality.right == quality.confidence == 0.75
    assert quality.brier == pytest.approx(0.75 * 0.25)
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert quality.log_loss == pytest.approx(entropy)


def test_false_boxes_count_against_the_confidence() -> None:
    cells = boxes([0.9] * 9 + [0.9], [True] * 9 + [False])
    with_false = boxes([0.9] * 9 + [0.9] * 6, [True] * 9 + [False] * 6)

    assert confidence_quality(cells).calibration_error.value == pytest.approx(0)
    assert confidence_quality(with_false).calibration_error.value == pytest.approx(0.3)


def test_a_certainty_that_is_wrong_costs_a_finite_loss() -> None:
    assert confidence_quality(boxes([1.0], [False])).log_loss < 15


def test_without_boxes_there_is_nothing_to_judge() -> None:
    with pytest.raises(ValueError, match="no box"):
        confidence_quality(boxes([], []))
