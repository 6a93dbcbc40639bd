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
