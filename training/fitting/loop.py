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
from training.fitting.checkpoint import (
    FittingState,
    load_checkpoint,
    save_checkpoint,
)
from training.fitting.device import SINGLE_CPU, TrainingDevice

Model = TypeVar("Model", bound=nn.Module)
Batch = tuple[Tensor, ...]
Positive = Annotated[int, Meta(ge=1)]
Optimiser = Literal["adamw", "adam", "rmsprop"]
Precision = Literal["float32", "bfloat16", "float16"]
OPTIMISERS: tuple[Optimiser, ...] = ("adamw", "adam", "rmsprop")
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "float16")
_WARM_UP = 0.1  # share of all steps in which the rate rises
_MAX_GRADIENT_NORM = 5.0
_MAX_DECAY = 0.995  # share of the moving average that a step keeps
_DECAY_START = 1, 10  # it keeps (1 + step) / (10 + step) while that is less


class FitDiverged(HemascopeError):
    """The loss became infinite or not a number."""


@dataclass(frozen=True, slots=True)
class FitPlan:
    """How long and how fast a model is fitted.

    The learning rate rises, then falls to zero along a cosine. `batch` counts images,
    those of all processes together; `weight_decay` is L2 for
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
    device: TrainingDevice = SINGLE_CPU,
    folder: Path | None = None,
    purpose: str = "",
) -> Fitted[Model]:
    """Fit `model` and keep the best moving average of its weights.

    The random numbers of a step depend on the plan's seed, the process and the step
    alone. So a run that was killed goes on as if nothing had happened.

    Parameters
    ----------
    model
        Changed in place; the result holds a copy, on the CPU.
    draw
        Draws a batch; gets a seed for random numbers that are not torch's.
    loss
        Of the model and the parts of a batch, which were moved to the device.
    score
        Higher is better, with a line to show; computed on `val` after each epoch.
    plan, device
        How long and how fast, and on which device of which process.
    folder
        Of the checkpoint and the TensorBoard log; None keeps neither.
    purpose
        What is fitted to what; a checkpoint of another purpose is refused.

    Raises
    ------
    FitDiverged, CheckpointRefused
        The loss is not finite; the checkpoint is damaged or of another run.
    """
    model.to(device.torch_device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(model).eval()
    copies = _Copies(model, average, copy.deepcopy(average))
    stepper = _Stepper(model, average, loss, plan, device)
    file = None if folder is None else folder / checkpoint.FILE
    state = _begin_or_resume(file, copies, stepper, f"{purpose} {plan}")
    start = time.monotonic() - state.seconds
    is_first = device.rank == 0
    with _bar(plan, state, is_first) as bar, _log(folder, is_first) as log:
        is_over = state.is_over(plan.patience)
        while state.epoch < plan.epochs and not is_over:
            value = _run_epoch(stepper, draw, state.epoch, bar)
            state = replace(state, epoch=state.epoch + 1)
            if is_first:
                state, reached = _keep_if_best(copies, score, state, bar)
                state = replace(state, seconds=time.monotonic() - start)
                _log_epoch(log, state.epoch, value, reached, stepper.rate)
                if file is not None:
                    save_checkpoint(file, copies.named(), stepper.optimiser, state)
            is_over = device.agree(state.is_over(plan.patience))
    return _result(copies.best, state)


@dataclass(frozen=True, eq=False)
class _Copies(Generic[Model]):
    """A model as it is fitted, the moving average of its weights, and the best one."""

    model: Model
    average: Model
    best: Model

    def named(self) -> dict[str, nn.Module]:
        """Return the copies by the names that a checkpoint gives them."""
        return {"model": self.model, "average": self.average, "best": self.best}


def _begin_or_resume(
    file: Path | None, copies: _Copies[Model], stepper: _Stepper, purpose: str
) -> FittingState:
    """Go on from a checkpoint where there is one."""
    if file is None or not file.exists():
        return FittingState(purpose)
    return load_checkpoint(file, copies.named(), stepper.optimiser, purpose)


def _run_epoch(
    stepper: _Stepper, draw: Callable[[int], Batch], epoch: int, bar: Progress
) -> float:
    """Do the steps of an epoch and return the loss of the last one."""
    plan = stepper.plan
    stepper.model.train()
    for step in range(plan.steps_per_epoch):
        value = stepper.step(draw, epoch * plan.steps_per_epoch + step)
        text = f"epoch {epoch + 1}/{plan.epochs} loss {value:.3f}"
        bar.update(bar.task_ids[0], advance=1, description=text)
    return value


def _keep_if_best(
    copies: _Copies[Model],
    score: Callable[[Model], tuple[float, str]],
    state: FittingState,
    bar: Progress,
) -> tuple[FittingState, float]:
    """Score the average on `val` and keep it if it is the best so far."""
    reached, line = score(copies.average)
    bar.print(f"epoch {state.epoch:3d}  {line}")
    if reached > state.best_score:
        copies.best.load_state_dict(copies.average.state_dict())
        state = replace(state, best_score=reached, best_epoch=state.epoch)
    return state, reached


def _log_epoch(
    log: Callable[[str, float, int], None],
    epoch: int,
    loss: float,
    score: float,
    rate: float,
) -> None:
    """Write the figures of an epoch to the TensorBoard log."""
    log("loss", loss, epoch)
    log("score on val", score, epoch)
    log("learning rate", rate, epoch)


def _result(best: Model, state: FittingState) -> Fitted[Model]:
    """Return the best model, on the CPU."""
    best.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return Fitted(best, state.best_score, state.best_epoch, state.epoch, state.seconds)


class _Stepper:
    """Does one step: batch, loss, gradient, new weights, new average."""

    def __init__(
        self,
        model: nn.Module,
        average: nn.Module,
        loss: Callable[..., Tensor],
        plan: FitPlan,
        device: TrainingDevice,
    ) -> None:
        self.model, self.average, self.plan, self.device = model, average, plan, device
        self.optimiser = _optimiser(model, plan)
        self.shared = device.share(_LossModule(model, loss))
        self.scaler = torch.amp.GradScaler(
            device.torch_device.type, enabled=plan.precision == "float16"
        )
        self.rate = 0.0

    def step(self, draw: Callable[[int], Batch], number: int) -> float:
        """Do step `number` and return its loss."""
        plan, device = self.plan, self.device
        seeds = np.random.SeedSequence((plan.seed, device.rank, number))
        seed = int(seeds.generate_state(1)[0])
        torch.manual_seed(seed)
        total = plan.epochs * plan.steps_per_epoch
        self.rate = plan.learning_rate * share_of_rate(number / total)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate
        self.optimiser.zero_grad(set_to_none=True)
        batch = device.put(draw(seed))
        is_mixed = plan.precision != "float32"
        with torch.autocast(
            device.torch_device.type, getattr(torch, plan.precision), enabled=is_mixed
        ):
            loss = self.shared(*batch)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimiser)
        nn.utils.clip_grad_norm_(self.model.parameters(), _MAX_GRADIENT_NORM)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        above, below = _DECAY_START
        decay = min(_MAX_DECAY, (number + above) / (number + below))
        _update_average(self.average, self.model, decay)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise FitDiverged(
                f"the loss is {value} at step {number} of {total}, expected a number; "
                f"lower the learning rate, {plan.learning_rate}"
            )
        return value


class _LossModule(nn.Module):
    """A model and its loss as one module: only a module can run in many processes."""

    def __init__(self, model: nn.Module, loss: Callable[..., Tensor]) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, *batch: Tensor) -> Tensor:
        return self.loss(self.model, *batch)


def share_of_rate(done: float) -> float:
    """Learning rate over its maximum, after a share `done` (0 to 1) of all steps."""
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
def _update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the averaged weights and statistics towards the present ones."""
    for old, new in zip(
        average.state_dict().values(), model.state_dict().values(), strict=True
    ):
        if old.dtype.is_floating_point:
            old.lerp_(new, 1 - decay)
        else:
            old.copy_(new)


@contextmanager
def _bar(plan: FitPlan, state: FittingState, is_first: bool) -> Iterator[Progress]:
    """Show how much is done and how long the rest will take."""
    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    with Progress(*columns, disable=not is_first) as progress:
        progress.add_task(
            "fitting",
            total=plan.epochs * plan.steps_per_epoch,
            completed=state.epoch * plan.steps_per_epoch,
        )
        if state.epoch:
            progress.print(f"going on after epoch {state.epoch}")
        yield progress


@contextmanager
def _log(
    folder: Path | None, is_first: bool
) -> Iterator[Callable[[str, float, int], None]]:
    """Yield a function that writes a figure to the TensorBoard log, or does nothing."""
    if folder is None or not is_first:
        yield lambda _name, _value, _epoch: None
        return
    writer = SummaryWriter(str(folder / "log"))
    try:
        yield writer.add_scalar
    finally:
        writer.close()
