"""The fitting loop, the same for every family."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how fast. The learning rate rises and falls once (one cycle)."""

    epochs: int
    steps_per_epoch: int
    learning_rate: float
    weight_decay: float
    seed: int


@dataclass(frozen=True, eq=False)
class Fitted(Generic[Model]):
    """The averaged weights of the best epoch on `val`, and what it took."""

    model: Model
    score: float
    epoch: int
    epochs: int
    seconds: float


def fit(
    model: Model,
    loss: Callable[[Model, torch.Generator], Tensor],
    score: Callable[[Model], tuple[float, str]],
    plan: Plan,
) -> Fitted[Model]:
    """Fit `model` with AdamW and keep the best moving average of its weights.

    Parameters
    ----------
    model
        Changed in place; the result holds a copy.
    loss
        Draws a batch with the given source of chance and returns its loss.
    score
        Higher is better, with a line to show; computed on `val` after each epoch.
    plan
        Epochs, steps, rates, seed.
    """
    random = torch.Generator().manual_seed(plan.seed)
    optimiser = torch.optim.AdamW(
        model.parameters(), plan.learning_rate, weight_decay=plan.weight_decay
    )
    total = plan.epochs * plan.steps_per_epoch
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, plan.learning_rate, total_steps=total, pct_start=0.15
    )
    average = copy.deepcopy(model).eval()
    best = Fitted(average, -1.0, 0, 0, 0.0)
    start = time.monotonic()
    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    with Progress(*columns) as progress:
        bar = progress.add_task("fitting", total=total)
        for epoch in range(1, plan.epochs + 1):
            model.train()
            for step in range(plan.steps_per_epoch):
                optimiser.zero_grad(set_to_none=True)
                value = loss(model, random)
                value.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(model.parameters(), 5.0)
                optimiser.step()
                schedule.step()
                done = (epoch - 1) * plan.steps_per_epoch + step
                _follow(average, model, min(0.995, (done + 1) / (done + 10)))
                text = f"epoch {epoch}/{plan.epochs} loss {value.item():.3f}"
                progress.update(bar, advance=1, description=text)
            reached, line = score(average)
            progress.print(f"epoch {epoch:3d}  {line}")
            if reached > best.score:
                kept = copy.deepcopy(average)
                best = Fitted(kept, reached, epoch, plan.epochs, 0.0)
    seconds = time.monotonic() - start
    return Fitted(best.model, best.score, best.epoch, plan.epochs, seconds)


@torch.no_grad()
def _follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the averaged weights and statistics towards the present ones."""
    for old, new in zip(
        average.state_dict().values(), model.state_dict().values(), strict=True
    ):
        if old.dtype.is_floating_point:
            old.lerp_(new, 1 - decay)
        else:
            old.copy_(new)
