"""Which checks there are, and how long each may take."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module

from edge.doctor.device import ExaminedDevice
from edge.doctor.findings import Finding

Look = Callable[[ExaminedDevice], Iterable[Finding]]


@dataclass(frozen=True, slots=True)
class Check:
    """One check: the module of this folder that has it, and its deadline.

    The module is imported only where the check runs: whoever asks for the clock needs
    no OpenCV.
    """

    name: str
    module: str
    deadline_s: float

    def load(self) -> Look:
        """Import the function `check_<name>`."""
        found: Look = getattr(
            import_module(f"edge.doctor.checks.{self.module}"), f"check_{self.name}"
        )
        return found


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
        Check("broker", "delivery", 45),  # and the archive behind it
        Check("clock", "machine", 20),
        Check("disk", "machine", 20),
        Check("temperature", "machine", 20),
        Check("power", "machine", 30),
        Check("permissions", "permissions", 20),
        Check("versions", "versions", 20),
    )
}
