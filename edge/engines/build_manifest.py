"""The manifest of an engine: what it was built from, where, and its parity and latency.

A plan runs only on the device and the TensorRT version that built it. So it lies beside
its bundle in `engines/<key>/`, with a manifest, `passport.json`. Before a plan is used
its manifest is compared with the bundle, the settings and this machine. Where anything
differs, the plan is not loaded and every difference is named.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from edge.artifacts.bundle import Bundle
from edge.engines import BATCH, STATE, EngineFailed
from edge.engines.cuda import Gpu
from edge.engines.tensorrt_runtime import Flavour, flavour_of
from edge.errors import ConfigurationInvalid
from edge.schema.codec import encode, read_json
from edge.settings.models import EngineSettings, Precision

PLAN, MANIFEST = "engine.plan", "passport.json"
_L4T = Path("/etc/nv_tegra_release")
# A locator's frames, reduced: height and width, least, usual and most.
FIELD_PX = (64, 64), (272, 432), (1024, 1536)
Shape = tuple[int, ...]
NotNegative = Annotated[float, Meta(ge=0)]


class EngineStale(EngineFailed):
    """There is no engine that may be loaded; it must be built."""

    exit_code = 78


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class BuildOptions(_Record, frozen=True, kw_only=True):
    """What to build: the model, its precision, and least, usual and largest shapes."""

    onnx_sha256: str
    precision: Precision
    shapes: dict[str, tuple[Shape, Shape, Shape]]


class BuildMachine(_Record, frozen=True, kw_only=True):
    """The machine that builds. `l4t` is the release of Jetson Linux, None elsewhere."""

    flavour: Flavour
    tensorrt: str
    gpu: str
    compute_capability: str
    l4t: str | None
    machine: str


class EngineLatency(_Record, frozen=True, kw_only=True):
    """Milliseconds of one call, transfers included: median and 99th percentile."""

    rows: int
    median_ms: NotNegative
    p99_ms: NotNegative
    calls: int


class Parity(_Record, frozen=True, kw_only=True):
    """How far the engine is from the export on the golden input.

    `worst` is the largest difference of each output; `agreement` the share of rows of
    the same class, None of a locator.
    """

    worst: dict[str, NotNegative]
    agreement: Annotated[float, Meta(ge=0, le=1)] | None


class TensorRecord(_Record, frozen=True, kw_only=True):
    """An input or output of the plan; -1 is an axis that varies."""

    name: str
    dtype: str
    shape: Shape


class EngineManifest(_Record, frozen=True, kw_only=True):
    """`passport.json`, written last: a plan without it was not finished.

    `order` holds the options of the build, `site` the machine that built.
    """

    format: Literal[1] = 1
    order: BuildOptions
    site: BuildMachine
    plan_sha256: str
    driver: str
    has_tf32: bool
    workspace_bytes: int
    tensors: tuple[TensorRecord, ...]
    build_seconds: NotNegative
    created_at: datetime
    parity: Parity
    latency: tuple[EngineLatency, ...]


@dataclass(frozen=True, slots=True)
class EnginePath:
    """Where an engine lies, or will lie once it is built."""

    folder: Path

    @property
    def plan(self) -> Path:
        """The file that TensorRT reads."""
        return self.folder / PLAN

    @property
    def manifest(self) -> Path:
        """The file that says what the plan is."""
        return self.folder / MANIFEST


def build_options_of(
    bundle: Bundle,
    precision: Precision,
    batch: tuple[int, int, int],
    field_px: tuple[tuple[int, int], ...] = FIELD_PX,
) -> BuildOptions:
    """Return the options to build the engine of a bundle.

    Parameters
    ----------
    bundle
        The model.
    precision
        One that the bundle has.
    batch
        Least, usual and most rows of a classifier.
    field_px
        Least, usual and most height and width of a locator's frames.
    """
    size_px, state_size = bundle.record.input.size_px, bundle.record.state_size
    if size_px is None:
        shapes: dict[str, Any] = {BATCH: tuple((1, h, w, 3) for h, w in field_px)}
    else:
        shapes = {BATCH: tuple((n, size_px, size_px, 3) for n in batch)}
    if state_size is not None:
        shapes[STATE] = tuple((n, state_size) for n in batch)
    model = bundle.model_of(precision)
    return BuildOptions(
        onnx_sha256=hashlib.sha256(model).hexdigest(),
        precision=precision,
        shapes=shapes,
    )


def engine_path(bundle: Bundle, settings: EngineSettings) -> EnginePath:
    """Return where the engine for these settings lies."""
    root = bundle.folder / "engines"
    if settings.engines is not None:
        root = settings.engines / bundle.record.name
    ranges = "any" if bundle.record.input.size_px is None else settings.batch
    key = ranges if isinstance(ranges, str) else "-".join(str(n) for n in ranges)
    return EnginePath(root / f"{settings.precision}-{key}")


def this_machine(trt: Any, gpu: Gpu) -> BuildMachine:
    """Describe this device; `trt` is the module of TensorRT."""
    return BuildMachine(
        flavour=flavour_of(trt),
        tensorrt=str(trt.__version__),
        gpu=gpu.name,
        compute_capability=gpu.compute_capability,
        l4t=l4t_release(),
        machine=platform.machine(),
    )


def l4t_release(path: Path = _L4T) -> str | None:
    """Return the release of Jetson Linux, such as "36.4.3"; None elsewhere."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"R(\d+).*?REVISION:\s*([\d.]+)", text)
    return f"{found[1]}.{found[2]}" if found else text.strip()[:60]


