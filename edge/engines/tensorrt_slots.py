"""The tensors of a plan, and the slots that hold their memory.

A slot is everything that one call needs for itself: a stream, buffers and events. There
are two. While one slot computes, the other one already receives its input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.engines import NEXT_STATE, STATE, EngineFailed
from edge.engines.cuda import Buffer, Gpu

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BoundTensor:
    """A tensor of the plan. Axes of `shape` that vary are None.

    An input has the range that the plan was built for, from `min_shape` to `max_shape`;
    `usual_shape` is the one that it was tuned for. An output has none of the three.
    """

    shape: tuple[int | None, ...]
    dtype: type
    min_shape: Shape = ()
    usual_shape: Shape = ()
    max_shape: Shape = ()


def read_tensors(plan: Any, trt: Any) -> dict[str, BoundTensor]:
    """Read the names, types and ranges of a plan's tensors.

    Parameters
    ----------
    plan
        TensorRT's `ICudaEngine`.
    trt
        The module of TensorRT.

    Raises
    ------
    EngineFailed
        A tensor is neither UINT8 nor FLOAT.
    """
    # Half precision stays inside the plan: what enters and leaves is of these two.
    types = {trt.DataType.UINT8: np.uint8, trt.DataType.FLOAT: np.float32}
    found = {}
    for number in range(plan.num_io_tensors):
        name = plan.get_tensor_name(number)
        kind = plan.get_tensor_dtype(name)
        if kind not in types:
            raise EngineFailed(
                f"tensor {name!r} is {kind}, expected UINT8 or FLOAT; export the "
                "model again"
            )
        # TensorRT writes an axis that varies as -1.
        dims = tuple(None if n < 0 else n for n in plan.get_tensor_shape(name))
        bounds: tuple[Shape, ...] = ((), (), ())
        if plan.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
            profile = plan.get_tensor_profile_shape(name, 0)  # min, opt, max
            bounds = tuple(tuple(shape) for shape in profile)
        found[name] = BoundTensor(dims, types[kind], *bounds)
    return found


def check_frame_size(tensor: BoundTensor, batch: NDArray[np.uint8]) -> None:
    """Refuse a batch (N, H, W, 3) whose H or W is outside the plan's range.

    More rows than the plan takes are no fault: they go in parts.

    Raises
    ------
    EngineFailed
        With both sizes.
    """
    low, high = tensor.min_shape[1:], tensor.max_shape[1:]
    if any(
        not least <= size <= most
        for least, size, most in zip(low, batch.shape[1:], high, strict=True)
    ):
        raise EngineFailed(
            f"batch is {batch.shape}, the engine was built for {tensor.min_shape} to "
            f"{tensor.max_shape}; export it for such frames, or set the true "
            "pixel_size_um where a frame is reduced by it"
        )


class Slot:
    """Where one call works: its stream, the memory of its tensors, its events.

    `computed` happens when the results are in device memory, `done` when they have
    arrived in host memory. `rows` and `outputs` belong to the latest call: how many
    rows it was given, and the shapes of its outputs, which may have more rows.
    """

    def __init__(self, number: int, gpu: Gpu, buffers: dict[str, Buffer]) -> None:
        self.number, self.buffers = number, buffers
        self.stream = gpu.stream()
        no_timing = gpu.cuda.event_flags.DISABLE_TIMING  # cheaper, and enough to wait
        self.computed = gpu.cuda.Event(no_timing)
        self.done = gpu.cuda.Event(no_timing)
        self.rows = 0
        self.outputs: dict[str, Shape] = {}


def new_slots(
    gpu: Gpu,
    tensors: Mapping[str, BoundTensor],
    max_shapes: Mapping[str, Shape],
    *,
    is_mapped: bool,
) -> tuple[list[Slot], list[Buffer]]:
    """Return two slots with memory for the largest shapes, and all of that memory.

    Parameters
    ----------
    gpu
        Its context is current.
    tensors
        All tensors of the plan, by name.
    max_shapes
        The largest shape of each.
    is_mapped
        Whether host and device share the memory.
    """
    memory: list[Buffer] = []

    def reserve(name: str) -> Buffer:
        items, dtype = prod(max_shapes[name]), tensors[name].dtype
        buffer = Buffer(gpu, items, dtype, is_mapped=is_mapped)
        memory.append(buffer)
        return buffer

    # Two state memories, A and B, belong to both slots. Slot 0 reads A and writes B,
    # slot 1 reads B and writes A. So the slots take turns, a state never leaves the
    # device between two steps, and no copy is needed. Every slot keeps its addresses,
    # which a CUDA graph requires; swapping pointers instead would invalidate it.
    states = [reserve(STATE), reserve(STATE)] if STATE in max_shapes else []
    slots = []
    for number in range(2):
        shared = {}
        if states:
            shared = {STATE: states[number], NEXT_STATE: states[1 - number]}
        own = {name: reserve(name) for name in max_shapes if name not in shared}
        slots.append(Slot(number, gpu, own | shared))
    return slots, memory
