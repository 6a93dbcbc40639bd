"""The passport of an engine: what it was built from, where, and how it did there.

A plan runs on the device and the TensorRT that built it. So it lies beside its bundle
in `engines/<key>/` with a passport that says all that; where anything differs today,
the plan is not loaded and every difference is named.
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

PLAN, PASSPORT = "engine.plan", "passport.json"
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
    """What is to be built: the model, its precision, and least, usual, most shapes."""

    onnx_sha256: str
    precision: Precision
    shapes: dict[str, tuple[Shape, Shape, Shape]]


class BuildMachine(_Record, frozen=True, kw_only=True):
    """Where it is built. `l4t` is the release of Jetson Linux, None elsewhere."""

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
    """`passport.json`, written last: a plan without it was not finished."""

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
    """Where the engine of an order lies, or will lie."""

    folder: Path

    @property
    def plan(self) -> Path:
        """The file that TensorRT reads."""
        return self.folder / PLAN

    @property
    def passport(self) -> Path:
        """The file that says what the plan is."""
        return self.folder / PASSPORT


def order_of(
    bundle: Bundle,
    precision: Precision,
    batch: tuple[int, int, int],
    field_px: tuple[tuple[int, int], ...] = FIELD_PX,
) -> BuildOptions:
    """Return what to build of a bundle.

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


def place_of(bundle: Bundle, settings: EngineSettings) -> EnginePath:
    """Return where the engine for these settings lies."""
    root = bundle.folder / "engines"
    if settings.engines is not None:
        root = settings.engines / bundle.record.name
    ranges = "any" if bundle.record.input.size_px is None else settings.batch
    key = ranges if isinstance(ranges, str) else "-".join(str(n) for n in ranges)
    return EnginePath(root / f"{settings.precision}-{key}")


def present_site(trt: Any, gpu: Gpu) -> BuildMachine:
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


def why_stale(place: EnginePath, order: BuildOptions, site: BuildMachine) -> list[str]:
    """Say why the engine at `place` may not be loaded; empty if it may.

    Parameters
    ----------
    place
        Of the engine.
    order
        What is wanted of it.
    site
        Where it would run.
    """
    if not place.passport.exists():
        unfinished = "its building was not finished" if place.plan.exists() else ""
        return [unfinished or f"there is none in {place.folder}"]
    try:
        passport = read_json(place.passport, EngineManifest)
    except ConfigurationInvalid as error:
        return [f"its passport cannot be read: {error}"]
    reasons = [
        *_differences("built from", passport.order, order),
        *_differences("built on", passport.site, site),
    ]
    try:
        found = hashlib.sha256(place.plan.read_bytes()).hexdigest()
    except OSError as error:
        return [*reasons, f"its plan cannot be read: {error.strerror}"]
    if found != passport.plan_sha256:
        reasons.append(
            f"its plan was altered: sha256 {found[:12]}…, the passport says "
            f"{passport.plan_sha256[:12]}…"
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


def read_plan(place: EnginePath) -> bytes:
    """Return the plan; ask `why_stale` first."""
    return place.plan.read_bytes()


def read_passport(place: EnginePath) -> EngineManifest:
    """Read a passport; raises `ConfigurationInvalid` where there is none."""
    return read_json(place.passport, EngineManifest)


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


def write_passport(place: EnginePath, passport: EngineManifest) -> None:
    """Write the passport: from now on the plan counts."""
    write_atomically(place.passport, msgspec.json.format(encode(passport)) + b"\n")
