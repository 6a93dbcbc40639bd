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
_EVERY_S = 1.0


class ControlRefused(SourceLost):
    """The camera does not take a control as the settings want it.

    At the start this ends the process like any wrong setting. When a camera that was
    lost is opened again, it is tried again: drivers need a moment.
    """

    exit_code = 78


class ControlNotApplied(Exception):
    """The driver said no to one control; its words."""


class ControlRange(NamedTuple):
    """What values a control takes; `step` 0 is any."""

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
        """Return what a value may be; None if this camera has no such control."""

    def get(self, value: str) -> float:
        """Read a value back from the driver."""

    def set(self, value: str, number: float) -> None:
        """Ask for a value; only reading back tells what became of it."""

    def automatic(self, control: ControlName) -> bool | None:
        """Whether the camera changes a control by itself; None if it never does."""

    def set_automatic(self, control: ControlName, is_on: bool) -> None:
        """Let the camera change a control by itself, or not."""


def lock(knobs: CameraControls, wanted: ControlSettings, camera: str) -> Controls:
    """Turn off what is automatic, set what is wanted, and return what became of it.

    What is automatic and cannot be turned off is logged; `Controls.automatic` says it
    in every result.

    Raises
    ------
    ControlRefused
        A wanted value is not what the camera has afterwards.
    SourceLost
        The driver does not answer.
    """
    for control in CONTROLS:
        _lock_one(knobs, control, control in wanted.automatic, camera)
    for value, number in _wanted(wanted).items():
        _set_one(knobs, value, number, camera)
    try:
        controls = read(knobs)
    except ControlNotApplied as error:
        raise SourceLost(f"{camera}: {error}; unplug it and plug it in again") from None
    told = ", ".join(f"{n} {show(n, v)}" for n, v in values_of(controls).items())
    log.info(
        "camera=%s has %s; automatic: %s",
        camera,
        told or "no readable controls",
        ", ".join(controls.automatic) or "nothing",
    )
    return controls


def read(knobs: CameraControls) -> Controls:
    """Read back how the camera is set; None for what the driver does not tell.

    Raises
    ------
    NotTaken
        The driver answers nothing that was asked.
    """
    answers: list[bool] = []

    def known(value: str) -> float | None:
        if knobs.span(value) is None:
            return None
        try:
            number = knobs.get(value)
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
        automatic=tuple(c for c in CONTROLS if _is_automatic(knobs, c)),
    )
    if answers and not any(answers):
        raise ControlNotApplied("the driver tells nothing of how the camera is set")
    return controls


class Readback:
    """How a camera is set now, asked of its driver at most once a second.

    Controls that are as before are the same object as before. None while the driver
    does not answer.
    """

    def __init__(
        self,
        knobs: CameraControls,
        first: Controls,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._knobs, self._monotonic = knobs, monotonic
        self._controls: Controls | None = first
        self._read_s = monotonic()

    def now(self) -> Controls | None:
        """Return what was read within the last second."""
        if self._monotonic() - self._read_s < _EVERY_S:
            return self._controls
        self._read_s = self._monotonic()
        try:
            controls: Controls | None = read(self._knobs)
        except ControlNotApplied as error:
            if self._controls is not None:
                log.warning("controls of the camera cannot be read: %s", error)
            controls = None
        if controls != self._controls:
            self._controls = controls
        return self._controls


def _is_automatic(knobs: CameraControls, control: ControlName) -> bool | None:
    try:
        return knobs.automatic(control)
    except ControlNotApplied:
        return None


def _lock_one(
    knobs: CameraControls, control: ControlName, is_wanted: bool, camera: str
) -> None:
    is_on = _is_automatic(knobs, control)
    if is_on is None and is_wanted:
        raise ControlRefused(
            f"{camera}: {control} cannot be automatic; leave it out of automatic in "
            "[source.controls]"
        )
    if is_on is None or is_on == is_wanted:
        return
    try:
        knobs.set_automatic(control, is_wanted)
        has_changed = _is_automatic(knobs, control) == is_wanted
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


def _set_one(knobs: CameraControls, value: str, number: float, camera: str) -> None:
    name = NAMES.get(value, value.replace(".", " of "))
    span = knobs.span(value)
    if span is None:
        raise ControlRefused(
            f"{camera}: has no {name} that could be set here, {value} is "
            f"{show(value, number)}; leave it out of [source.controls]"
        )
    takes = f"it takes {show(value, span.low)} to {show(value, span.high)}"
    nearest = min(max(number, span.low), span.high)
    if not is_same(number, nearest):
        raise ControlRefused(
            f"{camera}: {value} {show(value, number)} cannot be had; {takes}"
        )
    try:
        knobs.set(value, number)
        got = knobs.get(value)
    except ControlNotApplied as error:
        raise ControlRefused(
            f"{camera}: {value} {show(value, number)} is refused ({error}); {takes}"
        ) from error
    if not is_same(number, got) and abs(got - number) > span.step:
        is_held = _is_automatic(knobs, control_of(value))
        held = " while it is automatic" if is_held else ""
        raise ControlRefused(
            f"{camera}: {name} is {show(value, got)}{held}, asked for "
            f"{show(value, number)}; {takes}"
        )


def _wanted(settings: ControlSettings) -> dict[str, float]:
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
