"""Execution contexts of a plan, each at one shape, and their CUDA graphs."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edge.engines import BATCH, EngineFailed
from edge.engines.cuda import Buffer, Graph
from edge.engines.tensorrt_slots import Shape, Slot

log = logging.getLogger(__name__)

_MAX_PROGRAMS = 24  # contexts kept ready; each takes memory of the device


class Program:
    """An execution context of one slot at one shape, and its CUDA graph.

    A graph records shapes and addresses, not names, so every pair of slot and shape
    needs a context and a graph of its own.
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
        # TensorRT answers None instead of raising when memory is short.
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
        # Shapes that stay the same must not be set again: the graph is still valid,
        # and TensorRT would compute the shapes of all layers anew.
        if shapes == self._shapes:
            return
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, shape):
                raise EngineFailed(f"TensorRT refuses {shape} for input {name!r}")
        for name, buffer in self._buffers.items():
            self._context.set_tensor_address(name, buffer.address)
        # `infer_shapes` returns the names of inputs whose shape is still missing. Only
        # after it are the shapes of the outputs numbers instead of -1.
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
        # The first execution at a shape may allocate memory, which a capture forbids
        # (NVIDIA/TensorRT#2603). So it runs without capture, and only then the graph is
        # recorded. Only the execution is in the graph, not the copies.
        self._execute(stream)
        if self._wants_graph:
            self._wants_graph = False  # one attempt: what fails once fails always
            try:
                self._graph = Graph(stream, lambda: self._execute(stream))
            except EngineFailed as error:
                log.warning("no CUDA graph for %s, each call enqueues: %s", self, error)

    def close(self) -> None:
        """Release graph and context; inside `with` of its GPU."""
        # The graph holds addresses of the context's memory, so it goes first.
        if self._graph is not None:
            self._graph.close()
        self._context = None

    @property
    def has_graph(self) -> bool:
        """Whether a graph is replayed."""
        return self._graph is not None

    def _execute(self, stream: Any) -> None:
        if not self._context.execute_async_v3(stream.handle):
            stream.synchronize()  # raises the driver's own error where the GPU is lost
            raise EngineFailed("TensorRT could not enqueue; see the log")

    def __str__(self) -> str:
        return f"{self._shapes}"


class ProgramCache:
    """The programs that are ready, at most `_MAX_PROGRAMS`, least recently used first.

    Without CUDA graphs there is one program per slot: changing its shape costs little.
    """

    def __init__(
        self, plan: Any, outputs: Iterable[str], slots: Sequence[Slot], has_graphs: bool
    ) -> None:
        self._plan, self._outputs, self._slots = plan, tuple(outputs), slots
        self._has_graphs = has_graphs
        # A dict keeps the order of insertion: the first entry is the oldest.
        self._programs: dict[tuple[int, Shape | None], Program] = {}

    @property
    def graphs(self) -> int:
        """How many CUDA graphs are ready to be replayed."""
        return sum(program.has_graph for program in self._programs.values())

    def get(self, slot: Slot, shapes: dict[str, Shape]) -> Program:
        """Return the program for these input shapes in `slot`, ready to be enqueued."""
        key = (slot.number, shapes[BATCH] if self._has_graphs else None)
        program = self._programs.pop(key, None)
        if program is None:
            if len(self._programs) >= _MAX_PROGRAMS:
                self._drop_oldest()
            program = self._new_program(slot)
        self._programs[key] = program  # inserted last: the most recently used
        program.shape(shapes)
        return program

    def close(self) -> None:
        """Release all programs; inside `with` of their GPU."""
        for program in self._programs.values():
            program.close()
        self._programs.clear()

    def _new_program(self, slot: Slot) -> Program:
        """Make a program; where memory is short, drop the oldest ones for it."""
        while True:
            try:
                return Program(
                    self._plan, self._outputs, slot.buffers, has_graph=self._has_graphs
                )
            except EngineFailed:
                if not self._programs:
                    raise
                self._drop_oldest()

    def _drop_oldest(self) -> None:
        """Release the program that was not used for longest."""
        # It may still be at work: nothing is released before both streams are idle.
        for slot in self._slots:
            slot.stream.synchronize()
        self._programs.pop(next(iter(self._programs))).close()
