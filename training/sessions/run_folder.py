"""A training run on disk: what was fitted to what, and its weights (safetensors)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import nn

from edge.artifacts.bundle import (
    InputSpec,
    LocationSpec,
    Metric,
    ModelSize,
    TrainingSummary,
)
from edge.schema.codec import encode, read_json
from training.choices import LOCATOR
from training.fitting import checkpoint
from training.fitting.families import new_classifier
from training.fitting.locator import new_graph
from training.fitting.model_graphs import ClassifierGraph, LocatorGraph, Standardise

_UNSET = (0.0,) * 3  # the standardisation comes with the weights
_RECORD, _WEIGHTS, _HELD = "run.json", "weights.safetensors", "val.npz"


class RunRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`run.json`. `network` are the settings of the family's network."""

    family: str
    task: str
    classes: tuple[str, ...]
    network: dict[str, float | int | str]
    input: InputSpec
    location: LocationSpec | None
    size: ModelSize | None
    training: TrainingSummary
    metrics: dict[str, Metric]


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """Predictions on `val`: logits (N, K), true classes (N,), groups (N,)."""

    logits: NDArray[np.float32]
    classes: NDArray[np.int64]
    groups: NDArray[np.str_]


def save_run(
    folder: Path, record: RunRecord, graph: nn.Module, held: HeldOut | None
) -> None:
    """Write a run. `run.json` comes last: a folder without it is not finished."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(graph.state_dict(), folder / _WEIGHTS)
    if held is not None:
        np.savez_compressed(
            folder / _HELD,
            allow_pickle=False,
            logits=held.logits,
            classes=held.classes,
            groups=held.groups,
        )
    (folder / _RECORD).write_bytes(msgspec.json.format(encode(record)) + b"\n")
    (folder / checkpoint.FILE).unlink(missing_ok=True)  # no longer needed


def load_record(folder: Path) -> RunRecord:
    """Read `run.json`.

    Raises
    ------
    ConfigurationInvalid
        There is none, or it is not valid.
    """
    return read_json(folder / _RECORD, RunRecord)


def graph_of(record: RunRecord) -> ClassifierGraph | LocatorGraph:
    """Build the graph that a run fitted, without its weights."""
    if record.family == LOCATOR:
        return new_graph()
    return new_classifier(
        record.family, len(record.classes), record.network, Standardise(_UNSET, _UNSET)
    )


def load_weights(folder: Path, graph: nn.Module) -> None:
    """Put the weights of a run into a graph of the same build."""
    graph.load_state_dict(load_file(folder / _WEIGHTS))


def load_held(folder: Path) -> HeldOut | None:
    """Read the predictions on `val`; None for a run without."""
    path = folder / _HELD
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as arrays:
        return HeldOut(arrays["logits"], arrays["classes"], arrays["groups"])
