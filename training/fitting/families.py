"""The model families: what they are built from and how long they are fitted."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

import msgspec
from msgspec import Meta
from torch import nn

from edge.errors import HemascopeError
from training.fitting.augmentation import (
    BOXED,
    ELSEWHERE,
    STOCK_CONTEXT,
    Jitter,
    WindowJitter,
)
from training.fitting.dbn_pretraining import PretrainPlan
from training.fitting.loop import FitPlan
from training.fitting.model_graphs import ClassifierGraph, SequenceGraph, Standardise
from training.models.capsnet import CapsNet
from training.models.dbn import DBN
from training.models.inception import Inception
from training.models.rnn import RecurrentCNN
from training.models.vgg16 import VGG16

LOCATOR = "locator"
Setting = float | int | str
_Context = Annotated[float, Meta(ge=1, le=STOCK_CONTEXT)]
_CROP: dict[str, Any] = {"size_px": int, "context": _Context}


class SettingUnknown(HemascopeError):
    """A family or a plan has no such setting, or does not take the value."""


@dataclass(frozen=True, slots=True)
class Family:
    """One family of classifiers.

    `build(classes, **network)` makes the network; `network` are its settings, with
    `size_px`, the side of its crops, and `context`, what they show: the side of the
    window over the longer side of the cell's box; `plans` are the presets; `frames` is
    how many a model with a memory is shown in training; `pretrain` comes before labels;
    `view` and `jitter` are how far its crops are changed.
    """

    build: Callable[..., nn.Module]
    network: Mapping[str, Setting]
    plans: dict[str, FitPlan]
    frames: int = 1
    pretrain: PretrainPlan | None = None
    view: WindowJitter = BOXED
    jitter: Jitter = ELSEWHERE

    @property
    def size_px(self) -> int:
        """Side of the crops."""
        return int(self.network["size_px"])

    @property
    def context(self) -> float:
        """Side of what a crop shows over the longer side of the cell's box."""
        return float(self.network["context"])

    @property
    def has_memory(self) -> bool:
        """Whether the model carries a state from frame to frame."""
        return self.frames > 1


CLASSIFIERS = {
    "vgg16": Family(
        build=VGG16,
        network={
            "size_px": 64,
            "context": 2.0,
            "width": 0.25,
            "norm": "batch",
            "head": "pooled",
        },
        plans={
            "quick": FitPlan(25, 100, 3e-3, 2e-2, seed=0),
            "full": FitPlan(60, 150, 3e-3, 2e-2, seed=0, patience=20),
        },
    ),
    "inception": Family(
        build=Inception,
        network={"size_px": 80, "context": 2.0, "width": 0.25, "norm": "batch"},
        plans={
            "quick": FitPlan(40, 100, 3e-3, 1e-2, seed=0),
            "full": FitPlan(60, 150, 3e-3, 1e-2, seed=0, patience=20),
        },
    ),
    "capsnet": Family(
        build=CapsNet,
        network={"size_px": 64, "context": 2.0, "width": 1.0, "norm": "batch"},
        plans={
            "quick": FitPlan(25, 100, 2e-3, 1e-5, seed=0, optimiser="adam"),
            "full": FitPlan(60, 150, 2e-3, 1e-5, seed=0, optimiser="adam", patience=20),
        },
    ),
    "dbn": Family(
        build=DBN,
        network={"size_px": 32, "context": 1.25, "width": 1.0, "dropout": 0.0},
        plans={
            "quick": FitPlan(20, 200, 3e-3, 1e-3, seed=0, batch=128),
            "full": FitPlan(60, 300, 3e-3, 1e-3, seed=0, batch=128, patience=20),
        },
        pretrain=PretrainPlan(
            steps=1000,
            batch=128,
            rates=(1e-3, 2e-2),
            weight_decay=2e-4,
            gibbs_steps=(1, 1),
            is_persistent=False,
        ),
        # Fully connected units learn every place and colour anew: less is shown.
        view=WindowJitter(1.1 / STOCK_CONTEXT, 1.4 / STOCK_CONTEXT, 0.03),
        jitter=Jitter(
            mix=0.06,
            strength=0.14,
            lamp=0.06,
            level=0.05,
            cast=0.06,
            blur_px=0.6,
            noise=4.0,
        ),
    ),
    "rnn": Family(
        build=RecurrentCNN,
        network={
            "size_px": 48,
            "context": 2.0,
            "width": 0.5,
            "norm": "batch",
            "cell": "gru",
        },
        plans={
            "quick": FitPlan(25, 80, 3e-3, 1e-2, seed=0, batch=96),
            "full": FitPlan(60, 150, 3e-3, 1e-2, seed=0, batch=96, patience=20),
        },
        frames=3,
    ),
}

LOCATOR_PLANS = {
    "quick": FitPlan(16, 48, 4e-3, 1e-2, seed=0, batch=32),
    "full": FitPlan(100, 60, 4e-3, 1e-2, seed=0, batch=32),
}
PRESETS = ("quick", "full")


def new_classifier(
    family: str,
    classes: int,
    network: Mapping[str, Setting],
    standardise: Standardise,
) -> ClassifierGraph:
    """Build an untrained graph of a family with these settings of its network."""
    kind = SequenceGraph if CLASSIFIERS[family].has_memory else ClassifierGraph
    build = CLASSIFIERS[family].build
    taken = inspect.signature(build).parameters
    own = {name: value for name, value in network.items() if name in taken}
    return kind(standardise, build(classes, **own))


def changed(family: str, wishes: Sequence[str]) -> dict[str, Setting]:
    """Return the settings of a family's network with `NAME=VALUE` wishes applied.

    Raises
    ------
    SettingUnknown
        There is no such setting, or it does not take the value.
    """
    kind = CLASSIFIERS[family]
    types = {**_CROP, **get_type_hints(kind.build.__init__)}
    known = [
        name
        for name, parameter in inspect.signature(kind.build).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    result = dict(kind.network)
    for wish in wishes:
        name, _, value = wish.partition("=")
        if name not in {*known, *_CROP}:
            raise SettingUnknown(
                f"{family} has no setting {name!r}, only {sorted({*known, *_CROP})}"
            )
        try:
            result[name] = msgspec.convert(value, types[name], strict=False)
        except msgspec.ValidationError as error:
            raise SettingUnknown(f"{family}: {name}={value!r}: {error}") from error
    return result


def plan_changed(plan: FitPlan, wishes: Sequence[str]) -> FitPlan:
    """Return `plan` with `NAME=VALUE` wishes applied.

    Raises
    ------
    SettingUnknown
        There is no such setting, or it does not take the value.
    """
    told = {name: value for name, _, value in (w.partition("=") for w in wishes)}
    unknown = sorted(set(told) - set(plan.__slots__))
    if unknown:
        raise SettingUnknown(f"a plan has no {unknown}, only {sorted(plan.__slots__)}")
    try:
        return msgspec.convert(
            {**msgspec.to_builtins(plan), **told}, FitPlan, strict=False
        )
    except msgspec.ValidationError as error:
        raise SettingUnknown(f"plan {told}: {error}") from error
