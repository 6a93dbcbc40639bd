"""Fit a deep belief network without labels, one machine after the other, from below."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from rich.progress import track
from torch import Tensor

from training.fitting.loop import FitDiverged
from training.models.dbn import DBN, RBM

_MOMENTUM = 0.9
_SPARSE_BIAS = -1.0  # of the hidden units, so that most of them are off at first


@dataclass(frozen=True, slots=True)
class PretrainPlan:
    """How long each machine is fitted, and how its chains run.

    `rates` and `gibbs_steps`, the k of CD-k, are given for Gaussian and for binary
    machines. A persistent chain goes on where the last step ended. Only binary machines
    have one: the chain of a Gaussian machine diverged.
    """

    steps: int
    batch: int
    rates: tuple[float, float]
    weight_decay: float
    gibbs_steps: tuple[int, int]
    is_persistent: bool


def pretrain(network: DBN, draw: Callable[[int], Tensor], plan: PretrainPlan) -> None:
    """Fit the machines of `network` greedily, from below, in place.

    Parameters
    ----------
    network
        The stack.
    draw
        Draws so many standardised crops, (N, 3, S, S) float32.
    plan
        How long.

    Raises
    ------
    FitDiverged
        The loss of a machine is not finite.
    """

    def draw_units(depth: int) -> Tensor:
        return network.units_above(draw(plan.batch).flatten(1), depth)

    for depth, machine in enumerate(network.stack):
        name = f"machine {depth + 1} of {len(network.machines)}"
        _fit_machine(machine, partial(draw_units, depth), plan, name)


def _fit_machine(
    machine: RBM, draw: Callable[[], Tensor], plan: PretrainPlan, name: str
) -> None:
    """Fit one machine; `draw` returns its visible units (N, visible) float32."""
    is_gaussian = machine.units == "gaussian"
    rate, gibbs_steps = plan.rates[not is_gaussian], plan.gibbs_steps[not is_gaussian]
    optimiser = torch.optim.SGD(
        machine.parameters(), rate, _MOMENTUM, weight_decay=plan.weight_decay
    )
    with torch.no_grad():
        first = draw()
        machine.hidden_bias.fill_(_SPARSE_BIAS)
        if is_gaussian:
            machine.visible_bias.copy_(first.mean(0))
    chain = first
    for step in track(range(plan.steps), name):
        for group in optimiser.param_groups:
            group["lr"] = rate * (1 - step / plan.steps)
        with torch.no_grad():
            data = draw()
            if not is_gaussian:
                data = torch.bernoulli(data)
        goes_on = plan.is_persistent and not is_gaussian
        chain = machine.gibbs(chain if goes_on else data, gibbs_steps)
        optimiser.zero_grad(set_to_none=True)
        contrast = machine.contrast(data, chain)
        if not contrast.isfinite():
            raise FitDiverged(
                f"{name}: the contrast is {contrast.item()} at step {step}, expected a "
                f"number; lower the learning rate, {rate}"
            )
        contrast.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
