"""Read the time plan of a useq-schema file, as other microscopy programs write it.

`useq-schema` is loaded here alone, and only where such a file is named. What this
device cannot do is refused by name: it has one place, one focus, one light.
"""

from __future__ import annotations

from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from edge.errors import ConfigurationInvalid
from edge.import_faults import import_fault

_AXES = {
    "p": "stage_positions",
    "g": "grid_plan",
    "z": "z_plan",
    "c": "channels",
}
_COUNTED = 10_000  # entries of an axis, at most


def read_phases(path: Path) -> list[tuple[int, int]]:
    """Return the phases of the time plan in a file: interval (ns) and points of each.

    Raises
    ------
    ConfigurationInvalid
        `useq-schema` is not installed, the file is none of it, has no time plan, or
        asks for what cannot be done here.
    """
    sequence = _read(path)
    _refuse_what_cannot_be(path, sequence)
    plan = sequence.time_plan
    if plan is None:
        raise ConfigurationInvalid(
            f"{path}: has no time_plan; expected one with interval and loops or "
            "duration. To examine without a pause leave [schedule] out"
        )
    phases = getattr(plan, "phases", None) or [plan]
    return [(_interval_ns(phase), int(phase.loops)) for phase in phases]


def _read(path: Path) -> Any:
    try:
        import useq
    except ImportError as error:
        raise ConfigurationInvalid(
            f"{path}: a useq-schema file needs useq-schema: "
            f"{import_fault(error) or error}; or write the schedule into the settings"
        ) from error
    if path.suffix.lower() not in (".yaml", ".yml", ".json"):
        raise ConfigurationInvalid(f"{path}: expected a name in .yaml, .yml or .json")
    try:
        return useq.MDASequence.from_file(path)
    except Exception as error:  # whatever its parsers raise, the file is at fault
        text = " ".join(str(error).split())[:500]
        raise ConfigurationInvalid(
            f"{path}: not a useq-schema sequence: {text or repr(error)}"
        ) from error


def _refuse_what_cannot_be(path: Path, sequence: Any) -> None:
    """Refuse axes with more than one entry, and what needs a stage or a focus drive."""
    sizes = {
        name: sum(1 for _ in islice(sequence.iter_axis(axis), _COUNTED))
        for axis, name in _AXES.items()
    }
    wrong = [f"{name} ({size} entries)" for name, size in sizes.items() if size > 1]
    if any(position.sequence is not None for position in sequence.stage_positions):
        wrong.append("a sequence within stage_positions")
    if any(channel.acquire_every != 1 for channel in sequence.channels):
        wrong.append("channels with acquire_every")
    wrong += [n for n in ("autofocus_plan", "setup") if getattr(sequence, n, None)]
    if wrong:
        raise ConfigurationInvalid(
            f"{path}: asks for {', '.join(wrong)}, which nothing here can drive; "
            "expected a time_plan, and of every other axis at most one entry"
        )


def _interval_ns(phase: Any) -> int:
    """Return the interval exactly; a single point has none."""
    if phase.loops <= 1:
        return 0
    return int(phase.interval / timedelta(microseconds=1)) * 1000
