"""Engines run a model graph. Only they know the runtime beneath.

A new engine is a class with the members of `Engine`, and for models that remember those
of `RecurrentEngine`. It takes crops as they are, uint8; the graph itself standardises
and normalises them. It checks every call and every output (`shape_checks` does both),
since a wrong number must never leave a device without an error.

Terms
-----
batch
    Crops of one call, (N, H, W, 3) uint8 RGB; of a locator, frames.
logits
    The output of a classifier before softmax, (N, classes) float32.
state
    What a recurrent model remembers of N cells, (N, D) float32. A model is recurrent if
    its graph takes `state` and gives `next_state`.

Examples
--------
The shipped classifier on one crop of plain background, through the engine that every
machine has:

>>> import numpy as np
>>> from edge.artifacts.bundle import CLASSIFIER, crop_size, load_bundle
>>> from edge.engines.onnxruntime import OnnxRuntimeEngine
>>> bundle = load_bundle(CLASSIFIER)
>>> engine = OnnxRuntimeEngine(bundle.model)
>>> size_px = crop_size(bundle)
>>> batch = np.full((1, size_px, size_px, 3), 230, np.uint8)
>>> outputs = engine.infer(batch)
>>> logits = outputs.tensors["logits"]
>>> logits.shape == (1, len(bundle.labels)), logits.dtype
(True, dtype('float32'))
>>> outputs.next_state is None  # it is not recurrent
True

What does not fit is refused, with what was given and what the graph takes:

>>> engine.infer(batch.astype(np.float32))
Traceback (most recent call last):
edge.engines.EngineFailed: batch is float32 (1, 80, 80, 3), the graph takes ...
>>> engine.close()
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge.errors import HemascopeError

BATCH, STATE, NEXT_STATE = "image", "state", "next_state"  # what graphs call them


class EngineFailed(HemascopeError):
    """The runtime refused the graph or the batch, or returned what cannot be true."""


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """The named output tensors of one call, each with the batch as its first axis.

    `next_state` (N, D) float32 is that of a recurrent model, None otherwise.
    """

    tensors: Mapping[str, NDArray[np.float32]]
    next_state: NDArray[np.float32] | None = None


class Engine(Protocol):
    """A model graph ready to run. Created, used and closed in one thread.

    The same batch gives the same outputs on every engine, up to rounding: the golden
    input of the bundle is compared before an engine is used (`opening.self_test`).
    """

    def infer(
        self, batch: NDArray[np.uint8], state: NDArray[np.float32] | None = None
    ) -> Outputs:
        """Run the graph.

        Parameters
        ----------
        batch
            (N, H, W, 3) uint8 RGB, colour-corrected; N may be 0.
        state
            (N, D) float32 for a recurrent model.

        Raises
        ------
        EngineFailed
            The shape or type is not what the graph takes, or an output is not finite.
        """

    def close(self) -> None:
        """Release the runtime. Safe to call twice."""


class RecurrentEngine(Engine, Protocol):
    """An engine that keeps the state of a recurrent model where it computes.

    The kept state has one row per cell. `infer` with a state keeps the next state.
    """

    def step(self, batch: NDArray[np.uint8]) -> Outputs:
        """Run one step from the kept state, and keep the next; `next_state` is None.

        Raises
        ------
        EngineFailed
            No state is kept, or that of another number of cells.
        """

    def reset(self, cells: int) -> None:
        """Keep the state of `cells` cells that were never seen: all zeros."""

    def put(self, state: NDArray[np.float32]) -> None:
        """Keep this state, (N, D) float32."""

    def peek(self) -> NDArray[np.float32]:
        """Return a copy of the kept state, (N, D) float32."""
