from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.engines.opening import open_engine
from edge.pipeline.parts import Parts
from edge.stages.decision import class_log_evidence, decide

LOGITS = np.array([[4.0, 0.0, 0.0], [0.2, 0.1, 0.0], [0.0, 0.0, 9.0]], np.float32)


def test_probabilities_are_the_softmax_of_logits_over_temperature() -> None:
    decided = decide(LOGITS, 2.0, 0.0)

    powers = np.exp(LOGITS.astype(np.float64) / 2)
    expected = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(decided.probabilities, expected, rtol=1e-6)


def test_it_abstains_below_the_threshold_and_only_there() -> None:
    decided = decide(LOGITS, 1.0, 0.6)

    assert decided.abstained.tolist() == [False, True, False]
    assert decided.classes.tolist() == [0, 0, 2]


@given(st.floats(0.05, 20), st.lists(st.floats(-500, 500), min_size=2, max_size=6))
def test_temperature_never_changes_the_winner(
    temperature: float, row: list[float]
) -> None:
    logits = np.array([row], np.float32)

    decided = decide(logits, temperature, 0.0)

    won = float(logits[0, decided.classes[0]])
    assert won == pytest.approx(float(logits.max()), rel=1e-6, abs=1e-6 * temperature)
    assert np.isfinite(decided.probabilities).all()
    assert decided.probabilities.sum() == pytest.approx(1, abs=1e-5)


def test_no_cells_give_no_decisions() -> None:
    decided = decide(np.zeros((0, 4), np.float32), 1.0, 0.5)

    assert decided.probabilities.shape == (0, 4)
    assert len(decided.classes) == len(decided.abstained) == 0


def test_the_graph_says_the_same_probabilities(parts: Parts) -> None:
    engine = open_engine(parts.classifier)
    image = parts.classifier.golden["image"].astype(np.uint8)

    outputs = engine.infer(image).tensors

    decided = decide(outputs["logits"], parts.classifier.record.temperature, 0.0)
    np.testing.assert_allclose(
        outputs["probabilities"], decided.probabilities, atol=1e-4
    )


LOCATOR_LABELS, LABELS = ("RBC", "WBC"), ("RBC", "WBC", "Plasma")


def test_the_locators_word_changes_a_close_call_and_not_a_clear_one() -> None:
    evidence = np.array([[0.05, 0.9], [0.05, 0.9]], np.float32)
    logits = np.array([[1.0, 0.5, -3.0], [9.0, 0.0, -3.0]], np.float32)

    log_evidence = class_log_evidence(evidence, LOCATOR_LABELS, LABELS)

    assert log_evidence is not None
    assert decide(logits, 1.0, 0.0).classes.tolist() == [0, 0]
    assert decide(logits, 1.0, 0.0, log_evidence).classes.tolist() == [1, 0]


def test_two_independent_witnesses_multiply() -> None:
    evidence = np.array([[0.6, 0.3]], np.float32)
    temperature = 2.0
    logits = temperature * np.log(np.array([[0.5, 0.3, 0.2]], np.float32))

    log_evidence = class_log_evidence(evidence, LOCATOR_LABELS, LABELS)
    assert log_evidence is not None
    together = decide(logits, temperature, 0.0, log_evidence).probabilities[0]

    product = np.array([0.5 * 0.6, 0.3 * 0.3, 0.2 * 0.4])
    np.testing.assert_allclose(together, product / product.sum(), atol=2e-3)


def test_the_locator_has_no_say_on_classes_it_does_not_know() -> None:
    evidence = np.array([[0.6, 0.3]], np.float32)

    assert (
        class_log_evidence(evidence, LOCATOR_LABELS, ("neutrophil", "lymphocyte"))
        is None
    )
    assert (
        class_log_evidence(np.zeros((1, 0), np.float32), LOCATOR_LABELS, LABELS) is None
    )


def test_no_regions_give_no_opinions() -> None:
    log_evidence = class_log_evidence(
        np.zeros((0, 2), np.float32), LOCATOR_LABELS, LABELS
    )

    assert log_evidence is not None
    assert log_evidence.shape == (0, 3)