def stale_reasons(
    path: EnginePath, options: BuildOptions, machine: BuildMachine
) -> list[str]:
    """Say why the engine at `path` may not be loaded; empty if it may.

    Parameters
    ----------
    path
        Of the engine.
    options
        What it should have been built for.
    machine
        The machine on which it would run.
    """
    if not path.manifest.exists():
        unfinished = "its building was not finished" if path.plan.exists() else ""
        return [unfinished or f"there is none in {path.folder}"]
    try:
        manifest = read_json(path.manifest, EngineManifest)
    except ConfigurationInvalid as error:
        return [f"its passport.json cannot be read: {error}"]
    reasons = [
        *_differences("built from", manifest.order, options),
        *_differences("built on", manifest.site, machine),
    ]
    try:
        found = hashlib.sha256(path.plan.read_bytes()).hexdigest()
    except OSError as error:
        return [*reasons, f"its plan cannot be read: {error.strerror}"]
    if found != manifest.plan_sha256:
        reasons.append(
            f"its plan was altered: sha256 {found[:12]}…, passport.json says "
            f"{manifest.plan_sha256[:12]}…"
        )
    return reasons


def _differences(what: str, then: msgspec.Struct, now: msgspec.Struct) -> list[str]:
    return [
        f"{what} {name} {_short(getattr(then, name))}, now {_short(getattr(now, name))}"
        for name in now.__struct_fields__
        if getattr(then, name) != getattr(now, name)
    ]


def _short(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_short(v)}" for k, v in value.items())
    if isinstance(value, str) and len(value) == 64:
        return f"{value[:12]}…"
    return str(value)


def read_plan(path: EnginePath) -> bytes:
    """Return the plan; ask `stale_reasons` first."""
    return path.plan.read_bytes()


def read_manifest(path: EnginePath) -> EngineManifest:
    """Read a manifest; raises `ConfigurationInvalid` where there is none."""
    return read_json(path.manifest, EngineManifest)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".part")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_manifest(path: EnginePath, manifest: EngineManifest) -> None:
    """Write the manifest, last of all: from now on the plan may be loaded."""
    write_atomically(path.manifest, msgspec.json.format(encode(manifest)) + b"\n")
