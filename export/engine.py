"""Build a TensorRT engine from a bundle, on the device that will run it.

Precision lives in the ONNX file, networks are strongly typed, so one code base serves
TensorRT 10.3 to 11 and TensorRT-RTX: no precision flag and no calibrator is touched.
Imports no torch.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from edge.artifacts.bundle import Bundle
from edge.engines import BATCH, STATE
from edge.engines.build_manifest import (
    BuildOptions,
    EngineLatency,
    EngineManifest,
    EnginePath,
    Parity,
    TensorRecord,
    present_site,
    write_atomically,
    write_passport,
)
from edge.engines.cuda import Gpu
from edge.engines.opening import open_plan, self_test
from edge.engines.tensorrt import TensorRTEngine, flavour_of, load_tensorrt, new_log
from edge.errors import ConfigurationInvalid, HemascopeError
from edge.settings.models import EngineSettings

log = logging.getLogger(__name__)

_WORKSPACE_BYTES = 2 << 30
_SHARE_OF_FREE = 0.8
# How TensorRT says that memory ran out.
_OUT_OF_MEMORY = "any implementation", "workspace limit", "out of memory", "OutOfMemory"
_CALLS, _FEWEST, _FIRST = 500, 20, 5  # the first ones do not count
_LONGEST_MS = 200.0
Progress = Callable[[float, str], None]


class BuildFailed(HemascopeError):
    """TensorRT cannot build the engine; says which node and what to do."""


class BuildCancelled(HemascopeError):
    """Somebody stopped the building; nothing was written."""

    exit_code = 130


@dataclass(frozen=True, slots=True)
class Built:
    """A plan, its tensors, and what it took."""

    plan: bytes
    tensors: tuple[TensorRecord, ...]
    workspace_bytes: int
    seconds: float


def build_plan(
    model: bytes,
    order: BuildOptions,
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
    model
        The ONNX file of `order`.
    order
        What to build.
    trt
        The module of TensorRT.
    free_bytes
        Memory of the device; the workspace takes no more than a share of it.
    progress
        Called with the share that is done and the phase.
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
    trt_log = new_log(trt)
    builder = trt.Builder(trt_log)
    flag = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flag)
    parser = trt.OnnxParser(network, trt_log)
    if not parser.parse(model):
        raise BuildFailed(_parser_errors(parser))
    if network.num_outputs == 0:
        raise BuildFailed("the model has no output: it is none; export it again")
    config = builder.create_builder_config()
    workspace = _WORKSPACE_BYTES
    if free_bytes is not None:
        workspace = min(workspace, int(_SHARE_OF_FREE * free_bytes))
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    config.clear_flag(trt.BuilderFlag.TF32)  # float32 is promised
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.progress_monitor = _monitor(trt, progress, cancel or threading.Event())
    profile = builder.create_optimization_profile()
    for name, shapes in order.shapes.items():
        profile.set_shape(name, *shapes)
    config.add_optimization_profile(profile)
    keeps_timings = flavour_of(trt) == "tensorrt"  # TensorRT-RTX tries none
    if keeps_timings:
        _attach_timings(config, cache)
    tune(config)
    plan = builder.build_serialized_network(network, config)
    if cancel is not None and cancel.is_set():
        raise BuildCancelled("building was cancelled; nothing was written")
    if plan is None:
        raise BuildFailed(_build_errors(trt_log.errors, free_bytes, workspace))
    timings = config.get_timing_cache() if keeps_timings else None
    if cache is not None and timings is not None:
        write_atomically(cache, bytes(timings.serialize()))
    progress(1.0, "")
    tensors = (
        *(network.get_input(i) for i in range(network.num_inputs)),
        *(network.get_output(i) for i in range(network.num_outputs)),
    )
    return Built(
        plan=bytes(plan),
        tensors=tuple(
            TensorRecord(
                name=t.name, dtype=str(t.dtype).split(".")[-1], shape=tuple(t.shape)
            )
            for t in tensors
        ),
        workspace_bytes=workspace,
        seconds=time.monotonic() - start,
    )


def _attach_timings(config: Any, cache: Path | None) -> None:
    """Use the timings of an earlier build; those of another device are left out."""
    known = b"" if cache is None or not cache.exists() else cache.read_bytes()
    for data in (known, b""):
        timings = config.create_timing_cache(data)
        if timings is not None and config.set_timing_cache(timings, False):
            return
        log.info("timings of %d bytes are not of this device: begun anew", len(data))


def _parser_errors(parser: Any) -> str:
    lines = []
    for number in range(parser.num_errors):
        error = parser.get_error(number)
        lines.append(
            f"node {error.node_name() or error.node()} ({error.node_operator()}): "
            f"{error.desc()}"
        )
    told = "\n".join(lines) or "it gives no reason"
    return f"TensorRT does not understand the model, export it again:\n{told}"


def _build_errors(errors: Sequence[str], free: int | None, workspace: int) -> str:
    told = "; ".join(errors[-3:]) or "TensorRT gives no reason"
    memory = "" if free is None else f" of {free >> 20} MiB free"
    told += f" (workspace {workspace >> 20} MiB{memory}"
    if any(sign in error for error in errors for sign in _OUT_OF_MEMORY):
        told += (
            "; this is also how TensorRT runs out of memory: end other programs, or "
            "build for a smaller --batch"
        )
    return f"the engine could not be built: {told})"


def _monitor(trt: Any, progress: Progress, cancel: threading.Event) -> Any:
    """Return what TensorRT tells of its progress.

    Phases nest; the share that is told is that of the outermost, refined by those
    inside, and never falls.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.open: dict[str, list[int]] = {}
            self.told = 0.0
            self.lock = threading.Lock()  # TensorRT calls from several threads

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            with self.lock:
                self.open[name] = [0, max(1, steps)]
                self.tell(name)

        def step_complete(self, name: str, step: int) -> bool:
            with self.lock:
                if name in self.open:
                    self.open[name][0] = step + 1
                self.tell(name)
            return not cancel.is_set()

        def phase_finish(self, name: str) -> None:
            with self.lock:
                self.open.pop(name, None)

        def tell(self, name: str) -> None:
            share, width = 0.0, 1.0
            for done, steps in self.open.values():
                share += width * min(done, steps) / steps
                width /= steps
            self.told = max(self.told, min(share, 1.0))
            progress(self.told, name)

    return Monitor()


