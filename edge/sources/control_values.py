"""Values of a camera's controls: their names, units, and differences in words."""

from __future__ import annotations

from collections.abc import Collection

from edge.schema.results import ControlName, Controls

SAME = 0.01  # share of a value: drivers round to their own steps

UNITS = {"exposure_ms": " ms", "white_balance_k": " K"}
NAMES = {"exposure_ms": "exposure", "white_balance_k": "white balance"}


def control_of(value: str) -> ControlName:
    """Return the control that a value belongs to."""
    match value.partition("."):
        case ["exposure_ms", _, _]:
            return "exposure"
        case ["white_balance_k" | "balance", _, _]:
            return "white_balance"
        case ["gamma", _, _]:
            return "gamma"
        case _:
            return "gain"


def values_of(controls: Controls) -> dict[str, float]:
    """Return the known values by name: `exposure_ms`, `balance.red`, and so on."""
    values = {
        "exposure_ms": controls.exposure_ms,
        "gain": controls.gain,
        "white_balance_k": controls.white_balance_k,
        "gamma": controls.gamma,
    }
    values |= {f"balance.{colour}": v for colour, v in controls.balance.items()}
    return {name: value for name, value in values.items() if value is not None}


def show(name: str, value: float) -> str:
    """Write a value with its unit."""
    return f"{value:g}{UNITS.get(name, '')}"


def is_same(before: float, now: float) -> bool:
    """Whether two values differ by no more than rounding."""
    return abs(now - before) <= SAME * max(abs(before), abs(now))


def differences(
    before: Controls, now: Controls, varying: Collection[ControlName] = ()
) -> list[str]:
    """Describe what changed between two moments.

    Parameters
    ----------
    before, now
        Controls of one camera. A value not known before is not compared.
    varying
        What may change by itself.

    Returns
    -------
    list[str]
        Such as "exposure is 8 ms, was 5 ms"; empty where all is as before.
    """
    parts = []
    was, known = values_of(before), values_of(now)
    for name, value in was.items():
        found = known.get(name)
        if control_of(name) in varying or (found is not None and is_same(value, found)):
            continue
        words = NAMES.get(name, name.replace(".", " of "))
        now_text = "unknown" if found is None else show(name, found)
        parts.append(f"{words} is {now_text}, was {show(name, value)}")
    for control in now.automatic:
        if control not in before.automatic and control not in varying:
            parts.append(f"{control.replace('_', ' ')} is automatic, was locked")
    return sorted(parts)
