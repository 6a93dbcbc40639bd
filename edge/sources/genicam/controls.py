"""Controls of a GenICam camera, by the names of the Standard Features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from edge.schema.results import ControlName
from edge.sources.camera_controls import COLOURS, ControlNotApplied, ControlRange

Answer = TypeVar("Answer")

_WHITE, _SELECTOR, _RATIO = "BalanceWhiteAuto", "BalanceRatioSelector", "BalanceRatio"
_GAMMA, _GAMMA_ON = "Gamma", ("GammaEnable", "GammaEnabled")


class GenICamControls:
    """See `CameraControls`. `camera` is Aravis', `failure` what its calls raise."""

    def __init__(self, camera: Any, aravis: Any, failure: type[Exception]) -> None:
        self._camera, self._auto, self._failure = camera, aravis.Auto, failure
        self._colours: list[str] = []
        if self._has(_SELECTOR) and self._has(_RATIO):
            there = camera.dup_available_enumerations_as_strings(_SELECTOR)
            self._colours = [c for c in COLOURS if c.capitalize() in there]
        self._gamma_on = next((n for n in _GAMMA_ON if self._has(n)), None)
        self._values = {value: self._offered(value) for value in _OFFERED}
        self._automatic = {
            "exposure": camera.is_exposure_auto_available(),
            "gain": camera.is_gain_auto_available(),
            "white_balance": self._has(_WHITE),
        }

    def span(self, value: str) -> ControlRange | None:
        """See `CameraControls.span`."""
        if not self._values.get(value, False):
            return None
        return self._ask(lambda: self._span(value))

    def get(self, value: str) -> float:
        """See `CameraControls.get`."""
        return round(self._ask(lambda: self._get(value)), 6)

    def set(self, value: str, number: float) -> None:
        """See `CameraControls.set`."""
        self._ask(lambda: self._set(value, number))

    def automatic(self, control: ControlName) -> bool | None:
        """See `CameraControls.automatic`."""
        if not self._automatic.get(control, False):
            return None
        return self._ask(lambda: self._is_automatic(control))

    def set_automatic(self, control: ControlName, is_on: bool) -> None:
        """See `CameraControls.set_automatic`."""
        mode = self._auto.CONTINUOUS if is_on else self._auto.OFF

        def call() -> None:
            if control == "exposure":
                self._camera.set_exposure_time_auto(mode)
            elif control == "gain":
                self._camera.set_gain_auto(mode)
            else:
                self._camera.set_string(_WHITE, "Continuous" if is_on else "Off")

        self._ask(call)

    def _is_automatic(self, control: ControlName) -> bool:
        if control == "exposure":
            return bool(self._camera.get_exposure_time_auto() != self._auto.OFF)
        if control == "gain":
            return bool(self._camera.get_gain_auto() != self._auto.OFF)
        return bool(self._camera.get_string(_WHITE) != "Off")

    def _offered(self, value: str) -> bool:
        if value == "exposure_ms":
            return bool(self._camera.is_exposure_time_available())
        if value == "gain":
            return bool(self._camera.is_gain_available())
        if value == "gamma":
            return self._has(_GAMMA)
        return value.partition(".")[2] in self._colours

    def _span(self, value: str) -> ControlRange:
        if value == "exposure_ms":
            low, high = self._camera.get_exposure_time_bounds()
            return ControlRange(low / 1e3, high / 1e3, 1e-3)
        if value == "gain":
            return ControlRange(*self._camera.get_gain_bounds())
        if value != "gamma":
            self._select(value)
        name = _GAMMA if value == "gamma" else _RATIO
        return ControlRange(*self._camera.get_float_bounds(name))

    def _get(self, value: str) -> float:
        if value == "exposure_ms":
            return float(self._camera.get_exposure_time()) / 1e3
        if value == "gain":
            return float(self._camera.get_gain())
        if value != "gamma":
            self._select(value)
            return float(self._camera.get_float(_RATIO))
        if self._gamma_on and not self._camera.get_boolean(self._gamma_on):
            return 1.0
        return float(self._camera.get_float(_GAMMA))

    def _set(self, value: str, number: float) -> None:
        if value == "exposure_ms":
            self._camera.set_exposure_time(number * 1e3)
        elif value == "gain":
            self._camera.set_gain(number)
        elif value == "gamma":
            if self._gamma_on:
                self._camera.set_boolean(self._gamma_on, True)
            self._camera.set_float(_GAMMA, number)
        else:
            self._select(value)
            self._camera.set_float(_RATIO, number)

    def _select(self, value: str) -> None:
        """Say which colour the ratio is of."""
        self._camera.set_string(_SELECTOR, value.partition(".")[2].capitalize())

    def _has(self, feature: str) -> bool:
        return bool(self._camera.is_feature_available(feature))

    def _ask(self, call: Callable[[], Answer]) -> Answer:
        try:
            return call()
        except self._failure as error:
            raise ControlNotApplied(str(error)) from error


_OFFERED = ("exposure_ms", "gain", "gamma", *(f"balance.{c}" for c in COLOURS))
