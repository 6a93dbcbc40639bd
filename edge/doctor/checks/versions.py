"""Installed versions, compared with those that the package requires."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, metadata, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from edge import __version__
from edge.doctor.device import ExaminedDevice, SettingMissing
from edge.doctor.findings import Finding, fault, ok, warning
from edge.engines.build_manifest import l4t_release
from edge.import_faults import opencv_builds, opencv_remedy

_NAME, _OPENCV = "versions", "opencv-python"
# A lab server, which archives, serves and watches, is installed without these.
_DECODERS = ("pillow", "simplejpeg", "tifffile")
ONLY_DEVICES_NEED = ("onnxruntime", _OPENCV, "scipy", *_DECODERS)
_GPU_PACKAGES = ("tensorrt", "pycuda")  # listed only where they are installed
_LISTED = ("numpy", "opencv-python", "onnxruntime", "paho-mqtt", "scipy", "msgspec")


def check_versions(device: ExaminedDevice) -> Iterator[Finding]:
    """Compare Python and the packages with what hemascope requires."""
    package = metadata("hemascope")
    required_python = package["Requires-Python"] or ""
    python = platform.python_version()
    if not SpecifierSet(required_python).contains(python):
        yield fault(
            _NAME,
            f"Python {python}, expected {required_python}",
            "make the virtual environment with that version",
        )
    if package["Version"] != __version__:
        yield warning(
            _NAME,
            f"hemascope {__version__} runs, but {package['Version']} is installed",
            "install it again with `pip install .`",
        )
    extras = {*_extras_of(device)}
    is_server = device.config is None and _is_lab_server()
    for line in package.get_all("Requires-Dist") or []:
        required = Requirement(line)
        if not (is_server and required.name in ONLY_DEVICES_NEED):
            yield from judge_requirement(required, extras)
    yield from judge_opencv(opencv_builds())
    release = l4t_release()
    yield ok(
        _NAME,
        f"hemascope {__version__}, Python {python} on {platform.machine()}, "
        + ", ".join(f"{name} {_version(name) or 'missing'}" for name in _LISTED)
        + "".join(
            f", {name} {_version(name)}" for name in _GPU_PACKAGES if _version(name)
        )
        + ("" if release is None else f", Jetson Linux {release}")
        + ("; a lab server, which needs none of those missing" if is_server else ""),
    )


def judge_opencv(builds: Mapping[str, str]) -> Iterator[Finding]:
    """Say which builds of OpenCV are here; two of them overwrite each other's files.

    Parameters
    ----------
    builds
        The names of those that are installed, and their versions.
    """
    names = " and ".join(f"{name} {number}" for name, number in builds.items())
    if len(builds) > 1:
        text = f"{names} are both installed, expected one: they overwrite each other"
        yield warning(_NAME, text, f"run `{opencv_remedy()}`")
    elif names and _OPENCV not in builds:
        yield ok(_NAME, f"{names} takes the place of {_OPENCV}, and does the same here")


def _is_lab_server() -> bool:
    """Whether all is missing that only devices need, as a lab server installs it."""
    # A library such as Pillow may be there for another program.
    needed = [name for name in ONLY_DEVICES_NEED if name not in _DECODERS]
    return not opencv_builds() and not any(map(_version, needed))


def _extras_of(device: ExaminedDevice) -> Iterator[str]:
    """Return the extras of the package that the settings need."""
    try:
        if device.model.engine == "tensorrt":
            yield "device"
    except SettingMissing:
        return


def judge_requirement(required: Requirement, extras: set[str]) -> Iterator[Finding]:
    """Return a finding if a package is missing or of a wrong version.

    A requirement of an extra counts only if the extra is among `extras`.
    """
    if required.marker is not None and not any(
        required.marker.evaluate({"extra": extra}) for extra in {"", *extras}
    ):
        return
    installed = _version(required.name)
    if installed is None and required.name == _OPENCV:
        installed = next(iter(opencv_builds().values()), None)
    if installed is None:
        expected = required.specifier or "any version"
        text = f"{required.name} is not installed, expected {expected}"
    elif not required.specifier.contains(installed, prereleases=True):
        text = f"{required.name} {installed}, expected {required.specifier}"
    else:
        return
    yield fault(_NAME, text, f"run `pip install '{required.name}{required.specifier}'`")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
