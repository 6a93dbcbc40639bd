"""The model families: what they are built from and how long they are fitted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from training.fit import Plan
from training.models.inception import Inception

LOCATOR = "locator"


@dataclass(frozen=True, slots=True)
class Family:
    """One family of classifiers.

    `build(classes, **network)` makes the network; `network` are its default settings;
    `size_px` is the side of its crops; `plans` are the presets.
    """

    build: Callable[..., nn.Module]
    network: dict[str, float]
    size_px: int
    plans: dict[str, Plan]


CLASSIFIERS = {
    "inception": Family(
        build=Inception,
        network={"width": 0.25},
        size_px=80,
        plans={
            "quick": Plan(12, 60, 3e-3, 1e-2, seed=0),
            "full": Plan(50, 100, 3e-3, 1e-2, seed=0),
        },
    ),
}

LOCATOR_PLANS = {
    "quick": Plan(16, 48, 4e-3, 1e-2, seed=0),
    "full": Plan(100, 60, 4e-3, 1e-2, seed=0),
}
PRESETS = ("quick", "full")
