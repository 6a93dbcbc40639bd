"""Build a TensorRT engine from a bundle, on the device that will run it.

A plan is built, compared with the golden data of the bundle, timed, and only then
written, with a manifest (`passport.json`) that says what it was built from. Imports no
torch.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from datetime import datetime
from pathlib import Path

import numpy as np

from edge.artifacts.bundle import Bundle
from edge.engines import BATCH, STATE
from edge.engines.build_manifest import (
    BuildMachine,
    BuildOptions,
    EngineLatency,
    EngineManifest,
    EnginePath,
    Parity,
    this_machine,
    write_atomically,
    write_manifest,
)
from edge.engines.cuda import Gpu
from edge.engines.opening import open_plan, self_test
from edge.engines.tensorrt import TensorRTEngine
from edge.engines.tensorrt_runtime import load_tensorrt
from edge.errors import ConfigurationInvalid
from edge.settings.models import EngineSettings
from export.engine_plan import Built, Progress, build_plan

# Calls are timed until there are enough of them, or until they took long enough.
_MAX_CALLS, _MIN_CALLS, _MAX_MS = 500, 20, 200.0
_WARM_UP = 5  # calls that are not counted


def build_engine(
    bundle: Bundle,
    options: BuildOptions,
    path: EnginePath,
    settings: EngineSettings,
    created_at: datetime,
    *,
    progress: Progress,
    cancel: threading.Event,
) -> EngineManifest:
    """Build the engine of a bundle, prove it on the golden input, and write it.

    The plan is written first and the manifest last, each of them whole or not at all.
    So whatever stops the building, no half engine is ever loaded.

    Parameters
    ----------
    bundle, options, path, settings
        What is built, where it will lie, and how it is run afterwards.
    created_at
        For the manifest.
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
    ConfigurationInvalid
        The folder cannot be written.
    """
    trt = load_tensorrt()
    _refuse_read_only(path.folder)
    with closing(Gpu()) as gpu, gpu:
        machine, driver = this_machine(trt, gpu), gpu.driver
        built = build_plan(
            bundle.model_of(options.precision),
            options,
            trt,
            free_bytes=gpu.free_bytes(),
            progress=progress,
            cancel=cancel,
            cache=path.folder.parent / "timing.cache",
        )
    parity, latency = _prove(built.plan, bundle, options, settings)
    path.manifest.unlink(missing_ok=True)
    write_atomically(path.plan, built.plan)
    manifest = _manifest(
        options, machine, driver, built, created_at, parity=parity, latency=latency
    )
    write_manifest(path, manifest)
    return manifest


def _prove(
    plan: bytes, bundle: Bundle, options: BuildOptions, settings: EngineSettings
) -> tuple[Parity, tuple[EngineLatency, ...]]:
    """Compare a plan with the golden output, and time calls of every usual size.

    Raises
    ------
    BundleRefused
        It computes something else than the export.
    """
    engine = open_plan(plan, settings)
    try:
        worst = self_test(engine, bundle, options.precision)
        parity = Parity(worst=worst, agreement=_agreement(engine, bundle))
        sizes = sorted({options.shapes[BATCH][k][0] for k in range(3)})
        return parity, tuple(_latency(engine, options, rows) for rows in sizes)
    finally:
        engine.close()


def _manifest(
    options: BuildOptions,
    machine: BuildMachine,
    driver: str,
    built: Built,
    created_at: datetime,
    *,
    parity: Parity,
    latency: tuple[EngineLatency, ...],
) -> EngineManifest:
    """Say what an engine was built from, where, and how it did there."""
    return EngineManifest(
        order=options,
        site=machine,
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


def _refuse_read_only(folder: Path) -> None:
    """Refuse a folder that cannot be written, before minutes are spent on building.

    Raises
    ------
    ConfigurationInvalid
        A file cannot be written there.
    """
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
    golden = bundle.golden.get(STATE)
    state = None if golden is None else np.asarray(golden, np.float32)
    logits = engine.infer(image, state).tensors["logits"]
    expected = np.asarray(bundle.golden["logits"])
    return float((logits.argmax(1) == expected.argmax(1)).mean())


def _latency(engine: TensorRTEngine, options: BuildOptions, rows: int) -> EngineLatency:
    """Measure whole calls with `rows` rows of the usual shape."""
    _, usual, _ = options.shapes[BATCH]
    batch = np.zeros((rows, *usual[1:]), np.uint8)
    state = None
    if STATE in options.shapes:
        state = np.zeros((rows, options.shapes[STATE][0][1]), np.float32)
    calls_ms: list[float] = []
    while len(calls_ms) < _MAX_CALLS and (
        len(calls_ms) < _MIN_CALLS or sum(calls_ms) < _MAX_MS
    ):
        start = time.perf_counter()
        engine.infer(batch, state)
        calls_ms.append((time.perf_counter() - start) * 1e3)
    median, p99 = np.percentile(calls_ms[_WARM_UP:], [50, 99]).round(4).tolist()
    return EngineLatency(
        rows=rows, median_ms=median, p99_ms=p99, calls=len(calls_ms) - _WARM_UP
    )


def run_in_thread(
    work: Callable[[], EngineManifest], cancel: threading.Event
) -> EngineManifest:
    """Do `work` in a thread of its own, so that Ctrl-C cancels it.

    TensorRT builds without the interpreter lock, so the main thread stays free to
    receive the interrupt. The engine that is proven belongs to the thread of `work`.
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
