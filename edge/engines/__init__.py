"""Engines run a model graph. Only they know the runtime beneath."""

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
    """A model graph ready to run. Created, used and closed in one thread."""

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

    One row per cell. `infer` with a state leaves the next one as the kept one.
    """

    def step(self, batch: NDArray[np.uint8]) -> Outputs:
        """Run one step from the kept state, and keep the next; `next_state` is None.

        Raises
        ------
        EngineFailed
            No state is kept, or that of another number of cells.
        """

    def reset(self, cells: int) -> None:
        """Keep the state, all zeros, of `cells` cells that were never seen."""

    def put(self, state: NDArray[np.float32]) -> None:
        """Keep this state, (N, D) float32."""

    def peek(self) -> NDArray[np.float32]:
        """Return a copy of the kept state, (N, D) float32."""
