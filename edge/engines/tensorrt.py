"""TensorRT on an NVIDIA GPU, through pycuda.

A call copies crops into pinned memory, sends them to the device, computes and fetches
the answers, all in one stream of a slot. There are two slots: of a batch larger than
the plan was built for, the next part is sent while the last is computed. What is
enqueued is captured as a CUDA graph the first time a shape occurs and replayed from
then on; batches are filled up to powers of two, so that shapes occur again.

A recurrent model's state stays on the device: slot 0 reads memory A and writes B, slot
1 reads B and writes A.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edge.engines import BATCH, NEXT_STATE, STATE, EngineFailed, Outputs
from edge.engines.cuda import Buffer, Gpu, GpuFailed
from edge.engines.shape_checks import (
    check_call,
    check_inputs,
    check_state,
    finite,
    no_rows,
)
from edge.engines.tensorrt_program import BoundTensor, Program, Shape, Slot

log = logging.getLogger(__name__)

_MODULES = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")
_MOST_PROGRAMS = 24  # shapes that are kept ready; each takes memory on the device
_WARM_UPS = 3
Flavour = Literal["tensorrt", "tensorrt_rtx"]


def load_tensorrt() -> Any:
    """Import TensorRT, or TensorRT-RTX where there is none.

    Raises
    ------
    EngineFailed
        Neither is installed.
    """
    for name in _MODULES:
        try:
            return importlib.import_module(name)
        except ImportError as error:
            missing = error
    raise EngineFailed(
        f"TensorRT is missing ({missing}); it comes with JetPack: create the virtual "
        "environment with the system's Python and --system-site-packages, see "
        "docs/jetson.md"
    )


def flavour_of(trt: Any) -> Flavour:
    """Return "tensorrt" or "tensorrt_rtx": their plans are not each other's."""
    return "tensorrt_rtx" if "rtx" in trt.__name__ else "tensorrt"


def new_log(trt: Any) -> Any:
    """Return a TensorRT logger that passes on to ours and keeps `errors`."""
    levels = {
        trt.ILogger.Severity.INTERNAL_ERROR: logging.ERROR,
        trt.ILogger.Severity.ERROR: logging.ERROR,
        trt.ILogger.Severity.WARNING: logging.WARNING,
    }

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            level = levels.get(severity, logging.DEBUG)
            log.log(level, "%s", message)
            if level == logging.ERROR:
                self.errors.append(message)

    return Log()


