"""What a search for connected cameras tells: their address, model and controls."""

from __future__ import annotations

from typing import NamedTuple

from edge.sources.camera_controls import (
    COLOURS,
    CONTROLS,
    CameraControls,
    ControlNotApplied,
)
from edge.sources.control_values import show

_VALUES = ("exposure_ms", "gain", "white_balance_k", "gamma")


class FoundCamera(NamedTuple):
    """A connected camera.

    `address` is the line that names it in [source]; `about` its model, serial and bus;
    `controls` what can be set, with the present values.
    """

    kind: str
    address: str
    about: str
    controls: str = ""


def describe_controls(controls: CameraControls) -> str:
    """Describe what can be set, its present value and range, and what is automatic."""
    values = []
    for value in (*_VALUES, *(f"balance.{colour}" for colour in COLOURS)):
        span = controls.span(value)
        if span is None:
            continue
        try:
            now = show(value, controls.get(value))
        except ControlNotApplied as error:
            now = f"unreadable, {error}"
        values.append(f"{value} {now} ({span.low:g} to {span.high:g})")
    automatic = []
    for control in CONTROLS:
        try:
            if controls.automatic(control):
                automatic.append(control)
        except ControlNotApplied:
            continue
    values.append(f"automatic: {', '.join(automatic) or 'nothing'}")
    return ", ".join(values)
