"""Where fitting stood when it was last written down (safetensors), to go on from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from edge.errors import HemascopeError

FILE = "checkpoint.safetensors"
_OPTIMISER, _STAND = "optimiser", "stand"


class CheckpointRefused(HemascopeError):
    """The checkpoint is damaged or belongs to another run."""


@dataclass(frozen=True, slots=True)
class FittingState:
    """How far fitting has come. `purpose` says what is fitted to what, and how."""

    purpose: str
    epoch: int = 0
    best_score: float = -1.0
    best_epoch: int = 0
    seconds: float = 0.0

    def is_over(self, patience: int | None) -> bool:
        """Whether the score has not grown for `patience` epochs; never if None."""
        return patience is not None and self.epoch - self.best_epoch >= patience


def save_stand(
    path: Path,
    models: Mapping[str, nn.Module],
    optimiser: torch.optim.Optimizer,
    stand: FittingState,
) -> None:
    """Write models, optimiser and stand; a kill leaves the old file or the new one."""
    tensors = {
        f"{part}.{name}": value.cpu().contiguous()
        for part, model in models.items()
        for name, value in model.state_dict().items()
    }
    for index, state in optimiser.state_dict()["state"].items():
        for name, value in state.items():
            kept = torch.as_tensor(value).cpu().contiguous()
            tensors[f"{_OPTIMISER}.{index}.{name}"] = kept
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    save_file(tensors, draft, metadata={_STAND: json.dumps(asdict(stand))})
    draft.replace(path)


def load_stand(
    path: Path,
    models: Mapping[str, nn.Module],
    optimiser: torch.optim.Optimizer,
    purpose: str,
) -> FittingState:
    """Put a checkpoint into models and optimiser and return where it stood.

    Raises
    ------
    CheckpointRefused
        The file cannot be read, or was written for another purpose.
    """
    try:
        with safe_open(path, framework="pt") as file:
            stand = FittingState(**json.loads((file.metadata() or {})[_STAND]))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointRefused(
            f"{path}: no checkpoint that can be read ({error}); delete it to start anew"
        ) from error
    if stand.purpose != purpose:
        raise CheckpointRefused(
            f"{path}: is of another run ({stand.purpose}), expected {purpose}; delete "
            "it or choose another folder"
        )
    for part, model in models.items():
        model.load_state_dict(_under(part, tensors))
    fresh = optimiser.state_dict()
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in _under(_OPTIMISER, tensors).items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    optimiser.load_state_dict({**fresh, "state": state})
    return stand


def _under(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = f"{part}."
    return {n.removeprefix(start): v for n, v in tensors.items() if n.startswith(start)}
