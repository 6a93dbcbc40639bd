"""Bundles and engines: are they whole, do they fit, do they compute what they did."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

from edge.artifacts.bundle import CLASSIFIER, LOCATOR, SEQUENCE, Bundle, load_bundle
from edge.artifacts.profile import IDENTITY_PROFILE, load_profile
from edge.doctor.device import ExaminedDevice, SettingMissing
from edge.doctor.findings import Finding, fault_of, ok, unknown, warning
from edge.doctor.processes import is_hidden, run_process
from edge.engines.cuda import Gpu
from edge.engines.opening import open_engine, stale_engine
from edge.engines.tensorrt_runtime import load_tensorrt
from edge.errors import HemascopeError
from edge.pipeline.parts import load_model, shipped_classifier
from edge.settings.models import ON_CPU, EngineSettings
from edge.stages.detection import locator_spec

_ENGINE = "see docs/jetson.md, or set engine = 'onnxruntime' in [model]"
Load = Callable[[], tuple[Bundle, EngineSettings]]


def check_bundle(subject: ExaminedDevice) -> Iterator[Finding]:
    """Verify every file of each bundle, and its golden input on the CPU."""
    for what, load in _models(subject).items():
        try:
            bundle, _ = load()
            open_engine(bundle, ON_CPU).close()
        except HemascopeError as error:
            yield fault_of("bundle", error, "copy the bundle again", prefix=f"{what}: ")
        else:
            yield ok(
                "bundle",
                f"{what} {bundle.id}: {len(bundle.record.files)} files intact, task "
                f"{bundle.record.task}, golden outputs reproduced",
            )


def check_engine(subject: ExaminedDevice) -> Iterator[Finding]:
    """Open what runs the models, as `run` would; leave the GPU alone while it does."""
    settings = subject.model
    is_busy = _is_run_at_work(subject)
    if settings.engine == "tensorrt":
        try:
            yield _gpu()
        except HemascopeError as error:
            yield fault_of("engine", error, _ENGINE)
            return
    for what, load in _models(subject).items():
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
            yield fault_of("engine", error, _ENGINE, prefix=f"{what}: ")


def _gpu() -> Finding:
    """Say which GPU and TensorRT there are."""
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
    """Open one engine and prove it."""
    if settings.engine == "tensorrt":
        path, reasons = stale_engine(bundle, settings)
        if reasons:
            return warning(
                "engine",
                f"{what}: {'; '.join(reasons)}",
                f"`hemascope build {bundle.folder} --precision {settings.precision}`; "
                "else the next start of run builds it, which takes minutes",
            )
        if is_busy:
            return ok("engine", f"{what}: {path.folder} fits; run is using it")
        runtime = "TensorRT"
    else:
        runtime = f"ONNX Runtime {version('onnxruntime')} on the CPU"
    open_engine(bundle, settings).close()
    return ok("engine", f"{what}: {settings.precision} by {runtime} is right")


def _is_run_at_work(subject: ExaminedDevice) -> bool:
    try:
        folder = subject.ledger.folder
        return is_hidden(folder) or run_process(folder) is not None
    except SettingMissing:
        return False


def _models(subject: ExaminedDevice) -> dict[str, Load]:
    """Return what loads each model that the settings name, and what runs it."""
    model = subject.model

    def classifier() -> tuple[Bundle, EngineSettings]:
        return load_model(model.bundle or _shipped(subject.profile), model), model

    def locator() -> tuple[Bundle, EngineSettings]:
        folder: Path = subject.location.bundle or LOCATOR
        bundle = load_bundle(folder, task="location")
        locator_spec(bundle)
        return bundle, EngineSettings(engine=model.engine, engines=model.engines)

    found: dict[str, Load] = {"classifier": classifier}
    if subject.location.mode == "cells":
        found["locator"] = locator
    follows = subject.sequence
    if follows is not None:
        found["sequence"] = lambda: (
            load_model(follows.bundle or SEQUENCE, follows),
            follows,
        )
    return found


def _shipped(profile: Path | None) -> Path:
    """Return the shipped classifier; what is wrong with a profile is said elsewhere."""
    try:
        return shipped_classifier(
            IDENTITY_PROFILE if profile is None else load_profile(profile)
        )
    except HemascopeError:
        return CLASSIFIER
