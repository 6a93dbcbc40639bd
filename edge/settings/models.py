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
    """The engine that runs a model.

    `precision`: one that the bundle has; `threads`: of the CPU, per worker. The other
    settings are for TensorRT. `batch`: smallest, usual and largest number of cells in a
    call; `engines`: folder for built engines, in the bundle if absent; `has_graphs`:
    replay CUDA graphs; `is_mapped`: CPU and GPU share memory, if absent only where the
    GPU is integrated.
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
    """`mode`: find cells, or take the whole field as one region.

    `bundle`: the locator, the shipped one if absent.
    """

    mode: Literal["cells", "whole-field"] = "cells"
    bundle: Path | None = None


class SequenceSettings(EngineSettings, frozen=True):
    """A recurrent model that sees each followed cell, one step per frame.

    `bundle`: the model, the shipped one if absent. `memory_frames`: how many frames the
    state of a quiet cell remembers. Models are trained on clips of about this length. 0
    remembers everything, at half the cost.
    """

    bundle: Path | None = None
    memory_frames: Annotated[int, Meta(ge=0, le=100_000)] = 20
