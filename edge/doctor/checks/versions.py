"""Versions of what is installed, beside what the package asks for."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from edge import __version__
from edge.doctor.device import ExaminedDevice, SettingMissing
from edge.doctor.findings import Finding, fault, ok, warning
from edge.engines.build_manifest import l4t_release

_NAME = "versions"
_GPU = ("tensorrt", "pycuda")  # told where there are any
_TOLD = ("numpy", "opencv-python", "onnxruntime", "paho-mqtt", "scipy", "msgspec")


def check_versions(subject: ExaminedDevice) -> Iterator[Finding]:
    """Compare Python and the packages with what hemascope needs."""
    told = metadata("hemascope")
    python = told["Requires-Python"] or ""
    here = platform.python_version()
    if not SpecifierSet(python).contains(here):
        yield fault(
            _NAME, f"Python {here}, expected {python}", "make the environment with it"
        )
    if told["Version"] != __version__:
        yield warning(
            _NAME,
            f"hemascope {__version__} runs, {told['Version']} is installed",
            "install it again: `pip install .`",
        )
    wanted = {*_needs_gpu(subject)}
    for line in told.get_all("Requires-Dist") or []:
        yield from judge_requirement(Requirement(line), wanted)
    release = l4t_release()
    yield ok(
        _NAME,
        f"hemascope {__version__}, Python {here} on {platform.machine()}, "
        + ", ".join(f"{name} {_version(name) or 'missing'}" for name in _TOLD)
        + "".join(f", {name} {_version(name)}" for name in _GPU if _version(name))
        + ("" if release is None else f", Jetson Linux {release}"),
    )


def _needs_gpu(subject: ExaminedDevice) -> Iterator[str]:
    try:
        if subject.model.engine == "tensorrt":
            yield "device"
    except SettingMissing:
        return


def judge_requirement(wanted: Requirement, extras: set[str]) -> Iterator[Finding]:
    """Say where a package is missing or of another version; extras only if named."""
    if wanted.marker is not None and not any(
        wanted.marker.evaluate({"extra": extra}) for extra in {"", *extras}
    ):
        return
    found = _version(wanted.name)
    if found is None:
        text = f"{wanted.name} is not installed, expected {wanted.specifier or 'it'}"
    elif not wanted.specifier.contains(found, prereleases=True):
        text = f"{wanted.name} {found}, expected {wanted.specifier}"
    else:
        return
    yield fault(_NAME, text, f"`pip install '{wanted.name}{wanted.specifier}'`")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
