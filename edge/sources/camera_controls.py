"""Lock what a camera would change by itself, and read back how it is set."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol, get_args

from edge.frames import SourceLost
from edge.schema.results import BalanceName, ControlName, Controls
from edge.settings.sources import ControlSettings
from edge.sources.control_values import NAMES, control_of, is_same, show, values_of

log = logging.getLogger(__name__)

CONTROLS: tuple[ControlName, ...] = get_args(ControlName)
COLOURS: tuple[BalanceName, ...] = get_args(BalanceName)
_READ_INTERVAL_S = 1.0


class ControlRefused(SourceLost):
    """The camera does not take a control as the settings want it.

    At the start this ends the process like any wrong setting. When a camera that was
    lost is opened again, it is tried again: drivers need a moment.
    """

    exit_code = 78


class ControlNotApplied(Exception):
    """The driver refused one control; the message is the driver's."""


class ControlRange(NamedTuple):
    """The values that a control takes; with `step` 0 every value between them."""

    low: float
    high: float
    step: float = 0.0


class CameraControls(Protocol):
    """The controls of one camera, as its driver offers them.

    Values are named `exposure_ms`, `gain`, `white_balance_k`, `balance.red`,
    `balance.green`, `balance.blue` and `gamma`. Every method may raise
    `ControlNotApplied`.
    """

    def span(self, value: str) -> ControlRange | None:
        """Return the range of a value; None if this camera has no such control."""

    def get(self, value: str) -> float:
        """Read a value back from the driver."""

    def set(self, value: str, number: float) -> None:
        """Ask for a value. Only reading it back tells what the camera made of it."""

    def automatic(self, control: ControlName) -> bool | None:
        """Whether the camera changes a control by itself; None if it never does."""

    def set_automatic(self, control: ControlName, is_on: bool) -> None:
        """Let the camera change a control by itself, or not."""


def lock(driver: CameraControls, wanted: ControlSettings, camera: str) -> Controls:
    """Turn automatics off, set the wanted values, and return all values read back.

    An automatic that cannot be turned off is logged, and every result names it in
    `Controls.automatic`.

    Raises
    ------
    ControlRefused
        A wanted value is not what the camera has afterwards.
    SourceLost
        The driver does not answer.
    """
    for control in CONTROLS:
        _lock_control(driver, control, control in wanted.automatic, camera)
    for value, number in _wanted_values(wanted).items():
        _set_value(driver, value, number, camera)
    try:
        controls = read(driver)
    except ControlNotApplied as error:
        raise SourceLost(f"{camera}: {error}; unplug it and plug it in again") from None
    readable = ", ".join(f"{n} {show(n, v)}" for n, v in values_of(controls).items())
    log.info(
        "camera=%s has %s; automatic: %s",
        camera,
        readable or "no readable controls",
        ", ".join(controls.automatic) or "nothing",
    )
    return controls


def read(driver: CameraControls) -> Controls:
    """Read back how the camera is set; None for what the driver does not tell.

    Raises
    ------
    ControlNotApplied
        The driver answers no question at all.
    """
    answers: list[bool] = []

    def known(value: str) -> float | None:
        if driver.span(value) is None:
            return None
        try:
            number = driver.get(value)
        except ControlNotApplied:
            number = None
        answers.append(number is not None)
        return number

    balance = {c: known(f"balance.{c}") for c in COLOURS}
    controls = Controls(
        exposure_ms=known("exposure_ms"),
        gain=known("gain"),
        white_balance_k=known("white_balance_k"),
        balance={c: v for c, v in balance.items() if v is not None},
        gamma=known("gamma"),
        automatic=tuple(c for c in CONTROLS if _is_automatic(driver, c)),
    )
    if answers and not any(answers):
        raise ControlNotApplied("the driver does not tell how the camera is set")
    return controls


class Readback:
    """How a camera is set now, asked of its driver at most once a second.

    Controls that are as before are the same object as before. None while the driver
    does not answer.
    """

    def __init__(
        self,
        driver: CameraControls,
        first: Controls,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._driver, self._monotonic = driver, monotonic
        self._controls: Controls | None = first
        self._read_s = monotonic()

    def now(self) -> Controls | None:
        """Return what was read within the last second."""
        if self._monotonic() - self._read_s < _READ_INTERVAL_S:
            return self._controls
        self._read_s = self._monotonic()
        try:
            controls: Controls | None = read(self._driver)
        except ControlNotApplied as error:
            if self._controls is not None:
                log.warning("controls of the camera cannot be read: %s", error)
            controls = None
        if controls != self._controls:
            self._controls = controls
        return self._controls


def _is_automatic(driver: CameraControls, control: ControlName) -> bool | None:
    try:
        return driver.automatic(control)
    except ControlNotApplied:
        return None


def _lock_control(
    driver: CameraControls, control: ControlName, is_wanted: bool, camera: str
) -> None:
    is_on = _is_automatic(driver, control)
    if is_on is None and is_wanted:
        raise ControlRefused(
            f"{camera}: {control} cannot be automatic; leave it out of automatic in "
            "[source.controls]"
        )
    if is_on is None or is_on == is_wanted:
        return
    try:
        driver.set_automatic(control, is_wanted)
        has_changed = _is_automatic(driver, control) == is_wanted
        reason = "" if has_changed else "the driver left it as it was"
    except ControlNotApplied as error:
        reason = str(error)
    if reason:
        log.warning(
            "camera=%s automatic %s cannot be turned %s: %s",
            camera,
            control,
            "on" if is_wanted else "off",
            reason,
        )


def _set_value(driver: CameraControls, value: str, number: float, camera: str) -> None:
    name = NAMES.get(value, value.replace(".", " of "))
    span = driver.span(value)
    if span is None:
        raise ControlRefused(
            f"{camera}: has no {name} that could be set here, {value} is "
            f"{show(value, number)}; leave it out of [source.controls]"
        )
    allowed = f"it takes {show(value, span.low)} to {show(value, span.high)}"
    nearest = min(max(number, span.low), span.high)
    if not is_same(number, nearest):
        raise ControlRefused(
            f"{camera}: {value} {show(value, number)} cannot be had; {allowed}"
        )
    try:
        driver.set(value, number)
        got = driver.get(value)
    except ControlNotApplied as error:
        raise ControlRefused(
            f"{camera}: {value} {show(value, number)} is refused ({error}); {allowed}"
        ) from error
    if not is_same(number, got) and abs(got - number) > span.step:
        is_held = _is_automatic(driver, control_of(value))
        while_held = " while it is automatic" if is_held else ""
        raise ControlRefused(
            f"{camera}: {name} is {show(value, got)}{while_held}, asked for "
            f"{show(value, number)}; {allowed}"
        )


def _wanted_values(settings: ControlSettings) -> dict[str, float]:
    """Return the values that the settings give, by name."""
    return values_of(
        Controls(
            exposure_ms=settings.exposure_ms,
            gain=settings.gain,
            white_balance_k=settings.white_balance_k,
            balance=settings.balance,
            gamma=settings.gamma,
        )
    )
