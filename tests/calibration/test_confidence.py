from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from calibration.confidence import (
    TooFewCells,
    abstention_threshold,
    expected_calibration_error,
    fit_temperature,
)


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

    threshold = abstention_threshold(logits, classes, 1.0, 0.1, most_abstained=1.0)

    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    named = shares.max(axis=1) >= threshold
    errors = (shares.argmax(axis=1) != classes)[named].mean()
    assert errors <= 0.1
    assert named.mean() > 0.1
    looser = shares.max(axis=1) >= threshold - 0.05
    assert (shares.argmax(axis=1) != classes)[looser].mean() > 0.1


def test_abstaining_is_limited_whatever_the_wish() -> None:
    logits, classes = overconfident(1.0)

    threshold = abstention_threshold(logits, classes, 1.0, 0.0, most_abstained=0.02)

    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert (shares.max(axis=1) < threshold).mean() <= 0.02 + 1e-3


def test_a_model_without_errors_never_abstains() -> None:
    logits = (np.eye(4, dtype=np.float32) * 9)[np.arange(100) % 4]

    assert abstention_threshold(logits, np.arange(100) % 4, 1.0, 0.01, 0.5) == 0.0


def test_too_few_cells_are_said() -> None:
    with pytest.raises(TooFewCells, match="30 cells"):
        fit_temperature(np.zeros((30, 4), np.float32), np.zeros(30, np.int64))
