"""Checkpoints: how far fitting has come, written to disk, so that it can go on."""

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
_OPTIMISER, _STATE = "optimiser", "stand"  # names inside the file


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


def save_checkpoint(
    path: Path,
    models: Mapping[str, nn.Module],
    optimiser: torch.optim.Optimizer,
    state: FittingState,
) -> None:
    """Write models, optimiser and state as safetensors.

    A process that is killed meanwhile leaves the old file or the new one, whole.
    """
    tensors = {
        f"{part}.{name}": value.cpu().contiguous()
        for part, model in models.items()
        for name, value in model.state_dict().items()
    }
    for index, own in optimiser.state_dict()["state"].items():
        for name, value in own.items():
            kept = torch.as_tensor(value).cpu().contiguous()
            tensors[f"{_OPTIMISER}.{index}.{name}"] = kept
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    save_file(tensors, draft, metadata={_STATE: json.dumps(asdict(state))})
    draft.replace(path)


def load_checkpoint(
    path: Path,
    models: Mapping[str, nn.Module],
    optimiser: torch.optim.Optimizer,
    purpose: str,
) -> FittingState:
    """Put a checkpoint into models and optimiser, and return how far it had come.

    Raises
    ------
    CheckpointRefused
        The file cannot be read, or was written for another purpose.
    """
    try:
        with safe_open(path, framework="pt") as file:
            state = FittingState(**json.loads((file.metadata() or {})[_STATE]))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointRefused(
            f"{path}: is no checkpoint that can be read ({error}); "
            "delete it to start anew"
        ) from error
    if state.purpose != purpose:
        raise CheckpointRefused(
            f"{path}: belongs to another run ({state.purpose}), expected {purpose}; "
            "delete it or choose another folder"
        )
    for part, model in models.items():
        model.load_state_dict(_under(part, tensors))
    fresh = optimiser.state_dict()
    parameters: dict[int, dict[str, Tensor]] = {}
    for name, value in _under(_OPTIMISER, tensors).items():
        index, key = name.split(".", 1)
        parameters.setdefault(int(index), {})[key] = value
    optimiser.load_state_dict({**fresh, "state": parameters})
    return state


def _under(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of one part, by their names inside it."""
    start = f"{part}."
    return {n.removeprefix(start): v for n, v in tensors.items() if n.startswith(start)}
