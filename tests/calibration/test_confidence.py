from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from calibration.confidence import (
    REVIEWED,
    TooFewCells,
    abstention_threshold,
    adaptation_gain,
    expected_calibration_error,
    fit_adaptation,
    fit_temperature,
)
from edge.stages.decision import log_probabilities


def overconfident(
    temperature: float, cells: int = 4000
) -> tuple[np.ndarray, np.ndarray]:
    """Logits `temperature` times too sure, and classes drawn as they should be."""
    random = np.random.default_rng(1)
    honest = random.normal(0, 1.5, (cells, 4))
    shares = np.exp(honest) / np.exp(honest).sum(axis=1, keepdims=True)
    classes = np.array([random.choice(4, p=share) for share in shares])
    return (honest * temperature).astype(np.float32), classes


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5, 6.0])
def test_the_temperature_that_was_put_in_is_found(temperature: float) -> None:
    logits, classes = overconfident(temperature)

    assert fit_temperature(logits, classes) == pytest.approx(temperature, rel=0.06)


def test_it_minimises_the_likelihood_as_torch_sees_it() -> None:
    logits, classes = overconfident(3.0)
    scale = torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.LBFGS([scale], max_iter=100)

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = torch.nn.functional.cross_entropy(
            torch.from_numpy(logits) / scale.exp(), torch.from_numpy(classes)
        )
        value.backward()
        return value

    optimiser.step(loss)

    expected = float(scale.exp().item())
    assert fit_temperature(logits, classes) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_calibration_error_is_that_of_torchmetrics(temperature: float) -> None:
    logits, classes = overconfident(3.0)

    ours = expected_calibration_error(logits, classes, temperature)

    shares = torch.softmax(torch.from_numpy(logits) / temperature, dim=1)
    theirs = multiclass_calibration_error(
        shares, torch.from_numpy(classes), num_classes=4, n_bins=15, norm="l1"
    )
    assert ours == pytest.approx(float(theirs), abs=2e-3)


def test_the_right_temperature_makes_confidence_honest() -> None:
    logits, classes = overconfident(3.0)

    before = expected_calibration_error(logits, classes, 1.0)
    after = expected_calibration_error(
        logits, classes, fit_temperature(logits, classes)
    )

    assert before > 0.15
    assert after < 0.03


def test_abstaining_reaches_the_wanted_error_rate_when_it_may() -> None:
    logits, classes = overconfident(1.0)

    threshold = abstention_threshold(logits, classes, 1.0, 0.1, max_abstained=1.0)

    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    named = shares.max(axis=1) >= threshold
    errors = (shares.argmax(axis=1) != classes)[named].mean()
    assert errors <= 0.1
    assert named.mean() > 0.1
    looser = shares.max(axis=1) >= threshold - 0.05
    assert (shares.argmax(axis=1) != classes)[looser].mean() > 0.1


def test_abstaining_is_limited_whatever_the_wish() -> None:
    logits, classes = overconfident(1.0)

    threshold = abstention_threshold(logits, classes, 1.0, 0.0, max_abstained=0.02)

    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert (shares.max(axis=1) < threshold).mean() <= 0.02 + 1e-3


def test_a_model_without_errors_never_abstains() -> None:
    logits = (np.eye(4, dtype=np.float32) * 9)[np.arange(100) % 4]

    assert abstention_threshold(logits, np.arange(100) % 4, 1.0, 0.01, 0.5) == 0.0


def test_too_few_cells_are_said() -> None:
    with pytest.raises(TooFewCells, match="30 cells"):
        fit_temperature(np.zeros((30, 4), np.float32), np.zeros(30, np.int64))


def strange_site(cells: int = 1500) -> tuple[np.ndarray, np.ndarray]:
    """Predictions where a stain makes the model too sure, and prefer class 1."""
    logits, classes = overconfident(1.0, cells)
    predicted = logits * 3.0 + np.array([0.0, 2.5, 0.0, 0.0], np.float32)
    return log_probabilities(predicted, 1.0), classes


def test_a_hundred_reviewed_cells_make_a_strange_site_honest() -> None:
    predicted, classes = strange_site()

    fitted = fit_adaptation(predicted[:REVIEWED], classes[:REVIEWED])

    rest, truth = predicted[REVIEWED:], classes[REVIEWED:]
    before = expected_calibration_error(rest, truth, 1.0)
    after = expected_calibration_error(fitted.applied(rest), truth, 1.0)
    assert before > 0.2
    assert after < 0.4 * before
    assert adaptation_gain(predicted[:REVIEWED], classes[:REVIEWED]) > 0.2


def test_adapting_finds_the_minimum_that_torch_finds() -> None:
    predicted, classes = strange_site(80)
    scale = torch.ones(4, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([scale, bias], max_iter=500, tolerance_change=1e-14)

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = torch.nn.functional.cross_entropy(
            torch.from_numpy(predicted) * scale + bias,
            torch.from_numpy(classes),
            reduction="sum",
        )
        value = value + ((scale - 1) ** 2).sum() / (2 * 0.5**2) + (bias**2).sum() / 2
        value.backward()
        return value

    optimiser.step(loss)

    fitted = fit_adaptation(predicted, classes)
    np.testing.assert_allclose(fitted.scale, scale.detach().numpy(), atol=1e-4)
    np.testing.assert_allclose(fitted.bias, bias.detach().numpy(), atol=1e-4)


def test_nothing_is_gained_where_the_model_is_right_already() -> None:
    logits, classes = overconfident(1.0, 100)

    assert adaptation_gain(log_probabilities(logits, 1.0), classes) < 0.02


def test_too_few_reviewed_cells_are_said() -> None:
    predicted, classes = strange_site(29)

    with pytest.raises(TooFewCells, match="29 reviewed cells"):
        fit_adaptation(predicted, classes)
