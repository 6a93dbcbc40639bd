"""Bundles and engines: whether they are whole, fit, and compute correctly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

from edge.artifacts.bundle import CLASSIFIER, LOCATOR, SEQUENCE, Bundle, load_bundle
from edge.artifacts.profile import IDENTITY_PROFILE, load_profile
from edge.doctor.device import ExaminedDevice, SettingMissing
from edge.doctor.findings import Finding, fault_from, ok, unknown, warning
from edge.doctor.processes import may_not_see_processes, run_process
from edge.engines.cuda import Gpu
from edge.engines.opening import open_engine, stale_engine
from edge.engines.tensorrt_runtime import load_tensorrt
from edge.errors import HemascopeError
from edge.pipeline.parts import load_model, shipped_classifier
from edge.settings.models import ON_CPU, EngineSettings
from edge.stages.detection import locator_spec

_ENGINE_REMEDY = "follow docs/jetson.md, or set engine = 'onnxruntime' in [model]"
Load = Callable[[], tuple[Bundle, EngineSettings]]


def check_bundle(device: ExaminedDevice) -> Iterator[Finding]:
    """Verify every file of each bundle, and its golden output on the CPU."""
    for what, load in _models(device).items():
        try:
            bundle, _ = load()
            open_engine(bundle, ON_CPU).close()
        except HemascopeError as error:
            yield fault_from(
                "bundle", error, "copy the bundle again", prefix=f"{what}: "
            )
        else:
            yield ok(
                "bundle",
                f"{what} {bundle.id}: {len(bundle.record.files)} files are intact, "
                f"task {bundle.record.task}, golden output reproduced",
            )


def check_engine(device: ExaminedDevice) -> Iterator[Finding]:
    """Open the engines as `run` would.

    While `run` is at work no TensorRT engine is opened, so that `run` keeps the GPU.
    """
    settings = device.model
    is_busy = _is_run_at_work(device)
    if settings.engine == "tensorrt":
        try:
            yield _gpu()
        except HemascopeError as error:
            yield fault_from("engine", error, _ENGINE_REMEDY)
            return
    for what, load in _models(device).items():
        try:
            bundle, chosen = load()
        except HemascopeError:
            yield unknown(
                "engine",
                f"{what}: the bundle cannot be loaded",
                "see to the finding on the bundle first",
            )
            continue
        try:
            yield _open(what, bundle, chosen, is_busy=is_busy)
        except HemascopeError as error:
            yield fault_from("engine", error, _ENGINE_REMEDY, prefix=f"{what}: ")


def _gpu() -> Finding:
    """Return which GPU and TensorRT there are."""
    with closing(Gpu()) as gpu:
        trt = load_tensorrt()
        kind = "integrated" if gpu.is_integrated else "discrete"
        return ok(
            "engine",
            f"{gpu.name} ({kind}, compute {gpu.compute_capability}, driver "
            f"{gpu.driver}), {trt.__name__} {trt.__version__}",
        )


def _open(
    what: str, bundle: Bundle, settings: EngineSettings, *, is_busy: bool
) -> Finding:
    """Open one engine, which computes the golden output."""
    if settings.engine == "tensorrt":
        engine_path, reasons = stale_engine(bundle, settings)
        if reasons:
            return warning(
                "engine",
                f"{what}: {'; '.join(reasons)}",
                f"run `hemascope build {bundle.folder} --precision "
                f"{settings.precision}`; otherwise the next start of run builds it, "
                "which takes minutes",
            )
        if is_busy:
            return ok(
                "engine",
                f"{what}: {engine_path.folder} fits; run uses it, so it was not opened",
            )
        runtime = "TensorRT"
    else:
        runtime = f"ONNX Runtime {version('onnxruntime')} on the CPU"
    open_engine(bundle, settings).close()
    return ok("engine", f"{what}: {settings.precision} by {runtime} computes correctly")


def _is_run_at_work(device: ExaminedDevice) -> bool:
    try:
        folder = device.ledger.folder
        return may_not_see_processes(folder) or run_process(folder) is not None
    except SettingMissing:
        return False


def _models(device: ExaminedDevice) -> dict[str, Load]:
    """Return, for each model that the settings name, how to load it.

    Loading returns the bundle and the settings of its engine.
    """
    model = device.model

    def classifier() -> tuple[Bundle, EngineSettings]:
        return load_model(model.bundle or _shipped(device.profile), model), model

    def locator() -> tuple[Bundle, EngineSettings]:
        folder: Path = device.location.bundle or LOCATOR
        bundle = load_bundle(folder, task="location")
        locator_spec(bundle)
        return bundle, EngineSettings(engine=model.engine, engines=model.engines)

    models: dict[str, Load] = {"classifier": classifier}
    if device.location.mode == "cells":
        models["locator"] = locator
    sequence = device.sequence
    if sequence is not None:
        models["sequence"] = lambda: (
            load_model(sequence.bundle or SEQUENCE, sequence),
            sequence,
        )
    return models


def _shipped(profile: Path | None) -> Path:
    """Return the shipped classifier that suits a profile.

    If the profile is wrong, the check of the calibration reports it.
    """
    try:
        return shipped_classifier(
            IDENTITY_PROFILE if profile is None else load_profile(profile)
        )
    except HemascopeError:
        return CLASSIFIER
