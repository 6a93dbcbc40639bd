"""Parse a model and build its TensorRT plan: the file that TensorRT runs.

Precision lives in the ONNX file, networks are strongly typed, so one code base serves
TensorRT 10.3 to 11 and TensorRT-RTX: no precision flag and no calibrator is touched.
Imports no torch.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.engines.build_manifest import BuildOptions, TensorRecord, write_atomically
from edge.engines.tensorrt_runtime import flavour_of, new_log
from edge.errors import HemascopeError

log = logging.getLogger(__name__)

_MAX_WORKSPACE_BYTES = 2 << 30
_MAX_SHARE_OF_FREE = 0.8
# How TensorRT says that memory ran out.
_OUT_OF_MEMORY = "any implementation", "workspace limit", "out of memory", "OutOfMemory"
_SHOWN_ERRORS = 3
Progress = Callable[[float, str], None]


class BuildFailed(HemascopeError):
    """TensorRT cannot build the engine; says which node and what to do."""


class BuildCancelled(HemascopeError):
    """Somebody stopped the building; nothing was written."""

    exit_code = 130


@dataclass(frozen=True, slots=True)
class Built:
    """A plan with its tensors, the memory it may use, and how long it took."""

    plan: bytes
    tensors: tuple[TensorRecord, ...]
    workspace_bytes: int
    seconds: float


def build_plan(
    model: bytes,
    options: BuildOptions,
    trt: Any,
    *,
    free_bytes: int | None = None,
    progress: Progress = lambda share, phase: None,
    cancel: threading.Event | None = None,
    cache: Path | None = None,
    tune: Callable[[Any], None] = lambda config: None,
) -> Built:
    """Parse a model and build its plan.

    Parameters
    ----------
    model, options
        The ONNX file, and what to build of it.
    trt
        The module of TensorRT.
    free_bytes
        Memory of the device; the workspace takes no more than a share of it.
    progress
        Called with the share that is done, 0 to 1, and the name of the phase.
    cancel
        Set from another thread, it ends the building.
    cache
        File of timings, read and written; a build after the first is faster.
    tune
        Changes the builder's configuration, such as the device to build for.

    Raises
    ------
    BuildFailed
        A node is not understood, or no kernel fits into the memory.
    BuildCancelled
        `cancel` was set.
    """
    start = time.monotonic()
    cancel = cancel or threading.Event()
    trt_log = new_log(trt)
    builder = trt.Builder(trt_log)
    network = _parse(trt, builder, trt_log, model)
    workspace = _workspace_bytes(free_bytes)
    config = _configure(trt, builder, options, workspace)
    config.progress_monitor = _monitor(trt, progress, cancel)
    keeps_timings = flavour_of(trt) == "tensorrt"  # TensorRT-RTX tries no kernels
    if keeps_timings:
        _attach_timings(config, cache)
    tune(config)
    plan = builder.build_serialized_network(network, config)
    if cancel.is_set():
        raise BuildCancelled("building was cancelled; nothing was written")
    if plan is None:
        raise BuildFailed(_build_errors(trt_log.errors, free_bytes, workspace))
    if keeps_timings:
        _write_timings(config, cache)
    progress(1.0, "")
    seconds = time.monotonic() - start
    return Built(bytes(plan), _tensors_of(network), workspace, seconds)


def _parse(trt: Any, builder: Any, trt_log: Any, model: bytes) -> Any:
    """Read the ONNX file into a network whose types are those of the file.

    Raises
    ------
    BuildFailed
        A node is not understood, or there is no output.
    """
    flag = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flag)
    parser = trt.OnnxParser(network, trt_log)
    if not parser.parse(model):
        raise BuildFailed(_parser_errors(parser))
    if network.num_outputs == 0:
        raise BuildFailed("the model has no output; export it again")
    return network


def _workspace_bytes(free_bytes: int | None) -> int:
    """Return the memory that kernels may use while they run."""
    if free_bytes is None:
        return _MAX_WORKSPACE_BYTES
    return min(_MAX_WORKSPACE_BYTES, int(_MAX_SHARE_OF_FREE * free_bytes))


def _configure(trt: Any, builder: Any, options: BuildOptions, workspace: int) -> Any:
    """Set the memory, the arithmetic and the shapes that the plan is built for."""
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    config.clear_flag(trt.BuilderFlag.TF32)  # float32 is promised
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    profile = builder.create_optimization_profile()
    for name, shapes in options.shapes.items():
        profile.set_shape(name, *shapes)
    config.add_optimization_profile(profile)
    return config


def _attach_timings(config: Any, cache: Path | None) -> None:
    """Use the timings of an earlier build; those of another device are left out."""
    known = b"" if cache is None or not cache.exists() else cache.read_bytes()
    for data in (known, b""):
        timings = config.create_timing_cache(data)
        if timings is not None and config.set_timing_cache(timings, False):
            return
        log.info("timings of %d bytes are not of this device: begun anew", len(data))


def _write_timings(config: Any, cache: Path | None) -> None:
    """Keep the timings of this build for the next one."""
    timings = config.get_timing_cache()
    if cache is not None and timings is not None:
        write_atomically(cache, bytes(timings.serialize()))


def _tensors_of(network: Any) -> tuple[TensorRecord, ...]:
    """Describe the inputs, then the outputs."""
    tensors = (
        *(network.get_input(i) for i in range(network.num_inputs)),
        *(network.get_output(i) for i in range(network.num_outputs)),
    )
    return tuple(
        TensorRecord(
            name=t.name, dtype=str(t.dtype).split(".")[-1], shape=tuple(t.shape)
        )
        for t in tensors
    )


def _parser_errors(parser: Any) -> str:
    """Name every node that the parser does not understand."""
    lines = []
    for number in range(parser.num_errors):
        error = parser.get_error(number)
        lines.append(
            f"node {error.node_name() or error.node()} ({error.node_operator()}): "
            f"{error.desc()}"
        )
    reasons = "\n".join(lines) or "it gives no reason"
    return f"TensorRT does not understand the model, export it again:\n{reasons}"


def _build_errors(errors: Sequence[str], free: int | None, workspace: int) -> str:
    """Show the last errors of the builder, and the remedy where memory ran out."""
    text = "; ".join(errors[-_SHOWN_ERRORS:]) or "TensorRT gives no reason"
    memory = "" if free is None else f" of {free >> 20} MiB free"
    text += f" (workspace {workspace >> 20} MiB{memory}"
    if any(sign in error for error in errors for sign in _OUT_OF_MEMORY):
        text += (
            "; this is also how TensorRT runs out of memory: end other programs, or "
            "build for a smaller --batch"
        )
    return f"the engine could not be built: {text})"


def _monitor(trt: Any, progress: Progress, cancel: threading.Event) -> Any:
    """Return what TensorRT calls while it builds; it reports progress and cancels.

    Phases are nested. The reported share is that of the outermost phase, refined by
    the phases inside it. It never falls.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.open: dict[str, list[int]] = {}
            self.share = 0.0
            self.lock = threading.Lock()  # TensorRT calls from several threads

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            with self.lock:
                self.open[name] = [0, max(1, steps)]
                self.report(name)

        def step_complete(self, name: str, step: int) -> bool:
            with self.lock:
                if name in self.open:
                    self.open[name][0] = step + 1
                self.report(name)
            return not cancel.is_set()

        def phase_finish(self, name: str) -> None:
            with self.lock:
                self.open.pop(name, None)

        def report(self, name: str) -> None:
            share, width = 0.0, 1.0
            for done, steps in self.open.values():
                share += width * min(done, steps) / steps
                width /= steps
            self.share = max(self.share, min(share, 1.0))
            progress(self.share, name)

    return Monitor()
