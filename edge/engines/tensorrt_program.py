"""One execution context of a plan at one shape, with its buffers and CUDA graph."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from edge.engines import EngineFailed
from edge.engines.cuda import Buffer, Gpu, Graph

log = logging.getLogger(__name__)

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BoundTensor:
    """A tensor of the plan. Axes of `shape` that vary are None.

    `least` and `most` bound an input, `usual` is what it was tuned for.
    """

    shape: tuple[int | None, ...]
    dtype: type
    least: Shape = ()
    usual: Shape = ()
    most: Shape = ()


class Program:
    """An execution context of one slot at one shape, and its CUDA graph.

    A graph fixes shapes and addresses, so each has a context of its own.
    """

    def __init__(
        self,
        plan: Any,
        outputs: Iterable[str],
        buffers: Mapping[str, Buffer],
        *,
        has_graph: bool,
    ) -> None:
        self._context = plan.create_execution_context()
        if self._context is None:
            raise EngineFailed(
                "there is no memory for another execution context; use smaller "
                "batches, fewer workers, or has_graphs = false"
            )
        self._wants_graph = has_graph
        self._graph: Graph | None = None
        self._buffers = buffers
        self._shapes: dict[str, Shape] = {}
        self.outputs: dict[str, Shape] = dict.fromkeys(outputs, ())

    def shape(self, shapes: dict[str, Shape]) -> None:
        """Take inputs of these shapes from now on."""
        if shapes == self._shapes:
            return
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, shape):
                raise EngineFailed(f"TensorRT refuses {shape} for input {name!r}")
        for name, buffer in self._buffers.items():
            self._context.set_tensor_address(name, buffer.address)
        unknown = self._context.infer_shapes()
        if unknown:
            raise EngineFailed(f"TensorRT cannot tell the shapes of {unknown}")
        self.outputs = {
            name: tuple(self._context.get_tensor_shape(name)) for name in self.outputs
        }
        self._shapes = dict(shapes)

    def enqueue(self, stream: Any) -> None:
        """Compute, in the stream's order."""
        if self._graph is not None:
            self._graph.launch(stream)
            return
        self._execute(stream)
        if self._wants_graph:  # only now: the first execution may allocate
            self._wants_graph = False
            try:
                self._graph = Graph(stream, lambda: self._execute(stream))
            except EngineFailed as error:
                log.warning("no CUDA graph for %s, each call enqueues: %s", self, error)

    def close(self) -> None:
        """Release graph and context; inside `with` of its GPU."""
        if self._graph is not None:
            self._graph.close()
        self._context = None

    @property
    def has_graph(self) -> bool:
        """Whether a graph is replayed."""
        return self._graph is not None

    def _execute(self, stream: Any) -> None:
        if not self._context.execute_async_v3(stream.handle):
            stream.synchronize()  # says so where the device is lost
            raise EngineFailed("TensorRT could not enqueue; see the log")

    def __str__(self) -> str:
        return f"{self._shapes}"


class Slot:
    """Where one call works: its stream, the memory of its tensors, its events."""

    def __init__(self, number: int, gpu: Gpu, buffers: dict[str, Buffer]) -> None:
        self.number, self.buffers = number, buffers
        self.stream = gpu.stream()
        no_timing = gpu.cuda.event_flags.DISABLE_TIMING
        self.computed = gpu.cuda.Event(no_timing)
        self.done = gpu.cuda.Event(no_timing)
        self.rows = 0
        self.program: Program | None = None
