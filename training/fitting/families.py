"""The model families: the one place where a family of classifiers is registered.

To add a family, write its network in `training/models/` and give it an entry in
`CLASSIFIERS`. A network is an `nn.Module`:

- It is built by `build(classes, **network)`. Its settings are keyword-only and have
  annotated types; the command line offers them by these names.
- `forward(x)` takes standardised images (N, 3, S, S) float32 and returns logits
  (N, classes). A recurrent network takes `forward(x, state)`, with a state (N, D) that
  is zero for a new cell, returns the next state too, and has `state_size`, the D.
- `loss(x, classes)` returns the loss of a batch; `classes` (N,) int64. A recurrent
  network is given clips (N, T, 3, S, S) and classes (N, T), -1 after a clip's end.
- `half_parts`, if it is there, names the submodules that may compute in float16.
"""

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

OTHER_COLOUR = "#56B4E9"  # in reports, of a family that chose none
Setting = float | int | str
_Context = Annotated[float, Meta(ge=1, le=STOCK_CONTEXT)]
_CROP: dict[str, Any] = {"size_px": int, "context": _Context}


class SettingUnknown(HemascopeError):
    """A family or a plan has no such setting, or does not take the value."""


@dataclass(frozen=True, slots=True)
class Family:
    """Everything that is known of one family of classifiers.

    `build(classes, **network)` makes the network. `network` are its settings, with
    `size_px`, the side of its crops, and `context`, what they show: the side of the
    window over the longer side of the cell's box. `plans` are the presets. `frames` is
    how many frames of a cell a recurrent model is shown in training. `pretrain` is how
    it learns before it sees labels. `view` and `jitter` say how far its crops are
    changed. For reports: `colour` is the colour of its lines, and `published` are the
    accuracy, precision and recall of its paper. `weights_url` is the file of weights
    that were fitted to ImageNet.
    """

    build: Callable[..., nn.Module]
    network: Mapping[str, Setting]
    plans: dict[str, FitPlan]
    frames: int = 1
    pretrain: PretrainPlan | None = None
    view: WindowJitter = BOXED
    jitter: Jitter = ELSEWHERE
    colour: str = OTHER_COLOUR
    published: tuple[float, float, float] | None = None
    weights_url: str | None = None

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


# Colours are those of Okabe and Ito: colour-blind people can tell them apart.
# `published` was measured on the data set of the paper, not on ours.
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
        colour="#0072B2",
        published=(0.917, 0.921, 0.915),
        weights_url="https://download.pytorch.org/models/vgg16_bn-6c64b313.pth",
    ),
    "inception": Family(
        build=Inception,
        network={"size_px": 80, "context": 2.0, "width": 0.25, "norm": "batch"},
        plans={
            "quick": FitPlan(40, 100, 3e-3, 1e-2, seed=0),
            "full": FitPlan(60, 150, 3e-3, 1e-2, seed=0, patience=20),
        },
        colour="#D55E00",
        published=(0.935, 0.942, 0.938),
        weights_url=(
            "https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth"
        ),
    ),
    "capsnet": Family(
        build=CapsNet,
        network={"size_px": 64, "context": 2.0, "width": 1.0, "norm": "batch"},
        plans={
            "quick": FitPlan(25, 100, 2e-3, 1e-5, seed=0, optimiser="adam"),
            "full": FitPlan(60, 150, 2e-3, 1e-5, seed=0, optimiser="adam", patience=20),
        },
        colour="#009E73",
        published=(0.894, 0.901, 0.887),
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
        # Fully connected units learn each position and colour separately, so the
        # crops are changed less.
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
        colour="#CC79A7",
        published=(0.876, 0.869, 0.872),
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
        colour="#E69F00",
        published=(0.852, 0.843, 0.839),
    ),
}

LOCATOR_PLANS = {
    "quick": FitPlan(16, 48, 4e-3, 1e-2, seed=0, batch=32),
    "full": FitPlan(100, 60, 4e-3, 1e-2, seed=0, batch=32),
}


def new_classifier(
    family: str,
    classes: int,
    network: Mapping[str, Setting],
    standardise: Standardise,
) -> ClassifierGraph:
    """Build an untrained graph of a family.

    Parameters
    ----------
    family
        One of `CLASSIFIERS`.
    classes
        How many logits.
    network
        Settings of the network; those that it does not take, such as `context`, are
        left out.
    standardise
        The step before the network.
    """
    kind = SequenceGraph if CLASSIFIERS[family].has_memory else ClassifierGraph
    build = CLASSIFIERS[family].build
    accepted = inspect.signature(build).parameters
    own = {name: value for name, value in network.items() if name in accepted}
    return kind(standardise, build(classes, **own))


def override_network(family: str, overrides: Sequence[str]) -> dict[str, Setting]:
    """Return the settings of a family's network, some replaced by `NAME=VALUE`.

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
    for override in overrides:
        name, _, value = override.partition("=")
        if name not in {*known, *_CROP}:
            raise SettingUnknown(
                f"{family} has no setting {name!r}, only {sorted({*known, *_CROP})}"
            )
        try:
            result[name] = msgspec.convert(value, types[name], strict=False)
        except msgspec.ValidationError as error:
            raise SettingUnknown(f"{family}: {name}={value!r}: {error}") from error
    return result


def override_plan(plan: FitPlan, overrides: Sequence[str]) -> FitPlan:
    """Return `plan`, some of its values replaced by `NAME=VALUE`.

    Raises
    ------
    SettingUnknown
        There is no such setting, or it does not take the value.
    """
    changes = {k: value for k, _, value in (o.partition("=") for o in overrides)}
    unknown = sorted(set(changes) - set(plan.__slots__))
    if unknown:
        raise SettingUnknown(f"a plan has no {unknown}, only {sorted(plan.__slots__)}")
    try:
        return msgspec.convert(
            {**msgspec.to_builtins(plan), **changes}, FitPlan, strict=False
        )
    except msgspec.ValidationError as error:
        raise SettingUnknown(f"plan {changes}: {error}") from error
