"""The fitting loop, the same for every family."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Generic, Literal, TypeVar

import numpy as np
import torch
from msgspec import Meta
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from edge.errors import HemascopeError
from training.fitting import checkpoint
from training.fitting.checkpoint import FittingState, load_stand, save_stand
from training.fitting.device import ALONE, TrainingDevice

Model = TypeVar("Model", bound=nn.Module)
Batch = tuple[Tensor, ...]
Positive = Annotated[int, Meta(ge=1)]
Optimiser = Literal["adamw", "adam", "rmsprop"]
Precision = Literal["float32", "bfloat16", "float16"]
OPTIMISERS: tuple[Optimiser, ...] = ("adamw", "adam", "rmsprop")
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "float16")
_WARM_UP = 0.1  # share of all steps in which the rate rises
_LONGEST_GRADIENT = 5.0
_MOST_MEMORY = 0.995  # of the moving average of the weights, per step
_OLDER, _OLDEST = 1, 10  # the average follows faster while it is young


class FitDiverged(HemascopeError):
    """The loss is no number any more."""


@dataclass(frozen=True, slots=True)
class FitPlan:
    """How long and how fast. The rate rises, then falls to nothing along a cosine.

    `batch` counts images, those of all processes together; `weight_decay` is L2 for
    Adam and RMSprop, decoupled for AdamW; after `patience` epochs without a better
    score on `val` fitting stops.
    """

    epochs: Positive
    steps_per_epoch: Positive
    learning_rate: Annotated[float, Meta(gt=0)]
    weight_decay: Annotated[float, Meta(ge=0)]
    seed: int
    batch: Positive = 64
    optimiser: Optimiser = "adamw"
    precision: Precision = "float32"
    patience: Positive | None = None


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
    draw: Callable[[int], Batch],
    loss: Callable[..., Tensor],
    score: Callable[[Model], tuple[float, str]],
    plan: FitPlan,
    *,
    place: TrainingDevice = ALONE,
    folder: Path | None = None,
    purpose: str = "",
) -> Fitted[Model]:
    """Fit `model` and keep the best moving average of its weights.

    The chance of a step depends on seed, process and step alone, so a run that was
    killed goes on as if nothing had happened.

    Parameters
    ----------
    model
        Changed in place; the result holds a copy, on the CPU.
    draw
        Draws a batch; gets a seed for chance that is not torch's.
    loss
        Of the model and the parts of a batch, which were moved to the device.
    score
        Higher is better, with a line to show; computed on `val` after each epoch.
    plan
        Epochs, steps, rates, seed.
    place
        Device and fellow processes.
    folder
        Of the checkpoint and the TensorBoard log; None keeps neither.
    purpose
        What is fitted to what; a checkpoint of another purpose is refused.

    Raises
    ------
    FitDiverged
        The loss is not finite.
    CheckpointRefused
        The folder holds a checkpoint of another run.
    """
    model.to(place.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(model).eval()
    best = copy.deepcopy(average)
    parts = {"model": model, "average": average, "best": best}
    stepper = _Stepper(model, average, loss, plan, place)
    stand = FittingState(f"{purpose} {plan}")
    file = None if folder is None else folder / checkpoint.FILE
    if file is not None and file.exists():
        stand = load_stand(file, parts, stepper.optimiser, stand.purpose)
    start = time.monotonic() - stand.seconds
    is_first = place.rank == 0
    with _shown(plan, stand, is_first) as progress, _log(folder, is_first) as log:
        over = stand.is_over(plan.patience)
        while stand.epoch < plan.epochs and not over:
            model.train()
            for step in range(plan.steps_per_epoch):
                value = stepper.step(draw, stand.epoch * plan.steps_per_epoch + step)
                text = f"epoch {stand.epoch + 1}/{plan.epochs} loss {value:.3f}"
                progress.update(progress.task_ids[0], advance=1, description=text)
            stand = replace(stand, epoch=stand.epoch + 1)
            if is_first:
                reached, line = score(average)
                progress.print(f"epoch {stand.epoch:3d}  {line}")
                if reached > stand.best_score:
                    best.load_state_dict(average.state_dict())
                    stand = replace(stand, best_score=reached, best_epoch=stand.epoch)
                stand = replace(stand, seconds=time.monotonic() - start)
                log("loss", value, stand.epoch)
                log("score on val", reached, stand.epoch)
                log("learning rate", stepper.rate, stand.epoch)
                if file is not None:
                    save_stand(file, parts, stepper.optimiser, stand)
            over = place.agree(stand.is_over(plan.patience))
    best.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return Fitted(best, stand.best_score, stand.best_epoch, stand.epoch, stand.seconds)


class _Stepper:
    """One step after the other: draw, loss, gradient, rate, average."""

    def __init__(
        self,
        model: nn.Module,
        average: nn.Module,
        loss: Callable[..., Tensor],
        plan: FitPlan,
        place: TrainingDevice,
    ) -> None:
        self.model, self.average, self.plan, self.place = model, average, plan, place
        self.optimiser = _optimiser(model, plan)
        self.shared = place.share(_Loss(model, loss))
        self.scaler = torch.amp.GradScaler(
            place.device.type, enabled=plan.precision == "float16"
        )
        self.rate = 0.0

    def step(self, draw: Callable[[int], Batch], number: int) -> float:
        """Do step `number` and return its loss."""
        plan, place = self.plan, self.place
        seeds = np.random.SeedSequence((plan.seed, place.rank, number))
        chance = int(seeds.generate_state(1)[0])
        torch.manual_seed(chance)
        total = plan.epochs * plan.steps_per_epoch
        self.rate = plan.learning_rate * share_of_rate(number / total)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate
        self.optimiser.zero_grad(set_to_none=True)
        batch = place.put(draw(chance))
        is_mixed = plan.precision != "float32"
        with torch.autocast(
            place.device.type, getattr(torch, plan.precision), enabled=is_mixed
        ):
            value = self.shared(*batch)
        self.scaler.scale(value).backward()
        self.scaler.unscale_(self.optimiser)
        nn.utils.clip_grad_norm_(self.model.parameters(), _LONGEST_GRADIENT)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        memory = min(_MOST_MEMORY, (number + _OLDER) / (number + _OLDEST))
        _follow(self.average, self.model, memory)
        told = float(value.detach())
        if not math.isfinite(told):
            raise FitDiverged(
                f"the loss is {told} at step {number} of {total}, expected a number; "
                f"lower the learning rate, {plan.learning_rate}"
            )
        return told


class _Loss(nn.Module):
    """A model and its loss as one module, which is what can be shared out."""

    def __init__(self, model: nn.Module, loss: Callable[..., Tensor]) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, *batch: Tensor) -> Tensor:
        return self.loss(self.model, *batch)


def share_of_rate(done: float) -> float:
    """Share of the greatest learning rate after a share `done` of all steps."""
    if done < _WARM_UP:
        return (done + 1e-3) / (_WARM_UP + 1e-3)
    return 0.5 + 0.5 * math.cos(math.pi * (done - _WARM_UP) / (1 - _WARM_UP))


def _optimiser(model: nn.Module, plan: FitPlan) -> torch.optim.Optimizer:
    kinds = {
        "adamw": torch.optim.AdamW,
        "adam": torch.optim.Adam,
        "rmsprop": torch.optim.RMSprop,
    }
    optimiser: torch.optim.Optimizer = kinds[plan.optimiser](
        model.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay
    )
    return optimiser


@torch.no_grad()
def _follow(average: nn.Module, model: nn.Module, memory: float) -> None:
    """Move the averaged weights and statistics towards the present ones."""
    for old, new in zip(
        average.state_dict().values(), model.state_dict().values(), strict=True
    ):
        if old.dtype.is_floating_point:
            old.lerp_(new, 1 - memory)
        else:
            old.copy_(new)


@contextmanager
def _shown(plan: FitPlan, stand: FittingState, is_first: bool) -> Iterator[Progress]:
    """Show how much is done and how long the rest will take."""
    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    with Progress(*columns, disable=not is_first) as progress:
        progress.add_task(
            "fitting",
            total=plan.epochs * plan.steps_per_epoch,
            completed=stand.epoch * plan.steps_per_epoch,
        )
        if stand.epoch:
            progress.print(f"going on after epoch {stand.epoch}")
        yield progress


@contextmanager
def _log(
    folder: Path | None, is_first: bool
) -> Iterator[Callable[[str, float, int], None]]:
    """Yield what writes a figure to the TensorBoard log, or does nothing."""
    if folder is None or not is_first:
        yield lambda _name, _value, _epoch: None
        return
    writer = SummaryWriter(str(folder / "log"))
    try:
        yield writer.add_scalar
    finally:
        writer.close()
