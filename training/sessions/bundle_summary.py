"""What a bundle says about how it was made: data, command, software, size."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from edge.artifacts.bundle import ModelSize, TrainingSummary
from training.data.rows import Row, count, digest
from training.fitting.model_graphs import ClassifierGraph, SequenceGraph


def summary(
    rows: Sequence[Row], added: dict[str, int], seed: int, epochs: int, seconds: float
) -> TrainingSummary:
    """Summarise what a model was fitted to, and how."""
    return TrainingSummary(
        rows=len(rows),
        licences=count(row.licence for row in rows),
        domains=count(row.domain for row in rows),
        added=added,
        data_sha256=digest(rows),
        split_rule="by group: slide, sample or near-duplicate cluster",
        command=_command(),
        seed=seed,
        epochs=epochs,
        seconds=round(seconds, 1),
        software={
            "python": platform.python_version(),
            "torch": version("torch"),
            "numpy": np.__version__,
            "opencv": cv2.__version__,
        },
    )


def _command() -> str:
    """Return the command as it was typed, without the folders of this machine."""
    return " ".join(["hemascope", *(Path(word).name for word in sys.argv[1:])])


def measure_size(graph: ClassifierGraph, size_px: int) -> ModelSize:
    """Count the weights that the device uses, and the operations for one crop.

    The image is (1, S, S, 3) uint8. A weight counts if the logits depend on it.
    """
    image = torch.zeros(1, size_px, size_px, 3, dtype=torch.uint8)
    inputs = [image]
    if isinstance(graph, SequenceGraph):
        inputs.append(torch.zeros(1, graph.state_size))
    with FlopCounterMode(display=False) as counter:
        logits = graph.eval()(*inputs)[0]
    logits.sum().backward()  # auxiliary classifier and decoder get no gradient
    weights = sum(p.numel() for p in graph.parameters() if p.grad is not None)
    graph.zero_grad(set_to_none=True)
    return ModelSize(parameters=weights, operations=counter.get_total_flops())
