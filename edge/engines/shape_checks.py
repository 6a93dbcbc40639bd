"""What every engine checks of a call, and what it returns for an empty batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edge.engines import BATCH, NEXT_STATE, STATE, EngineFailed, Outputs

Shape = Sequence[int | str | None]  # anything but a number varies


def check_inputs(inputs: Mapping[str, Shape]) -> None:
    """Refuse a graph with other inputs than crops, and a state if it is recurrent.

    Raises
    ------
    EngineFailed
        The graph's inputs have other names.
    """
    if BATCH not in inputs or set(inputs) - {BATCH, STATE}:
        raise EngineFailed(
            f"the model's inputs are {sorted(inputs)}, expected {BATCH!r}, and "
            f"{STATE!r} of a recurrent one; export it again"
        )


def check_call(
    inputs: Mapping[str, Shape],
    batch: NDArray[np.uint8],
    state: NDArray[np.float32] | None,
) -> None:
    """Refuse a call that does not fit the graph.

    Raises
    ------
    EngineFailed
        A type or a shape differs, or a state is missing or not expected.
    """
    wanted = tuple(inputs[BATCH])
    fits = batch.ndim == len(wanted) and all(
        not isinstance(want, int) or want == have
        for want, have in zip(wanted, batch.shape, strict=True)
    )
    if batch.dtype != np.uint8 or not fits:
        raise EngineFailed(
            f"batch is {batch.dtype} {batch.shape}, the graph takes uint8 {wanted}"
        )
    if (state is None) == (STATE in inputs):
        raise EngineFailed(
            f"the graph {'takes' if state is None else 'has no'} state, "
            f"{'none' if state is None else 'one'} was given"
        )
    if state is not None:
        check_state(state, len(batch), int(inputs[STATE][-1] or 0))


def check_state(state: NDArray[np.float32], cells: int, size: int) -> None:
    """Refuse a state that is not float32 (cells, size)."""
    if state.dtype != np.float32 or state.shape != (cells, size):
        raise EngineFailed(
            f"state is {state.dtype} {state.shape}, the graph takes float32 "
            f"{(cells, size)}"
        )


def no_rows(outputs: Mapping[str, Shape]) -> Outputs:
    """Return the outputs of an empty batch: the right shapes, with no rows."""
    empty = {
        name: np.zeros(
            (0, *(n if isinstance(n, int) and n > 0 else 0 for n in shape[1:])),
            np.float32,
        )
        for name, shape in outputs.items()
    }
    return Outputs(empty, empty.pop(NEXT_STATE, None))


def finite(tensors: Mapping[str, NDArray[np.float32]]) -> Outputs:
    """Return the tensors as outputs, once all their values are finite.

    Raises
    ------
    EngineFailed
        An output holds NaN or infinity.
    """
    for name, values in tensors.items():
        if not np.isfinite(values).all():
            raise EngineFailed(
                f"output {name!r} holds NaN or infinity; the model is damaged or "
                "its precision overflows"
            )
    named = dict(tensors)
    return Outputs(named, named.pop(NEXT_STATE, None))