def build_engine(
    bundle: Bundle,
    order: BuildOptions,
    place: EnginePath,
    settings: EngineSettings,
    created_at: datetime,
    *,
    progress: Progress,
    cancel: threading.Event,
) -> EngineManifest:
    """Build the engine of a bundle, prove it on the golden input, and write it.

    The plan comes first and the passport last, each whole or not at all: whatever
    stops the building, no half engine is ever loaded.

    Parameters
    ----------
    bundle, order, place, settings
        What, where, and how it is run afterwards.
    created_at
        For the passport.
    progress, cancel
        See `build_plan`.

    Raises
    ------
    BuildFailed, BuildCancelled
        See `build_plan`.
    BundleRefused
        The engine computes something else than the export.
    EngineFailed
        There is no GPU or no TensorRT, or the GPU stopped answering.
    """
    trt = load_tensorrt()
    _refuse_read_only(place.folder)
    with closing(Gpu()) as gpu, gpu:
        site, driver = present_site(trt, gpu), gpu.driver
        built = build_plan(
            bundle.model_of(order.precision),
            order,
            trt,
            free_bytes=gpu.free_bytes(),
            progress=progress,
            cancel=cancel,
            cache=place.folder.parent / "timing.cache",
        )
    engine = open_plan(built.plan, settings)
    try:
        worst = self_test(engine, bundle, order.precision)
        parity = Parity(worst=worst, agreement=_agreement(engine, bundle))
        latency = tuple(
            _latency(engine, order, rows)
            for rows in sorted({order.shapes[BATCH][k][0] for k in range(3)})
        )
    finally:
        engine.close()
    place.passport.unlink(missing_ok=True)
    write_atomically(place.plan, built.plan)
    passport = EngineManifest(
        order=order,
        site=site,
        plan_sha256=hashlib.sha256(built.plan).hexdigest(),
        driver=driver,
        has_tf32=False,
        workspace_bytes=built.workspace_bytes,
        tensors=built.tensors,
        build_seconds=round(built.seconds, 2),
        created_at=created_at,
        parity=parity,
        latency=latency,
    )
    write_passport(place, passport)
    return passport


def _refuse_read_only(folder: Path) -> None:
    """Say before minutes of building where nothing can be written after them."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / ".probe", b"")
        (folder / ".probe").unlink()
    except OSError as error:
        raise ConfigurationInvalid(
            f"{folder}: cannot be written: {error.strerror}; name a folder that can, "
            "by --engines or in [model] engines"
        ) from error


def _agreement(engine: TensorRTEngine, bundle: Bundle) -> float | None:
    """Share of golden cells that get the class of the float32 export."""
    if "logits" not in bundle.golden:
        return None
    image = np.asarray(bundle.golden[BATCH], np.uint8)
    state = bundle.golden.get(STATE)
    given = None if state is None else np.asarray(state, np.float32)
    found = engine.infer(image, given).tensors["logits"]
    wanted = np.asarray(bundle.golden["logits"])
    return float((found.argmax(1) == wanted.argmax(1)).mean())


def _latency(engine: TensorRTEngine, order: BuildOptions, rows: int) -> EngineLatency:
    """Measure whole calls with `rows` rows of the usual shape."""
    _, usual, _ = order.shapes[BATCH]
    batch = np.zeros((rows, *usual[1:]), np.uint8)
    state = None
    if STATE in order.shapes:
        state = np.zeros((rows, order.shapes[STATE][0][1]), np.float32)
    taken: list[float] = []
    while len(taken) < _CALLS and (len(taken) < _FEWEST or sum(taken) < _LONGEST_MS):
        start = time.perf_counter()
        engine.infer(batch, state)
        taken.append((time.perf_counter() - start) * 1e3)
    median, p99 = np.percentile(taken[_FIRST:], [50, 99]).round(4).tolist()
    return EngineLatency(
        rows=rows, median_ms=median, p99_ms=p99, calls=len(taken) - _FIRST
    )


def run_in_thread(
    work: Callable[[], EngineManifest], cancel: threading.Event
) -> EngineManifest:
    """Do `work` in a thread of its own, so that Ctrl-C reaches us and cancels it.

    TensorRT builds without the interpreter lock; the engine it proves belongs to that
    thread.
    """
    with ThreadPoolExecutor(1, "build") as pool:
        try:
            future = pool.submit(work)
        except KeyboardInterrupt:
            cancel.set()
            raise
        while not future.done():
            try:
                wait([future], 0.1)
            except KeyboardInterrupt:
                cancel.set()
        return future.result()
