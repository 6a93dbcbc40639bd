"""The loop, on models small enough to know the answer."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from training.fitting.checkpoint import FILE, CheckpointRefused
from training.fitting.loop import (
    OPTIMISERS,
    PRECISIONS,
    FitDiverged,
    FitPlan,
    Fitted,
    fit,
    share_of_rate,
)

PLAN = FitPlan(
    epochs=6, steps_per_epoch=10, learning_rate=0.05, weight_decay=0.0, seed=1, batch=16
)
X = torch.linspace(-1, 1, 64)[:, None]


class Line(nn.Linear):
    """y = ax + b, with a dropout that needs chance."""

    def __init__(self) -> None:
        super().__init__(1, 1)
        self.dropout = nn.Dropout(0.01)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


def draw(_chance: int) -> tuple[Tensor, ...]:
    return (X[torch.randint(0, 64, (16,))],)


def loss(model: Line, x: Tensor) -> Tensor:
    return ((model.dropout(model(x)) - 3 * x) ** 2).mean()


def score(model: Line) -> tuple[float, str]:
    return -abs(model.weight.item() - 3), "line"


def fitted(plan: FitPlan = PLAN, **where: Path) -> Fitted[Line]:
    return fit(Line(), draw, loss, lambda m: (10 + score(m)[0], ""), plan, **where)


def test_the_best_moving_average_is_kept() -> None:
    plan = replace(PLAN, epochs=20, steps_per_epoch=30, learning_rate=0.1)

    found = fitted(plan)

    assert found.model.weight.item() == pytest.approx(3, abs=0.2)
    assert found.score == 10 - abs(found.model.weight.item() - 3)
    assert 1 <= found.epoch <= 20


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_every_optimiser_finds_the_line(optimiser: str) -> None:
    plan = replace(PLAN, epochs=20, steps_per_epoch=30, learning_rate=0.05)

    found = fitted(replace(plan, optimiser=optimiser))

    assert found.model.weight.item() == pytest.approx(3, abs=0.3)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_mixed_precision_finds_it_too_and_keeps_float32_weights(precision: str) -> None:
    plan = replace(PLAN, epochs=20, steps_per_epoch=30, precision=precision)

    found = fitted(plan)

    assert found.model.weight.dtype == torch.float32
    assert found.model.weight.item() == pytest.approx(3, abs=0.3)


def test_weight_decay_pulls_weights_to_zero() -> None:
    free, held = fitted(), fitted(replace(PLAN, optimiser="adam", weight_decay=5.0))

    assert abs(held.model.weight.item()) < abs(free.model.weight.item())


def test_the_same_seed_gives_the_same_weights() -> None:
    weight = fitted().model.weight.item()

    assert fitted().model.weight.item() == weight
    assert fitted(replace(PLAN, seed=2)).model.weight.item() != weight


def test_a_run_that_was_killed_goes_on_as_if_nothing_had_happened(
    tmp_path: Path,
) -> None:
    epochs = 0

    def until_killed(model: Line) -> tuple[float, str]:
        nonlocal epochs
        epochs += 1
        if epochs == 4:
            raise KeyboardInterrupt
        return 10 + score(model)[0], ""

    with pytest.raises(KeyboardInterrupt):
        fit(Line(), draw, loss, until_killed, PLAN, folder=tmp_path)
    seen: list[int] = []

    def watched(chance: int) -> tuple[Tensor, ...]:
        seen.append(chance)
        return draw(chance)

    resumed = fit(
        Line(), watched, loss, lambda m: (10 + score(m)[0], ""), PLAN, folder=tmp_path
    )

    assert len(seen) == 3 * PLAN.steps_per_epoch  # of six epochs three were done
    assert resumed.model.weight.item() == fitted().model.weight.item()
    assert resumed.epoch == fitted().epoch


def test_a_finished_run_is_not_fitted_again(tmp_path: Path) -> None:
    first = fitted(folder=tmp_path)

    def never(_chance: int) -> tuple[Tensor, ...]:
        raise AssertionError("nothing is left to do")

    again = fit(Line(), never, loss, score, PLAN, folder=tmp_path)

    assert again.model.weight.item() == first.model.weight.item()
    assert again.score == first.score


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda path: path.write_bytes(b"not a checkpoint"), "no checkpoint"),
        (lambda path: path.write_bytes(path.read_bytes()[:-40]), "no checkpoint"),
        (lambda path: None, "another run"),
    ],
)
def test_a_checkpoint_that_does_not_belong_here_is_refused(
    tmp_path: Path, change: Callable[[Path], object], says: str
) -> None:
    fitted(folder=tmp_path)
    change(tmp_path / FILE)

    with pytest.raises(CheckpointRefused, match=says):
        fitted(replace(PLAN, epochs=7), folder=tmp_path)


def test_fitting_stops_when_val_has_not_got_better_for_long() -> None:
    best_at = 2
    epochs = 0

    def peaked(_model: Line) -> tuple[float, str]:
        nonlocal epochs
        epochs += 1
        return float(epochs == best_at), ""

    found = fit(Line(), draw, loss, peaked, replace(PLAN, epochs=50, patience=3))

    assert (found.epoch, found.epochs) == (best_at, best_at + 3)


def test_a_loss_that_is_no_number_is_refused_with_its_step() -> None:
    def lost(model: Line, x: Tensor) -> Tensor:
        return loss(model, x) * math.nan

    with pytest.raises(FitDiverged, match=r"step 0 of 60.*learning rate"):
        fit(Line(), draw, lost, score, PLAN)


def test_the_rate_rises_and_falls() -> None:
    rates = [share_of_rate(i / 100) for i in range(101)]

    assert max(rates) == rates[10] == 1
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-9)


def test_the_log_can_be_read_by_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing import event_accumulator

    fitted(folder=tmp_path)

    events = event_accumulator.EventAccumulator(str(tmp_path / "log"))
    events.Reload()
    assert {"loss", "score on val", "learning rate"} <= set(events.Tags()["scalars"])
    assert len(events.Scalars("loss")) == PLAN.epochs


TWO = """
import sys, torch
from pathlib import Path
from training.fitting.device import open_device
from training.fitting.loop import FitPlan, fit

torch.set_num_threads(1)
torch.manual_seed(0)
with open_device() as device:
    data = torch.tensor([[0.0], [1.0]])[device.rank : device.rank + 1]
    folder = Path(sys.argv[1])
    found = fit(
        torch.nn.Linear(1, 1, bias=False),
        lambda seed: (data,),
        lambda model, x: (model(x) - 2 * x).square().mean(),
        lambda model: (1.0 - abs(model.weight.item() - 2), ""),
        FitPlan(10, 20, 0.1, 0.0, seed=0, batch=2),
        device=device,
        folder=folder,
    )
    name = f"{device.rank} of {device.world}"
    (folder / name).write_text(str(found.model.weight.item()))
"""


def test_two_processes_fit_one_model(tmp_path: Path) -> None:
    """The first sees nothing but zeros: what it learns comes from the second."""
    script = tmp_path / "two.py"
    script.write_text(TWO)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", str(script), str(tmp_path)]
    root = str(Path(__file__).parents[3])

    subprocess.run(
        command,
        check=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
    )

    assert float((tmp_path / "0 of 2").read_text()) == pytest.approx(2, abs=0.1)
    assert (tmp_path / "1 of 2").exists()
    assert len(list((tmp_path / "log").iterdir())) == 1  # only the first writes
