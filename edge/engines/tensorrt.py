"""TensorRT on an NVIDIA GPU, through pycuda.

A call copies crops into pinned memory, sends them to the device, computes and fetches
the outputs, all in the one stream of a slot (`tensorrt_slots`). There are two slots: of
a batch larger than the plan was built for, the next part is sent while the previous one
is computed. What is enqueued is captured as a CUDA graph the first time a shape occurs
and replayed from then on (`tensorrt_program`).

A recurrent model's state stays on the device between two steps.

Terms
-----
plan
    What TensorRT built from the model, for one device and one version of TensorRT.
slot
    Stream, buffers and events of one call.
program
    An execution context of the plan, for one slot at one shape.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

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
from edge.engines.tensorrt_program import Program, ProgramCache
from edge.engines.tensorrt_runtime import load_tensorrt, new_log
from edge.engines.tensorrt_slots import (
    BoundTensor,
    Shape,
    Slot,
    check_frame_size,
    new_slots,
    read_tensors,
)

log = logging.getLogger(__name__)

_WARM_UPS = 3


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
        # What pycuda allocates must be released in the thread that made it, or it
        # leaks. So every call compares its thread with this one.
        self._thread = threading.get_ident()
        self._failure: str | None = None
        self._is_open = True
        self._has_graphs = has_graphs
        # The driver is asked before any TensorRT object exists: without a driver
        # `trt.Runtime` ends the process instead of raising.
        self._gpu = Gpu()
        self.is_mapped = self._gpu.is_integrated if is_mapped is None else is_mapped
        self._programs: ProgramCache | None = None
        self._slots: list[Slot] = []
        self._memory: list[Buffer] = []
        self._device_free: Any = None  # event after which nothing computes any more
        self._state_slot = 0  # the slot that reads the kept state
        self._kept_cells: int | None = None  # rows of the kept state
        self._latest: tuple[Slot, Program] | None = None
        self._plan: Any = None
        self._log = new_log(trt)
        self._runtime = trt.Runtime(self._log)
        try:
            with self._on_device():
                self._load(plan, trt)
        except BaseException:
            self.close()
            raise

    @property
    def graphs(self) -> int:
        """How many CUDA graphs are ready to be replayed."""
        return 0 if self._programs is None else self._programs.graphs

    @property
    def usual_shape(self) -> Shape:
        """Shape of the batch that the plan was tuned for."""
        return self._inputs[BATCH].usual_shape

    def infer(
        self, batch: NDArray[np.uint8], state: NDArray[np.float32] | None = None
    ) -> Outputs:
        """Run the graph; see `Engine.infer`.

        A batch beyond the plan's largest goes in parts. A given state becomes the one
        that `step` goes on from, if the batch went in one part.
        """
        with self._on_device():
            check_call({n: t.shape for n, t in self._inputs.items()}, batch, state)
            check_frame_size(self._inputs[BATCH], batch)
            if len(batch) == 0:
                self._kept_cells = None if state is None else 0
                return no_rows({n: t.shape for n, t in self._outputs.items()})
            if state is None:
                return _concatenate(self._run_in_parts(batch))
            # With a state the parts go one after the other: the two slots share the
            # two state memories, so a second part would overwrite what the first reads.
            max_rows = self._inputs[BATCH].max_shape[0]
            parts = []
            for start in range(0, len(batch), max_rows):
                end = start + max_rows
                self._upload_state(state[start:end])
                parts.append(self._run_step(batch[start:end], fetches_state=True))
            self._kept_cells = len(batch) if len(parts) == 1 else None
            return _concatenate(parts)

    def step(self, batch: NDArray[np.uint8]) -> Outputs:
        """Run one step from the kept state; see `RecurrentEngine.step`."""
        with self._on_device():
            self._check_recurrent()
            cells = self._kept_cells
            if cells is None or cells != len(batch):
                raise EngineFailed(
                    f"batch has {len(batch)} cells, the kept state {cells}; reset it"
                )
            kept = np.zeros((cells, self._state_size), np.float32)
            check_call({n: t.shape for n, t in self._inputs.items()}, batch, kept)
            check_frame_size(self._inputs[BATCH], batch)
            if cells == 0:
                return no_rows(
                    {n: t.shape for n, t in self._outputs.items() if n != NEXT_STATE}
                )
            return self._run_step(batch, fetches_state=False)

    def reset(self, cells: int) -> None:
        """Keep the state of cells never seen; see `RecurrentEngine.reset`."""
        self.put(np.zeros((cells, self._state_size), np.float32))

    def put(self, state: NDArray[np.float32]) -> None:
        """Keep this state; see `RecurrentEngine.put`."""
        with self._on_device():
            self._check_recurrent()
            check_state(state, len(state), self._state_size)
            max_cells = self._inputs[STATE].max_shape[0]
            if len(state) > max_cells:
                raise EngineFailed(
                    f"state has {len(state)} cells, the engine was built for at most "
                    f"{max_cells}; build it again with a larger --batch"
                )
            self._upload_state(state)

    def peek(self) -> NDArray[np.float32]:
        """Return the kept state; see `RecurrentEngine.peek`."""
        with self._on_device():
            self._check_recurrent()
            if self._kept_cells is None:
                raise EngineFailed("no state is kept; reset it, or put one")
            slot = self._slots[self._state_slot]
            shape = (self._kept_cells, self._state_size)
            slot.buffers[STATE].download(prod(shape), slot.stream)
            slot.stream.synchronize()
            # A copy: the pinned memory is overwritten by the next call.
            return slot.buffers[STATE].shaped(shape).astype(np.float32)

    def warm_up(self) -> None:
        """Run the usual shape a few times: the first calls are slow."""
        batch = np.zeros(self.usual_shape, np.uint8)
        for _ in range(_WARM_UPS):
            self.infer(batch, self._zero_state(len(batch)))

    def kernel_ms(self, batch: NDArray[np.uint8], calls: int) -> list[float]:
        """Milliseconds that the device computes, without copies, for the benchmark."""
        self.infer(batch, self._zero_state(len(batch)))
        with self._on_device():
            if self._latest is None:
                raise EngineFailed("nothing was computed; give a batch with rows")
            (slot, program), cuda = self._latest, self._gpu.cuda
            durations_ms = []
            for _ in range(calls):
                # Events of the device: the host's clock would also count the launch.
                start, end = cuda.Event(), cuda.Event()
                start.record(slot.stream)
                program.enqueue(slot.stream)
                end.record(slot.stream)
                end.synchronize()
                durations_ms.append(float(start.time_till(end)))
            return durations_ms

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

    def _load(self, plan: bytes, trt: Any) -> None:
        """Deserialize the plan, and reserve memory for its largest shapes."""
        self._plan = self._runtime.deserialize_cuda_engine(plan)
        if self._plan is None:
            reasons = "; ".join(self._log.errors[-3:]) or "it gives no reason"
            raise EngineFailed(
                f"TensorRT {trt.__version__} refuses the plan: {reasons}; build it "
                "again"
            )
        self._tensors = read_tensors(self._plan, trt)
        check_inputs({n: t.shape for n, t in self._inputs.items()})
        # Only TensorRT knows the largest outputs: it infers them from the largest
        # inputs. All memory is reserved here, once, since an allocation between two
        # calls would stop the device, and addresses in a CUDA graph may not change.
        max_shapes = {n: t.max_shape for n, t in self._inputs.items()}
        largest = Program(self._plan, self._outputs, {}, has_graph=False)
        largest.shape(max_shapes)
        max_shapes |= largest.outputs
        largest.close()
        self._slots, self._memory = new_slots(
            self._gpu, self._tensors, max_shapes, is_mapped=self.is_mapped
        )
        self._programs = ProgramCache(
            self._plan, self._outputs, self._slots, self._has_graphs
        )

    def _release(self) -> None:
        """Drop all that lives on the device; no name for any of it outlives this."""
        # Order matters: wait for the work, then graphs and contexts, then the memory
        # that they use, and last the runtime that owns the plan.
        try:
            for slot in self._slots:
                slot.stream.synchronize()
            if self._programs is not None:
                self._programs.close()
            for buffer in self._memory:
                buffer.close()
        except (self._gpu.cuda.Error, GpuFailed) as error:
            log.warning("the GPU did not take everything back: %s", error)
        self._slots.clear()
        self._memory.clear()
        self._programs = self._latest = self._device_free = None
        self._plan = self._runtime = None

    @property
    def _inputs(self) -> dict[str, BoundTensor]:
        return {n: t for n, t in self._tensors.items() if t.max_shape}

    @property
    def _outputs(self) -> dict[str, BoundTensor]:
        return {n: t for n, t in self._tensors.items() if not t.max_shape}

    @property
    def _state_size(self) -> int:
        self._check_recurrent()
        return int(self._inputs[STATE].shape[-1] or 0)

    def _zero_state(self, cells: int) -> NDArray[np.float32] | None:
        """Return the state (cells, D) of cells never seen; None if not recurrent."""
        if STATE not in self._inputs:
            return None
        return np.zeros((cells, self._state_size), np.float32)

    def _run_in_parts(self, batch: NDArray[np.uint8]) -> Iterator[Outputs]:
        """Compute a batch (N, H, W, 3) uint8 in parts, two of them under way at a time.

        Part n + 1 is sent while part n is computed. A slot is collected before it is
        launched again, so parts come out in the order in which they went in.
        """
        max_rows = self._inputs[BATCH].max_shape[0]
        under_way: list[Slot] = []
        for number, start in enumerate(range(0, len(batch), max_rows)):
            slot = self._slots[number % 2]
            if len(under_way) == 2:
                yield self._collect(under_way.pop(0))
            self._launch(slot, batch[start : start + max_rows])
            under_way.append(slot)
        for slot in under_way:
            yield self._collect(slot)

    def _run_step(self, batch: NDArray[np.uint8], *, fetches_state: bool) -> Outputs:
        """Compute one step of a recurrent model for (N, H, W, 3) uint8 crops."""
        slot = self._slots[self._state_slot]
        self._launch(slot, batch, fetches_state=fetches_state)
        outputs = self._collect(slot, fetches_state=fetches_state)
        # What this slot wrote is what the other one reads. After a failure the turn
        # does not change, so the kept state is still the one before the step.
        self._state_slot = 1 - self._state_slot
        return outputs

    def _upload_state(self, state: NDArray[np.float32]) -> None:
        """Make `state` (N, D) float32 the one that the next step reads."""
        slot = self._slots[self._state_slot]
        np.copyto(slot.buffers[STATE].shaped(state.shape), state, casting="no")
        slot.buffers[STATE].upload(state.size, slot.stream)
        self._kept_cells = len(state)

    def _launch(
        self, slot: Slot, batch: NDArray[np.uint8], *, fetches_state: bool = False
    ) -> None:
        """Send, compute and fetch (N, H, W, 3) uint8 crops, and wait for none of it."""
        rows = self._padded_rows(len(batch))
        shapes = {BATCH: (rows, *batch.shape[1:])}
        if STATE in self._inputs:
            shapes[STATE] = (rows, self._state_size)
        slot.stream.synchronize()  # a call that failed may still be under way
        image = slot.buffers[BATCH]
        # casting="no": a wrong dtype is an error here, never a silent conversion.
        np.copyto(image.shaped(batch.shape), batch, casting="no")
        # Only the given rows are sent. Rows that fill the batch up keep what an
        # earlier call left there; their outputs are cut off in `_collect`.
        image.upload(batch.size, slot.stream)
        if self._programs is None:
            raise EngineFailed("the plan is not loaded")
        program = self._programs.get(slot, shapes)
        # Copies of the two slots overlap, computations go one after the other: so the
        # earlier part is complete, and on its way back, while the later is computed.
        if self._device_free is not None:
            slot.stream.wait_for_event(self._device_free)
        program.enqueue(slot.stream)
        slot.computed.record(slot.stream)
        self._device_free = slot.computed
        for name, shape in program.outputs.items():
            if name != NEXT_STATE or fetches_state:
                slot.buffers[name].download(prod(shape), slot.stream)
        slot.done.record(slot.stream)
        slot.rows, slot.outputs = len(batch), program.outputs
        self._latest = slot, program

    def _collect(self, slot: Slot, *, fetches_state: bool = False) -> Outputs:
        """Wait for what was launched in `slot` and copy it out."""
        slot.done.synchronize()
        return finite(
            {
                name: slot.buffers[name].shaped(shape)[: slot.rows].copy()
                for name, shape in slot.outputs.items()
                if name != NEXT_STATE or fetches_state
            }
        )

    def _padded_rows(self, rows: int) -> int:
        """Return how many rows are computed for `rows` that are given.

        With graphs it is the next power of two: 1 to 128 cells need eight graphs
        instead of 128, for at most twice the work.
        """
        tensor = self._inputs[BATCH]
        wanted = 1 << (rows - 1).bit_length() if self._has_graphs else rows
        return max(tensor.min_shape[0], min(tensor.max_shape[0], wanted))

    def _check_recurrent(self) -> None:
        if STATE not in self._inputs:
            raise EngineFailed("the graph has no state: it is not recurrent")

    def _check_thread(self) -> None:
        if self._thread != threading.get_ident():
            raise EngineFailed(
                "the engine belongs to another thread; open one in each thread"
            )

    @contextmanager
    def _on_device(self) -> Iterator[None]:
        """Make the device current, and name what goes wrong on it.

        A lost GPU does not come back within a process: each later call is refused with
        the same words.
        """
        self._check_thread()
        if not self._is_open:
            raise EngineFailed("the engine is closed; open it again")
        if self._failure is not None:
            raise GpuFailed(self._failure)
        with self._gpu:
            try:
                yield
            # Too little memory is no loss: a smaller batch may succeed. It is a
            # subclass of Error, so it is caught first.
            except self._gpu.cuda.MemoryError as error:
                raise EngineFailed(
                    f"the GPU {self._gpu.name} has no memory left: {error}; use "
                    "smaller batches or fewer workers, or end other programs"
                ) from error
            except (self._gpu.cuda.Error, GpuFailed) as error:
                self._failure = (
                    f"the GPU {self._gpu.name} stopped answering: {error}; nothing is "
                    "computed on the CPU in its place; see dmesg, start again"
                )
                raise GpuFailed(self._failure) from error


def _concatenate(parts: Iterable[Outputs]) -> Outputs:
    """Put the outputs of parts one below the other."""
    all_parts = list(parts)
    tensors = {
        name: np.concatenate([part.tensors[name] for part in all_parts])
        for name in all_parts[0].tensors
    }
    states = [p.next_state for p in all_parts if p.next_state is not None]
    return Outputs(tensors, np.concatenate(states) if states else None)
