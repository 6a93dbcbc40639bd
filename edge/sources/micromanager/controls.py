"""Controls and serial of a camera as Micro-Manager offers them.

It has a standard for exposure and gain alone; what else a camera has are properties
with names of the adapter's own, of which the usual ones are known here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from edge.schema.results import ControlName
from edge.sources.camera_controls import ControlNotApplied, ControlRange

Answer = TypeVar("Answer")

_VALUES = {"gain": ("gain",), "gamma": ("gamma",)}
_AUTOMATIC: dict[ControlName, tuple[str, ...]] = {
    "exposure": ("exposureauto", "autoexposure"),
    "gain": ("gainauto", "autogain"),
    "white_balance": ("balancewhiteauto", "whitebalanceauto", "autowhitebalance"),
}
_SERIAL = ("serialnumber", "cameraserialnumber", "deviceserialnumber", "cameraid")
_OFF = ("off", "manual", "0", "no", "false", "disabled")
_ON = ("continuous", "on", "auto", "1", "yes", "true", "enabled")


class MicroManagerControls:
    """See `CameraControls`. `core` is a pymmcore-plus core, `label` a camera of it."""

    def __init__(self, core: Any, label: str) -> None:
        self._core, self._label = core, label
        self._limits = {
            value: (name, self._limits_of(name))
            for value, names in _VALUES.items()
            for name in _properties_called(core, label, names)
            if self._is_number(name)
        }
        self._automatic = {
            control: found[0]
            for control, names in _AUTOMATIC.items()
            if (found := _properties_called(core, label, names))
        }

    def span(self, value: str) -> ControlRange | None:
        """See `CameraControls.span`."""
        if value == "exposure_ms":
            return self._limits_of("Exposure")
        return self._limits[value][1] if value in self._limits else None

    def get(self, value: str) -> float:
        """See `CameraControls.get`."""
        core, label = self._core, self._label
        if value == "exposure_ms":
            return _ask(lambda: float(core.getExposure(label)))
        name = self._limits[value][0]
        return _ask(lambda: float(core.getProperty(label, name)))

    def set(self, value: str, number: float) -> None:
        """See `CameraControls.set`."""
        core, label = self._core, self._label
        if value == "exposure_ms":
            _ask(lambda: core.setExposure(label, number))
            return
        name = self._limits[value][0]
        _ask(lambda: core.setProperty(label, name, f"{number:g}"))

    def automatic(self, control: ControlName) -> bool | None:
        """See `CameraControls.automatic`."""
        name = self._automatic.get(control)
        if name is None:
            return None
        now = _ask(lambda: self._core.getProperty(self._label, name))
        return _normalised(now) not in _OFF

    def set_automatic(self, control: ControlName, is_on: bool) -> None:
        """See `CameraControls.set_automatic`."""
        core, label, name = self._core, self._label, self._automatic[control]
        allowed = core.getAllowedPropertyValues(label, name)
        known = [
            g for m in (_ON if is_on else _OFF) for g in allowed if _normalised(g) == m
        ]
        if not known:
            raise ControlNotApplied(f"property {name} takes {', '.join(allowed)}")
        _ask(lambda: core.setProperty(label, name, known[0]))

    def _is_number(self, name: str) -> bool:
        try:
            float(self._core.getProperty(self._label, name))
        except (RuntimeError, ValueError):
            return False
        return not self._core.isPropertyReadOnly(self._label, name)

    def _limits_of(self, name: str) -> ControlRange:
        core, label = self._core, self._label
        if core.hasProperty(label, name) and core.hasPropertyLimits(label, name):
            low = core.getPropertyLowerLimit(label, name)
            high = core.getPropertyUpperLimit(label, name)
            if high > low:
                return ControlRange(low, high)
        return ControlRange(0.0, 1e6)


def serial_of(core: Any, label: str) -> str:
    """Return a camera's serial; an empty text where its adapter tells none."""
    found = _properties_called(core, label, _SERIAL)
    return str(core.getProperty(label, found[0])) if found else ""


def _properties_called(core: Any, label: str, names: tuple[str, ...]) -> list[str]:
    """Return the properties called so, whatever the case and the spaces."""
    properties = core.getDevicePropertyNames(label)
    return [
        given for name in names for given in properties if _normalised(given) == name
    ]


def _normalised(name: str) -> str:
    return name.replace(" ", "").replace("_", "").replace("-", "").lower()


def _ask(call: Callable[[], Answer]) -> Answer:
    try:
        return call()
    except (RuntimeError, ValueError) as error:
        raise ControlNotApplied(" ".join(str(error).split())) from error