class TensorRTEngine:
    """Runs a plan. Created, used and closed in one thread.

    Parameters
    ----------
    plan
        What TensorRT built on this very device.
    has_graphs
        Capture and replay CUDA graphs.
    is_mapped
        Whether host and device share the tensors' memory; None where the GPU is
        integrated.

    Raises
    ------
    GpuFailed
        There is no GPU, or it does not answer.
    EngineFailed
        TensorRT is missing or refuses the plan.
    """

    def __init__(
        self, plan: bytes, *, has_graphs: bool = True, is_mapped: bool | None = None
    ) -> None:
        trt = load_tensorrt()
        self._thread = threading.get_ident()
        self._lost: str | None = None
        self._is_open = True
        self._has_graphs = has_graphs
        self._gpu = Gpu()
        self.is_mapped = self._gpu.is_integrated if is_mapped is None else is_mapped
        self._programs: dict[tuple[int, Shape | None], Program] = {}
        self._slots: list[Slot] = []
        self._memory: list[Buffer] = []
        self._last: Any = None  # event after which the device is free
        self._turn = 0  # the slot that reads the state next
        self._cells: int | None = None  # rows of the state that is kept
        self._recent: Slot | None = None
        self._plan: Any = None
        self._log = new_log(trt)
        self._runtime = trt.Runtime(self._log)
        try:
            with self._working():
                self._plan = self._runtime.deserialize_cuda_engine(plan)
                if self._plan is None:
                    raise EngineFailed(
                        f"TensorRT {trt.__version__} refuses the plan: "
                        f"{self._told()}; build it again"
                    )
                self._tensors = self._read_tensors(trt)
                check_inputs({n: t.shape for n, t in self._inputs.items()})
                self._lay_out()
        except BaseException:
            self.close()
            raise

    @property
    def graphs(self) -> int:
        """How many CUDA graphs are ready to be replayed."""
        return sum(program.has_graph for program in self._programs.values())

    @property
    def usual_shape(self) -> Shape:
        """Shape of the batch that the plan was tuned for."""
        return self._inputs[BATCH].usual

    def infer(
        self, batch: NDArray[np.uint8], state: NDArray[np.float32] | None = None
    ) -> Outputs:
        """Run the graph; see `Engine.infer`.

        A batch beyond the plan's largest goes in parts. A given state becomes the one
        that `step` goes on from, if the batch went in one part.
        """
        with self._working():
            check_call({n: t.shape for n, t in self._inputs.items()}, batch, state)
            self._check_range(batch)
            if len(batch) == 0:
                self._cells = None if state is None else 0
                return no_rows({n: t.shape for n, t in self._outputs.items()})
            if state is None:
                return _joined(self._in_parts(batch))
            most = self._inputs[BATCH].most[0]
            parts = []
            for start in range(0, len(batch), most):
                self._put(state[start : start + most])
                parts.append(self._one(batch[start : start + most], fetches_state=True))
            self._cells = len(batch) if len(parts) == 1 else None
            return _joined(parts)

    def step(self, batch: NDArray[np.uint8]) -> Outputs:
        """Run one step from the kept state; see `RecurrentEngine.step`."""
        with self._working():
            self._check_recurrent()
            cells = self._cells
            if cells is None or cells != len(batch):
                raise EngineFailed(
                    f"batch has {len(batch)} cells, the kept state {cells}; reset it"
                )
            kept = np.zeros((cells, self._state_size), np.float32)
            check_call({n: t.shape for n, t in self._inputs.items()}, batch, kept)
            self._check_range(batch)
            if cells == 0:
                return no_rows(
                    {n: t.shape for n, t in self._outputs.items() if n != NEXT_STATE}
                )
            return self._one(batch, fetches_state=False)

    def reset(self, cells: int) -> None:
        """Keep the state of cells never seen; see `RecurrentEngine.reset`."""
        self.put(np.zeros((cells, self._state_size), np.float32))

    def put(self, state: NDArray[np.float32]) -> None:
        """Keep this state; see `RecurrentEngine.put`."""
        with self._working():
            self._check_recurrent()
            check_state(state, len(state), self._state_size)
            most = self._inputs[STATE].most[0]
            if len(state) > most:
                raise EngineFailed(
                    f"state has {len(state)} cells, the engine was built for at most "
                    f"{most}; build it again with a larger --batch"
                )
            self._put(state)

    def peek(self) -> NDArray[np.float32]:
        """Return the kept state; see `RecurrentEngine.peek`."""
        with self._working():
            self._check_recurrent()
            if self._cells is None:
                raise EngineFailed("no state is kept; reset it, or put one")
            slot = self._slots[self._turn]
            shape = (self._cells, self._state_size)
            slot.buffers[STATE].download(prod(shape), slot.stream)
            slot.stream.synchronize()
            return slot.buffers[STATE].shaped(shape).astype(np.float32)

    def warm_up(self) -> None:
        """Run what is usual a few times: the first calls are slow."""
        batch = np.zeros(self.usual_shape, np.uint8)
        for _ in range(_WARM_UPS):
            self.infer(batch, self._unseen(len(batch)))

    def kernel_ms(self, batch: NDArray[np.uint8], calls: int) -> list[float]:
        """Milliseconds that the device computes, without copies, for the benchmark."""
        self.infer(batch, self._unseen(len(batch)))
        with self._working():
            slot, cuda, taken = self._recent, self._gpu.cuda, []
            if slot is None or slot.program is None:
                raise EngineFailed("nothing was computed; give a batch with rows")
            for _ in range(calls):
                start, end = cuda.Event(), cuda.Event()
                start.record(slot.stream)
                slot.program.enqueue(slot.stream)
                end.record(slot.stream)
                end.synchronize()
                taken.append(float(start.time_till(end)))
            return taken

    def close(self) -> None:
        """Release everything on the device. Safe to call twice.

        Raises
        ------
        EngineFailed
            Called from another thread, which would leak.
        """
        if not self._is_open:
            return
        self._check_thread()
        self._is_open = False
        with self._gpu:
            self._release()
        self._gpu.close()

    def _unseen(self, cells: int) -> NDArray[np.float32] | None:
        """Return the state of cells never seen; None without a memory."""
        if STATE not in self._inputs:
            return None
        return np.zeros((cells, self._state_size), np.float32)

    def _release(self) -> None:
        """Drop all that lives on the device; no name for any of it outlives this."""
        try:
            for slot in self._slots:
                slot.stream.synchronize()
            for program in self._programs.values():
                program.close()
            for buffer in self._memory:
                buffer.close()
        except (self._gpu.cuda.Error, GpuFailed) as error:
            log.warning("the GPU did not take everything back: %s", error)
        self._programs.clear()
        self._slots.clear()
        self._memory.clear()
        self._recent = self._last = self._plan = self._runtime = None

    @property
    def _inputs(self) -> dict[str, BoundTensor]:
        return {n: t for n, t in self._tensors.items() if t.most}

    @property
    def _outputs(self) -> dict[str, BoundTensor]:
        return {n: t for n, t in self._tensors.items() if not t.most}

    @property
    def _state_size(self) -> int:
        self._check_recurrent()
        return int(self._inputs[STATE].shape[-1] or 0)

    def _read_tensors(self, trt: Any) -> dict[str, BoundTensor]:
        """Read the names, types and ranges of the plan's tensors."""
        types = {trt.DataType.UINT8: np.uint8, trt.DataType.FLOAT: np.float32}
        found = {}
        for number in range(self._plan.num_io_tensors):
            name = self._plan.get_tensor_name(number)
            kind = self._plan.get_tensor_dtype(name)
            if kind not in types:
                raise EngineFailed(
                    f"tensor {name!r} is {kind}, expected UINT8 or FLOAT; export the "
                    "model again"
                )
            dims = tuple(
                None if n < 0 else n for n in self._plan.get_tensor_shape(name)
            )
            bounds: tuple[Shape, ...] = ((), (), ())
            if self._plan.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
                profile = self._plan.get_tensor_profile_shape(name, 0)
                bounds = tuple(tuple(shape) for shape in profile)
            found[name] = BoundTensor(dims, types[kind], *bounds)
        return found

    def _lay_out(self) -> None:
        """Reserve memory for the largest shapes, once and for all."""
        widest = Program(self._plan, self._outputs, {}, has_graph=False)
        shapes = {n: t.most for n, t in self._inputs.items()}
        widest.shape(shapes)
        shapes |= widest.outputs
        widest.close()

        def reserve(name: str) -> Buffer:
            items, dtype = prod(shapes[name]), self._tensors[name].dtype
            buffer = Buffer(self._gpu, items, dtype, is_mapped=self.is_mapped)
            self._memory.append(buffer)
            return buffer

        states = [reserve(STATE), reserve(STATE)] if STATE in shapes else []
        for number in range(2):
            kept = {}
            if states:
                kept = {STATE: states[number], NEXT_STATE: states[1 - number]}
            own = {name: reserve(name) for name in shapes if name not in kept}
            self._slots.append(Slot(number, self._gpu, own | kept))

    def _in_parts(self, batch: NDArray[np.uint8]) -> Iterator[Outputs]:
        """Compute a batch in parts, two of them under way at a time."""
        most = self._inputs[BATCH].most[0]
        under_way: list[Slot] = []
        for number, start in enumerate(range(0, len(batch), most)):
            slot = self._slots[number % 2]
            if len(under_way) == 2:
                yield self._collect(under_way.pop(0))
            self._launch(slot, batch[start : start + most])
            under_way.append(slot)
        for slot in under_way:
            yield self._collect(slot)

    def _one(self, batch: NDArray[np.uint8], *, fetches_state: bool) -> Outputs:
        """Compute one step of a recurrent model; the other slot reads what it wrote."""
        slot = self._slots[self._turn]
        self._launch(slot, batch, fetches_state=fetches_state)
        outputs = self._collect(slot, fetches_state=fetches_state)
        self._turn = 1 - self._turn
        return outputs

    def _put(self, state: NDArray[np.float32]) -> None:
        slot = self._slots[self._turn]
        np.copyto(slot.buffers[STATE].shaped(state.shape), state, casting="no")
        slot.buffers[STATE].upload(state.size, slot.stream)
        self._cells = len(state)

    def _launch(
        self, slot: Slot, batch: NDArray[np.uint8], *, fetches_state: bool = False
    ) -> None:
        """Send, compute and fetch, without waiting for any of it."""
        rows = self._filled_up(len(batch))
        shapes = {BATCH: (rows, *batch.shape[1:])}
        if STATE in self._inputs:
            shapes[STATE] = (rows, self._state_size)
        slot.stream.synchronize()  # a call that failed may still be under way
        image = slot.buffers[BATCH]
        np.copyto(image.shaped(batch.shape), batch, casting="no")
        image.upload(batch.size, slot.stream)
        program = self._program(slot, shapes)
        if self._last is not None:  # the device computes one part at a time
            slot.stream.wait_for_event(self._last)
        program.enqueue(slot.stream)
        slot.computed.record(slot.stream)
        self._last = slot.computed
        for name, shape in program.outputs.items():
            if name != NEXT_STATE or fetches_state:
                slot.buffers[name].download(prod(shape), slot.stream)
        slot.done.record(slot.stream)
        slot.rows, slot.program = len(batch), program
        self._recent = slot

    def _collect(self, slot: Slot, *, fetches_state: bool = False) -> Outputs:
        """Wait for what was launched in `slot` and copy it out."""
        slot.done.synchronize()
        if slot.program is None:
            raise EngineFailed("nothing was launched in this slot")
        return finite(
            {
                name: slot.buffers[name].shaped(shape)[: slot.rows].copy()
                for name, shape in slot.program.outputs.items()
                if name != NEXT_STATE or fetches_state
            }
        )

    def _program(self, slot: Slot, shapes: dict[str, Shape]) -> Program:
        """Return the program for these shapes, ready to be enqueued."""
        key = (slot.number, shapes[BATCH] if self._has_graphs else None)
        program = self._programs.pop(key, None)
        if program is None:
            if len(self._programs) >= _MOST_PROGRAMS:
                self._forget_one()
            program = self._new_program(slot)
        self._programs[key] = program  # the last one is the one used last
        program.shape(shapes)
        return program

    def _new_program(self, slot: Slot) -> Program:
        """Make a program; where memory is short others give way first."""
        while True:
            try:
                return Program(
                    self._plan, self._outputs, slot.buffers, has_graph=self._has_graphs
                )
            except EngineFailed:
                if not self._programs:
                    raise
                self._forget_one()

    def _forget_one(self) -> None:
        """Release the program that was not used for longest."""
        for slot in self._slots:
            slot.stream.synchronize()
        self._programs.pop(next(iter(self._programs))).close()

    def _filled_up(self, rows: int) -> int:
        """Return how many rows are computed: with graphs few sizes, each often."""
        tensor = self._inputs[BATCH]
        wanted = 1 << (rows - 1).bit_length() if self._has_graphs else rows
        return max(tensor.least[0], min(tensor.most[0], wanted))

    def _check_range(self, batch: NDArray[np.uint8]) -> None:
        """Refuse a frame outside the plan's range; more rows go in parts."""
        tensor = self._inputs[BATCH]
        least, most = tensor.least[1:], tensor.most[1:]
        if any(
            not low <= n <= high
            for low, n, high in zip(least, batch.shape[1:], most, strict=True)
        ):
            raise EngineFailed(
                f"batch is {batch.shape}, the engine was built for {tensor.least} to "
                f"{tensor.most}; export it for such frames, or tell the true "
                "pixel_size_um where a frame is reduced by it"
            )

    def _check_recurrent(self) -> None:
        if STATE not in self._inputs:
            raise EngineFailed("the graph has no state: it is not recurrent")

    def _check_thread(self) -> None:
        if self._thread != threading.get_ident():
            raise EngineFailed(
                "the engine belongs to another thread; open one in each thread"
            )

    @contextmanager
    def _working(self) -> Iterator[None]:
        """Make the device current; a lost GPU is said so, from then on."""
        self._check_thread()
        if not self._is_open:
            raise EngineFailed("the engine is closed; open it again")
        if self._lost is not None:
            raise GpuFailed(self._lost)
        with self._gpu:
            try:
                yield
            except self._gpu.cuda.MemoryError as error:
                raise EngineFailed(
                    f"the GPU {self._gpu.name} has no memory left: {error}; use "
                    "smaller batches or fewer workers, or end other programs"
                ) from error
            except (self._gpu.cuda.Error, GpuFailed) as error:
                self._lost = (
                    f"the GPU {self._gpu.name} stopped answering: {error}; nothing is "
                    "computed on the CPU in its place; see dmesg, start again"
                )
                raise GpuFailed(self._lost) from error

    def _told(self) -> str:
        return "; ".join(self._log.errors[-3:]) or "it gives no reason"


def _joined(parts: Iterator[Outputs] | list[Outputs]) -> Outputs:
    """Put the outputs of parts one below the other."""
    all_parts = list(parts)
    tensors = {
        name: np.concatenate([part.tensors[name] for part in all_parts])
        for name in all_parts[0].tensors
    }
    states = [p.next_state for p in all_parts if p.next_state is not None]
    return Outputs(tensors, np.concatenate(states) if states else None)
