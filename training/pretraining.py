"""Fit a deep belief network without labels, one machine after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from rich.progress import track
from torch import Tensor

from training.models.dbn import DBN, RBM

_MOMENTUM = 0.9
_SPARSE_BIAS = -1.0  # of the hidden units: most of them silent


@dataclass(frozen=True, slots=True)
class PretrainPlan:
    """How long each machine is fitted, and how its chains run.

    `rates` are the learning rates of Gaussian and of binary machines; `gibbs_steps` is
    the k of CD-k; a persistent chain goes on where it ended.
    """

    steps: int
    batch: int
    rates: tuple[float, float]
    weight_decay: float
    gibbs_steps: int
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
    """
    for depth, machine in enumerate(network.stack):
        _fit_machine(
            machine,
            lambda depth=depth: network.units_above(  # type: ignore[misc]
                draw(plan.batch).flatten(1), depth
            ),
            plan,
            f"machine {depth + 1} of {len(network.machines)}",
        )


def _fit_machine(
    machine: RBM, draw: Callable[[], Tensor], plan: PretrainPlan, name: str
) -> None:
    is_gaussian = machine.units == "gaussian"
    rate = plan.rates[0] if is_gaussian else plan.rates[1]
    optimiser = torch.optim.SGD(
        machine.parameters(), rate, _MOMENTUM, weight_decay=plan.weight_decay
    )
    with torch.no_grad():
        seen = draw()
        machine.hidden_bias.fill_(_SPARSE_BIAS)
        if is_gaussian:
            machine.visible_bias.copy_(seen.mean(0))
    chain = seen
    for step in track(range(plan.steps), name):
        for group in optimiser.param_groups:
            group["lr"] = rate * (1 - step / plan.steps)
        with torch.no_grad():
            data = draw()
            if not is_gaussian:
                data = torch.bernoulli(data)
        start = chain if plan.is_persistent else data
        chain = machine.gibbs(start, plan.gibbs_steps)
        optimiser.zero_grad(set_to_none=True)
        machine.contrast(data, chain).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
