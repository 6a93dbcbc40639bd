"""Load TensorRT, tell its flavours apart, and pass its messages to our log."""

from __future__ import annotations

import importlib
import logging
from typing import Any, Literal

from edge.engines import EngineFailed
from edge.import_faults import library_fault

log = logging.getLogger(__name__)

# The RTX bindings come under two names: the full package, and the bindings alone.
# The first one that is there is taken: plain TensorRT is what Jetson devices have.
_MODULES = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")
Flavour = Literal["tensorrt", "tensorrt_rtx"]


def load_tensorrt() -> Any:
    """Import TensorRT, or TensorRT-RTX where there is none.

    Raises
    ------
    EngineFailed
        Neither is installed.
    """
    errors: list[ImportError] = []
    for name in _MODULES:
        try:
            return importlib.import_module(name)
        except ImportError as error:
            errors.append(error)
    # One that is there and cannot be loaded says more than one that is not there.
    broken = [e for e in errors if not isinstance(e, ModuleNotFoundError)]
    missing = (broken or errors)[0]
    raise EngineFailed(
        f"TensorRT is missing ({library_fault(missing) or missing}); it comes "
        "with JetPack: create the virtual environment with the system's "
        "Python and --system-site-packages, see docs/jetson.md"
    )


def flavour_of(trt: Any) -> Flavour:
    """Return "tensorrt" or "tensorrt_rtx": one cannot load the other's plans."""
    return "tensorrt_rtx" if "rtx" in trt.__name__ else "tensorrt"


def new_log(trt: Any) -> Any:
    """Return a TensorRT logger that passes messages to our log and keeps `errors`."""
    levels = {
        trt.ILogger.Severity.INTERNAL_ERROR: logging.ERROR,
        trt.ILogger.Severity.ERROR: logging.ERROR,
        trt.ILogger.Severity.WARNING: logging.WARNING,
    }

    # Defined here, since its base class is known only once TensorRT is loaded. Keeping
    # the ERROR lines is enough, and simpler than TensorRT's IErrorRecorder.
    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            # pybind11 refuses an object whose C++ base was not constructed.
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            level = levels.get(severity, logging.DEBUG)
            log.log(level, "%s", message)
            if level == logging.ERROR:
                self.errors.append(message)

    return Log()
