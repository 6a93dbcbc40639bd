"""Watch whether the microscope still is what its calibration says.

Every frame brings its focus and the corrected colours of plasma, red cells and nuclei.
Each is compared with the calibration; where the calibration says nothing of it, with
the first good frames of the run. A drift is reported and nothing is changed: only a new
calibration corrects it. A limit is watched by a cumulative sum (Page, "Continuous
inspection schemes", 1954), so that a small lasting drift is found and noise is not.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge.artifacts.profile import Profile
from edge.schema.results import Drift, DriftStatus, SeenColours
from edge.stages.colour_statistics import delta_e, to_lab

log = logging.getLogger(__name__)

AMBER, RED = 2.0, 4.0  # ΔE (CIE76) of plasma
_SLACK = 0.75  # of a limit: smaller differences add nothing to the sum
_ENOUGH = 5.0  # limits times seconds: double the limit alarms after 4 s
_SMOOTH_S = 5.0  # time constant of the average that a row holds
_CLEARED = 0.7  # of a limit: below it an alarm ends
_LEARNT = 20  # frames of a run that stand in for the calibration,
_LEARNS_EVERY_S = 3.0  # so far apart that they show different cells
_BLIND_S = 60.0  # without any background for so long, drift is not known
_MAX_STEP_S = 5.0  # a longer gap counts as so long
_TIMES = {
    "background": 1.0,
    "red_cells": 3.0,
    "nuclei": 5.0,
}  # of the limits: stain varies by itself
_FOCUS = 0.5, 0.3  # of the run's own: amber, red

ADVICE = {
    "background": "let the lamp warm up, see that its voltage, the condenser and the "
    "camera's exposure and white balance are as they were, then calibrate the field",
    "red_cells": "the stain or its thickness is another here; calibrate the slide",
    "nuclei": "the stain of nuclei is another here; calibrate the slide",
    "focus": "focus again; clean the objective if that does not help",
}
_STATUS: tuple[DriftStatus, ...] = ("good", "amber", "red")
_Colour = NDArray[np.float64]


@dataclass(slots=True)
class _Chart:
    """One watched figure: its average and its cumulative sums against two limits."""

    expected: _Colour | None = None
    first: list[_Colour] = field(default_factory=list)
    rests_s: float = 0.0
    average: _Colour | None = None
    sums: tuple[float, float] = (0.0, 0.0)
    level: int = 0

    def follow(self, lab: _Colour, step_s: float, times: float) -> None:
        """Take a colour (3,) in CIELAB, seen `step_s` after the last."""
        if self.expected is None:
            self.rests_s -= step_s
            if self.rests_s > 0:
                return
            self.rests_s = _LEARNS_EVERY_S
            self.first.append(lab)
            if len(self.first) < _LEARNT:
                return
            self.expected = np.median(self.first, axis=0)
        share = 1 - float(np.exp(-step_s / _SMOOTH_S))
        if self.average is None:
            self.average = lab
        self.average = self.average + share * (lab - self.average)
        off, mean = delta_e(lab, self.expected), self.delta_e or 0.0
        levels = [times * AMBER, times * RED]
        sums = [
            max(0.0, s + step_s * (off / limit - _SLACK))
            for s, limit in zip(self.sums, levels, strict=True)
        ]
        self.sums = (min(sums[0], 2 * _ENOUGH), min(sums[1], 2 * _ENOUGH))
        for level, limit in enumerate(levels, 1):
            if self.sums[level - 1] >= _ENOUGH and self.level < level:
                self.level = level
            elif self.level == level and mean < _CLEARED * limit:
                self.level = level - 1

    @property
    def delta_e(self) -> float | None:
        """Distance of the average from what is expected."""
        if self.average is None or self.expected is None:
            return None
        return delta_e(self.average, self.expected)


class DriftWatch:
    """Follows the frames of one run in their order."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._charts = {
            name: _Chart(expected)
            for name, expected in expected_colours(profile).items()
        }
        self._focus: list[float] = []
        self._sharp: float | None = None
        self._last_ns: int | None = None
        self._seen_ns: int | None = None
        self._status: DriftStatus | None = None

    def follow(self, seen: SeenColours, focus: float, monotonic_ns: int) -> Drift:
        """Take what a good frame showed; say how far that is from the calibration.

        Parameters
        ----------
        seen
            Colours of the frame, after correction.
        focus
            See `Quality`.
        monotonic_ns
            Of its exposure.
        """
        last_ns = self._last_ns if self._last_ns is not None else monotonic_ns
        step_s = min(max(0.0, (monotonic_ns - last_ns) / 1e9), _MAX_STEP_S)
        self._last_ns = monotonic_ns
        for name, chart in self._charts.items():
            colour = getattr(seen, name)
            if colour is not None:
                chart.follow(to_lab(colour), step_s, _TIMES[name])
        if seen.background is not None or self._seen_ns is None:
            self._seen_ns = monotonic_ns
        sharpness = self._follow_focus(focus, step_s)
        return self._drift(sharpness, (monotonic_ns - self._seen_ns) / 1e9)

    def _follow_focus(self, focus: float, step_s: float) -> float | None:
        """Return the sharpness beside that of the run's first frames."""
        if len(self._focus) < _LEARNT:
            self._focus.append(focus)
            return None
        usual = float(np.median(self._focus))
        share = 1 - float(np.exp(-step_s / _SMOOTH_S))
        before = usual if self._sharp is None else self._sharp
        self._sharp = before + share * (focus - before)
        return self._sharp / usual if usual > 0 else None

    def _drift(self, sharpness: float | None, blind_s: float) -> Drift:
        levels = {name: chart.level for name, chart in self._charts.items()}
        if sharpness is not None:
            levels["focus"] = sum(sharpness < limit for limit in _FOCUS)
        worst = max(levels, key=lambda name: levels[name])
        status = _STATUS[levels[worst]]
        if self._profile.calibration_id is None and worst == "background":
            status = "uncalibrated" if levels[worst] == 0 else status
        elif blind_s > _BLIND_S and status == "good":
            status = "held"
        elif not self._profile.record.is_verified and status == "good":
            status = "unverified"
        advice = ADVICE[worst] if levels[worst] else None
        if status != self._status:
            level = logging.WARNING if levels[worst] else logging.INFO
            log.log(level, "drift=%s of=%s %s", status, worst, advice or "")
            self._status = status
        return Drift(
            status=status,
            of=worst if levels[worst] else None,  # type: ignore[arg-type]
            advice=advice,
            background=_rounded(self._charts["background"].delta_e),
            red_cells=_rounded(self._charts["red_cells"].delta_e),
            nuclei=_rounded(self._charts["nuclei"].delta_e),
            sharpness=_rounded(sharpness),
        )


def expected_colours(profile: Profile) -> dict[str, _Colour | None]:
    """Return what the calibration promises of plasma, red cells and nuclei, CIELAB."""
    record, reference = profile.record, profile.record.reference
    matrix = np.array(record.matrix)
    densities: dict[str, Sequence[float] | None] = {
        "background": None if profile.calibration_id is None else (0.0, 0.0, 0.0),
        "red_cells": None if reference is None else reference.red_cell_density,
        "nuclei": None if reference is None else reference.nucleus_density,
    }
    return {
        name: None
        if density is None
        else to_lab(255 * 10 ** -(matrix[:, :3] @ np.array(density) + matrix[:, 3]))
        for name, density in densities.items()
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
