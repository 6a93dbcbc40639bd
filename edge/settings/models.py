"""Settings of models and of the engines that run them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from edge.settings.values import (
    StrictSettings,
)

EngineKind = Literal["onnxruntime", "tensorrt"]
Precision = Literal["fp32", "fp16", "int8"]
Lowered = Literal["fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
Rows = Annotated[int, Meta(ge=1, le=4096)]


class EngineSettings(StrictSettings, frozen=True):
    """What runs the models.

    `precision`: one that the bundle has; `threads` per worker, on the CPU. The others
    are for TensorRT. `batch`: least, usual and most cells of a call; `engines`: folder
    of what is built, the bundle's own if absent; `has_graphs`: replay CUDA graphs;
    `is_mapped`: share memory between CPU and GPU, on integrated ones if absent.
    """

    engine: EngineKind = "onnxruntime"
    precision: Precision = "fp32"
    threads: Annotated[int, Meta(ge=1, le=64)] = 1
    batch: tuple[Rows, Rows, Rows] = (1, 32, 128)
    engines: Path | None = None
    has_graphs: bool = True
    is_mapped: bool | None = None

    def __post_init__(self) -> None:
        if list(self.batch) != sorted(self.batch):
            raise ValueError(
                f"batch is {self.batch}, expected least, usual and most in this order"
            )


ON_CPU = EngineSettings()


class ModelSettings(EngineSettings, frozen=True):
    """`bundle`: the classifier, the shipped one if absent."""

    bundle: Path | None = None


class LocationSettings(StrictSettings, frozen=True):
    """`mode`: find cells, or take the whole field as one region."""

    mode: Literal["cells", "whole-field"] = "cells"
    bundle: Path | None = None


class SequenceSettings(EngineSettings, frozen=True):
    """A recurrent model sees each followed cell, one step per frame.

    `bundle`: the model, the shipped one if absent. `memory_frames`: how far the memory
    of a cell goes back while nothing happens to it, as models are trained on clips that
    are no longer; 0 is for ever, at half the cost.
    """

    bundle: Path | None = None
    memory_frames: Annotated[int, Meta(ge=0, le=100_000)] = 20
