"""Say what an import that failed really lacks, and the one command that helps.

An import fails for four reasons: a package is not installed; a package that is
installed needs a shared library of the system that is not there; half of a package is
gone, as after `pip uninstall opencv-python-headless` beside opencv-python; or two
packages do not fit each other. Each has another remedy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, requires, version
from types import ModuleType

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_OURS = ("edge", "calibration", "training", "export", "hemascope")
# Names of packages that differ from the name that is imported.
_PACKAGES = {
    "cv2": "opencv-python",
    "gi": "pygobject",
    "paho": "paho-mqtt",
    "skimage": "scikit-image",
    "useq": "useq-schema",
}
# Builds of OpenCV that give the same module. Any one does; two overwrite each other.
OPENCV_BUILDS = (
    *("opencv-python", "opencv-python-headless"),
    *("opencv-contrib-python", "opencv-contrib-python-headless"),
)
# Libraries whose Debian package has another name than Debian's rule gives.
_DEBIAN = {
    "libgio-2.0.so.0": "libglib2.0-0",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libgobject-2.0.so.0": "libglib2.0-0",
    "libgthread-2.0.so.0": "libglib2.0-0",
    "libz.so.1": "zlib1g",
}
# Of these, apt-get has either nothing or something that does not fit the machine.
_OF_NVIDIA = re.compile(r"lib(cuda|cu[a-z]+|nv[a-z_]+)\b")


@dataclass(frozen=True, slots=True)
class ImportFault:
    """What is missing or broken, and the command that helps."""

    found: str
    remedy: str

    def __str__(self) -> str:
        """Both, in one line."""
        return f"{self.found}: {self.remedy}"


def import_fault(error: BaseException) -> ImportFault | None:
    """Explain an error of an import; None for one that is a fault of our own code.

    Parameters
    ----------
    error
        An `ImportError`, or an `AttributeError`: half a package imports well and then
        lacks its attributes.
    """
    if isinstance(error, AttributeError):
        module = error.obj if isinstance(error.obj, ModuleType) else None
        name = "" if module is None else module.__name__.partition(".")[0]
        if module is None or name in _OURS or hasattr(module, "__version__"):
            return None
        return _broken(name, "half of it is missing")
    if not isinstance(error, ImportError):
        return None
    library = library_fault(error)
    if library is not None:
        return library
    text = " ".join(str(error).split())
    name = (error.name or "").partition(".")[0]
    if name in _OURS or not (name or (name := _importing(error))):
        return None
    is_part = "." in (error.name or "")  # of a package that is there
    if isinstance(error, ModuleNotFoundError) and not is_part:
        package = _PACKAGES.get(name, name)
        found = f"this needs {package}, which is not installed here"
        return ImportFault(found, install_command(package))
    return _broken(name, text)


def library_fault(error: BaseException) -> ImportFault | None:
    """Explain a shared library that is missing; None if it is something else."""
    library = re.match(
        r"(\S+\.so[.\d]*): cannot open shared object file", str(error).strip()
    )
    if library is None:
        return None
    return ImportFault(f"{library[1]} is missing", _library_remedy(library[1]))


def install_command(package: str) -> str:
    """Return the command that installs a package, and what else of its extra lacks."""
    for required, extra in _requirements():
        if canonicalize_name(required.name) != canonicalize_name(package):
            continue
        if extra is None:
            missing = [r for r, of in _requirements() if of is None and _lacks(r)]
            names = [f"'{r.name}{r.specifier}'" for r in missing]
            return f"pip install {' '.join(names) or package}"
        return f"run `pip install '.[{extra}]'` in the project's folder"
    return f"pip install {package}"


def opencv_builds() -> dict[str, str]:
    """Return the builds of OpenCV that are installed, with their versions."""
    found = {}
    for name in OPENCV_BUILDS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def opencv_remedy() -> str:
    """Return the command after which there is one whole OpenCV."""
    builds = [*opencv_builds()]
    if len(builds) < 2:
        return f"pip install --force-reinstall --no-deps {(builds or OPENCV_BUILDS)[0]}"
    kept = builds[0]
    return f"pip uninstall -y {' '.join(builds)} && pip install --no-deps {kept}"


def _broken(name: str, text: str) -> ImportFault:
    package = _PACKAGES.get(name, name)
    if package in OPENCV_BUILDS:
        package = next(iter(opencv_builds()), package)
        remedy = opencv_remedy()
    else:
        remedy = f"pip install --force-reinstall {package}"
    return ImportFault(
        f"{package} is damaged ({text[:300]})", f"reinstall {package}: {remedy}"
    )


def _library_remedy(library: str) -> str:
    if _OF_NVIDIA.match(library):
        return "it comes with the NVIDIA driver, CUDA or JetPack: see docs/jetson.md"
    return f"apt-get install {debian_package(library)}"


def debian_package(library: str) -> str:
    """Return the Debian package of a shared library.

    Debian Policy 8.1: the library's name and its version, divided by a hyphen if the
    name ends with a digit. `libGL.so.1` is in libgl1, `libX11.so.6` in libx11-6.
    """
    if library in _DEBIAN:
        return _DEBIAN[library]
    name, _, number = library.partition(".so")
    number = number.lstrip(".").partition(".")[0]
    joint = "-" if name[-1:].isdigit() and number else ""
    return f"{name}{joint}{number}".lower().replace("_", "-")


def _importing(error: ImportError) -> str:
    """Return the package of others whose import raised; "" if it was none."""
    trace, name = error.__traceback__, ""
    while trace is not None:
        module = str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        if module and module not in (*_OURS, "importlib", "__main__"):
            name = module
        trace = trace.tb_next
    return name


def _lacks(required: Requirement) -> bool:
    """Whether a package is missing; any build of OpenCV does."""
    names = OPENCV_BUILDS if required.name in OPENCV_BUILDS else (required.name,)
    for name in names:
        try:
            version(name)
        except PackageNotFoundError:
            continue
        return False
    return True


@cache
def _requirements() -> tuple[tuple[Requirement, str | None], ...]:
    """Return what we require, each with its extra; None for what everybody needs."""
    return tuple(_parsed())


def _parsed() -> Iterator[tuple[Requirement, str | None]]:
    for line in requires("hemascope") or ():
        required = Requirement(line)
        marker = required.marker
        extra = re.search(r"extra == ['\"]([^'\"]+)", str(marker or ""))
        if extra is not None:
            yield required, extra[1]
        elif marker is None or marker.evaluate({"extra": ""}):
            yield required, None
