"""Which checks there are, and how long each may take.

A new check is a function `check_<name>` in a module of `edge.doctor.checks`, a line in
`CHECKS`, a way to break a device in `tests/broken.py`, and a line in the table of
`docs/doctor.md`. `tests/edge/doctor/test_registry.py` fails if one of these is missing
or misspelt: a function is named by a string here, which no type checker reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module

from edge.doctor.device import ExaminedDevice
from edge.doctor.findings import Finding

CheckFunction = Callable[[ExaminedDevice], Iterable[Finding]]


@dataclass(frozen=True, slots=True)
class Check:
    """One check: its name, the module that has its function, and its deadline.

    The module is imported only where the check runs. So the check of the clock needs no
    OpenCV, and a library that ends its process on import ends one check only.
    """

    name: str
    module: str
    deadline_s: float

    def load(self) -> CheckFunction:
        """Import the function `check_<name>`."""
        module = import_module(f"edge.doctor.checks.{self.module}")
        function: CheckFunction = getattr(module, f"check_{self.name}")
        return function


CHECKS = {
    check.name: check
    for check in (
        Check("settings", "settings", 10),
        Check("camera", "camera", 45),
        Check("bundle", "models", 60),
        Check("engine", "models", 90),
        Check("calibration", "calibration", 20),
        Check("ledger", "ledger", 30),
        Check("alarms", "ledger", 20),
        Check("broker", "delivery", 45),  # also finds out about the archive
        Check("clock", "machine", 20),
        Check("disk", "machine", 20),
        Check("temperature", "machine", 20),
        Check("power", "machine", 30),
        Check("permissions", "permissions", 20),
        Check("versions", "versions", 20),
    )
}
