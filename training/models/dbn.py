"""A deep belief network: restricted Boltzmann machines, one on top of the other.

Hinton, Osindero and Teh, "A Fast Learning Algorithm for Deep Belief Nets", Neural
Computation 18 (2006). Each machine learns, without labels, the distribution of the
units below it. The stack is then fitted to labels like any network. Run downwards, it
generates cells. Recipes: Hinton, "A Practical Guide to Training Restricted Boltzmann
Machines" (2010); persistent chains: Tieleman, ICML 2008.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.models.layers import cross_entropy, scaled

_HIDDEN = (1024, 512)

Units = Literal["bernoulli", "gaussian"]


class RBM(nn.Module):
    """One restricted Boltzmann machine with binary hidden units.

    Parameters
    ----------
    visible, hidden
        How many units.
    units
        The visible units: "bernoulli", 0 to 1; or "gaussian" of unit variance, for
        standardised pixels.
    """

    def __init__(self, visible: int, hidden: int, units: Units) -> None:
        super().__init__()
        self.units = units
        self.weight = nn.Parameter(0.01 * torch.randn(hidden, visible))
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))
        self.visible_bias = nn.Parameter(torch.zeros(visible))

    def up(self, visible: Tensor) -> Tensor:
        """Probability (N, hidden) that each hidden unit is on, given (N, visible)."""
        return torch.sigmoid(functional.linear(visible, self.weight, self.hidden_bias))

    def down(self, hidden: Tensor) -> Tensor:
        """Mean (N, visible) of the visible units, given (N, hidden)."""
        field = functional.linear(hidden, self.weight.T, self.visible_bias)
        return field if self.units == "gaussian" else torch.sigmoid(field)

    def sample_visible(self, hidden: Tensor) -> Tensor:
        """Draw visible units (N, visible), given (N, hidden)."""
        mean = self.down(hidden)
        if self.units == "gaussian":
            return mean + torch.randn_like(mean)
        return torch.bernoulli(mean)

    def free_energy(self, visible: Tensor) -> Tensor:
        """Return -ln of the unnormalised probability of (N, visible) units.

        The hidden units are summed out.

        bernoulli: -b'v - sum softplus(Wv + c); gaussian: |v - b|^2 / 2 - the same sum.
        """
        field = functional.linear(visible, self.weight, self.hidden_bias)
        if self.units == "gaussian":
            own = (visible - self.visible_bias).square().sum(1) / 2
        else:
            own = -(visible @ self.visible_bias)
        return own - functional.softplus(field).sum(1)

    @torch.no_grad()
    def gibbs(self, visible: Tensor, steps: int) -> Tensor:
        """Go `steps` times up and down and return the visible units (N, visible).

        For Gaussian units the last means are returned in place of a sample, whose noise
        carries no information.
        """
        for _ in range(steps):
            hidden = torch.bernoulli(self.up(visible))
            visible = self.sample_visible(hidden)
        return self.down(hidden) if self.units == "gaussian" else visible

    def contrast(self, data: Tensor, chain: Tensor) -> Tensor:
        """Loss whose gradient is that of contrastive divergence.

        Parameters
        ----------
        data
            (N, visible) the visible units of the data.
        chain
            (M, visible) where `gibbs` led from the data (CD-k) or from the last chain
            (persistent).
        """
        return self.free_energy(data).mean() - self.free_energy(chain).mean()


class DBN(nn.Module):
    """A stack of machines under one layer of logits.

    Parameters
    ----------
    classes
        How many logits.
    size_px
        Side of the input.
    width
        Share of the hidden units.
    dropout
        Share of each hidden layer that is set to zero while fitting to labels.
    """

    def __init__(
        self,
        classes: int,
        *,
        size_px: int = 32,
        width: float = 1.0,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.size_px = size_px
        sizes = [3 * size_px**2, *(scaled(h, width) for h in _HIDDEN)]
        self.machines = nn.ModuleList(
            RBM(below, above, "bernoulli" if depth else "gaussian")
            for depth, (below, above) in enumerate(pairwise(sizes))
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(sizes[-1], classes)

    @property
    def stack(self) -> list[RBM]:
        """The machines, from below."""
        return [cast(RBM, machine) for machine in self.machines]

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, S, S) standardised -> logits (N, classes).

        A cell may lie in any direction, so the mean over the four quarter turns and
        their mirror images is taken.
        """
        views = [v for turned in _turns(x) for v in (turned, turned.flip(3))]
        return torch.stack([self._one_view(v) for v in views]).mean(0)

    def _one_view(self, x: Tensor) -> Tensor:
        """(N, 3, S, S) standardised -> logits (N, classes), without turning."""
        units = self.units_above(x.flatten(1), len(self.machines), self.dropout)
        logits: Tensor = self.head(units)
        return logits

    def units_above(
        self, units: Tensor, depth: int, between: nn.Module | None = None
    ) -> Tensor:
        """(N, 3 S S) standardised -> the units above the lowest `depth` machines.

        `between` is applied after each machine.
        """
        for machine in self.stack[:depth]:
            units = machine.up(units)
            units = units if between is None else between(units)
        return units

    def loss(self, x: Tensor, classes: Tensor) -> Tensor:
        """Cross entropy of (N, 3, S, S) with its classes (N,)."""
        return cross_entropy(self._one_view(x), classes)

    @torch.no_grad()
    def draw(self, start: Tensor, steps: int) -> Tensor:
        """Generate cells: Gibbs sampling in the uppermost machine, then down.

        Parameters
        ----------
        start
            (N, 3, S, S) standardised images or noise where the chains begin.
        steps
            Steps of Gibbs sampling; after many the start no longer matters.

        Returns
        -------
        Tensor
            (N, 3, S, S) standardised.
        """
        *lower, top = self.stack
        units = self.units_above(start.flatten(1), len(lower))
        units = top.gibbs(torch.bernoulli(units) if lower else units, steps)
        units = top.down(torch.bernoulli(top.up(units)))  # the means, without noise
        for machine in reversed(lower):
            units = machine.down(units)
        return units.reshape(-1, 3, self.size_px, self.size_px)


def _turns(x: Tensor) -> tuple[Tensor, ...]:
    """Turn (N, C, S, S) by quarters, by transposing and flipping alone."""
    turned = x.transpose(2, 3)
    return x, turned.flip(2), x.flip(2).flip(3), turned.flip(3)
