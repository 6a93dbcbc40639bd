"""Watch whether the microscope still is what its calibration says.

Every frame brings its focus and the corrected colours of plasma, red cells and nuclei.
Each is compared with the calibration; where the calibration says nothing of it, with
the first good frames of the run. A drift is reported and nothing is changed: only a new
calibration corrects it. A limit is watched by a cumulative sum (Page, "Continuous
inspection schemes", 1954), so that a small lasting drift is found and noise is not.

A frame shows many red cells but one to three nuclei, and the kinds of white cells
differ more than the limits. So a figure that varies from field to field is the median
of as many looks as it takes until chance is small beside the limit.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from edge.artifacts.profile import Profile
from edge.schema.results import Box, Drift, DriftStatus, SeenColours
from edge.stages.colour_statistics import delta_e, to_lab

log = logging.getLogger(__name__)

AMBER, RED = 2.0, 4.0  # ΔE (CIE76) of plasma
_SLACK = 0.75  # of a limit: smaller differences add nothing to the sum
_ENOUGH = 5.0  # limits times seconds: double the limit alarms after 4 s
_SMOOTH_S = 5.0  # time constant of the average that a row holds
_CLEARED = 0.6  # of a limit: below it an alarm's end is summed up
_LEARNT = 20  # looks of a run that stand in for the calibration,
_LOOKS_EVERY_S = 3.0  # so far apart that most show other cells
_LOOKS = {"nuclei": 100}  # that are pooled at least: five minutes of different cells,
_NEW_LOOKS = 60  # or so many with a white cell that was not there before
_REMEMBERED = 20  # looks: where white cells were within the last minute
_MOST_LOOKS = 400
_MOST_REFERENCE = 60  # looks that are learnt from: three minutes,
_TIMES_REFERENCE = 5  # or so many times those that are pooled
_CHANCE = 0.24  # of the amber limit: by so much a figure may vary
_NORMAL = 1.13  # root of mean square over median distance, of normal values in 3 D
_SAME_FIELD = 4  # looks in a row may show one field: so many count as one
_BLIND_S = 60.0  # without any background for so long, drift is not known
_MAX_STEP_S = 5.0  # a longer gap counts as so long
_TIMES = {
    "background": 1.0,
    "red_cells": 3.0,
    "nuclei": 5.0,
}  # of the limits: stain varies by itself
_FOCUS = 0.5, 0.3  # of the run's own: amber, red
_SHARP_AGAIN = 1.2  # times such a limit: above it the alarm ends

ADVICE = {  # where the figure is beside the calibration
    "background": "let the lamp warm up, see that its voltage, the condenser and the "
    "camera's exposure and white balance are as they were, then calibrate the field",
    "red_cells": "the stain or its thickness is another here; calibrate the slide",
    "nuclei": "the stain of nuclei is another here; calibrate the slide",
    "focus": "focus again; clean the objective if that does not help",
}
SINCE_START = ADVICE | {  # where it is beside the first frames
    "red_cells": "the stain or its thickness is not that of the first frames; look at "
    "the slide, and calibrate it",
    "nuclei": "the stain of nuclei is not that of the first frames; look at the slide, "
    "and calibrate it",
}
_STATUS: tuple[DriftStatus, ...] = ("good", "amber", "red")
_Colour = NDArray[np.float64]


@dataclass(slots=True)
class _Limit:
    """A limit in ΔE, and the cumulative sum that begins its alarm, or ends it.

    One sum at a time, each from zero: what was summed up until the alarm says nothing
    of what comes after it. A sum that is kept begins an alarm anew as soon as it ends.
    """

    value: float
    is_exceeded: bool = False
    summed: float = 0.0

    def follow(self, off: float, step_s: float) -> None:
        """Take the distance of a figure, seen `step_s` after the last."""
        share = off / self.value
        towards = _CLEARED - share if self.is_exceeded else share - _SLACK
        self.summed = max(0.0, self.summed + step_s * towards)
        if self.summed >= _ENOUGH:
            self.is_exceeded, self.summed = not self.is_exceeded, 0.0


@dataclass(slots=True)
class _Chart:
    """One watched figure: its average and its two limits.

    `amber` is the lower limit. A look is a frame that comes `_LOOKS_EVERY_S` after the
    last; `per_field` of them may show the same cells. `looks` is how many are pooled,
    `least` or more. `is_learnt`: what is expected
    was learnt from the first looks.
    """

    amber: float
    least: int = 1
    per_field: int = _SAME_FIELD
    expected: _Colour | None = None
    seen: deque[_Colour] = field(default_factory=lambda: deque(maxlen=_MOST_LOOKS))
    pooled: _Colour = field(default_factory=lambda: np.zeros(3))
    looks: int = 1
    is_learnt: bool = False
    rests_s: float = 0.0
    average: _Colour | None = None
    limits: tuple[_Limit, ...] = ()

    def __post_init__(self) -> None:
        self.limits = _Limit(self.amber), _Limit(self.amber * RED / AMBER)

    def follow(
        self, lab: _Colour, step_s: float, shows_new: Callable[[], bool]
    ) -> None:
        """Take a colour (3,) in CIELAB, seen `step_s` after the last.

        `shows_new` is asked of a look: whether it shows cells that none before it did.
        """
        self.rests_s -= step_s
        if self.rests_s <= 0:
            self.rests_s = _LOOKS_EVERY_S
            if shows_new():
                self._look(lab)
        if self.expected is None or len(self.seen) < max(self.looks, self.least):
            return
        figure = lab if self.looks == 1 else self.pooled
        share = 1 - float(np.exp(-step_s / _SMOOTH_S))
        if self.average is None:
            self.average = figure
        self.average = self.average + share * (figure - self.average)
        off = delta_e(figure, self.expected)
        for limit in self.limits:
            limit.follow(off, step_s)

    def _look(self, lab: _Colour) -> None:
        """Take a look into the pool."""
        self.seen.append(lab)
        self._learn()
        self.pooled = np.median(np.array(self.seen)[-self.looks :], axis=0)

    def _learn(self) -> None:
        """See how many looks to pool, and what is usual where nothing is promised."""
        if len(self.seen) < max(_LEARNT, self.least):
            return
        looks = np.array(self.seen)
        self.looks = max(self.least, looks_to_pool(looks, self.amber, self.per_field))
        if self.expected is None:
            self.is_learnt = len(looks) >= max(_LEARNT, self.looks)
        # What all later figures are beside should vary less than they do, so it is
        # made better while nothing is wrong.
        most = max(_MOST_REFERENCE, _TIMES_REFERENCE * self.looks)
        if self.is_learnt and len(looks) <= most and self.level == 0:
            self.expected = np.median(looks, axis=0)

    @property
    def level(self) -> int:
        """How many limits are exceeded: 1 is amber, 2 red."""
        return sum(limit.is_exceeded for limit in self.limits)

    @property
    def delta_e(self) -> float | None:
        """Distance of the average from what is expected."""
        if self.average is None or self.expected is None:
            return None
        return delta_e(self.average, self.expected)


class _Places:
    """Where white cells were in the last looks, so that new ones are known.

    A stage that rests or creeps shows the same few nuclei for hours. They are found in
    one frame and not in the next, so that the colour alone does not tell.
    """

    def __init__(self) -> None:
        self._looks: deque[NDArray[np.float64]] = deque(maxlen=_REMEMBERED)

    def has_new(self, white_cells: Sequence[Box]) -> bool:
        """Take white cells of a look; say whether one of them is at a new place."""
        boxes = np.array(white_cells, float).reshape(-1, 4)
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        known = np.concatenate([np.zeros((0, 2)), *self._looks])
        self._looks.append(centres)
        apart = np.linalg.norm(centres[:, None] - known[None], axis=2)
        half = (boxes[:, 2:] - boxes[:, :2]).mean(axis=1) / 2
        return bool((apart.min(axis=1, initial=np.inf) > half).any())


class DriftWatch:
    """Follows the frames of one run in their order."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        promised = expected_colours(profile)
        self._promised = {
            name for name, colour in promised.items() if colour is not None
        }
        self._charts = {
            name: _Chart(_TIMES[name] * AMBER, _LOOKS.get(name, 1), expected=expected)
            for name, expected in promised.items()
        }
        self._places = _Places()
        self._focus: list[float] = []
        self._sharp: float | None = None
        self._focus_level = 0
        self._last_ns: int | None = None
        self._seen_ns: int | None = None
        self._status: DriftStatus | None = None

    def follow(
        self,
        seen: SeenColours,
        focus: float,
        monotonic_ns: int,
        white_cells: Sequence[Box] | None = None,
    ) -> Drift:
        """Take what a good frame showed; say how far that is from the calibration.

        Parameters
        ----------
        seen
            Colours of the frame, after correction.
        focus
            See `Quality`.
        monotonic_ns
            Of its exposure.
        white_cells
            Boxes of the white cells; None where nobody knows them.
        """
        last_ns = self._last_ns if self._last_ns is not None else monotonic_ns
        step_s = min(max(0.0, (monotonic_ns - last_ns) / 1e9), _MAX_STEP_S)
        self._last_ns = monotonic_ns
        shows_new: dict[str, Callable[[], bool]]
        shows_new = dict.fromkeys(self._charts, _always)
        if white_cells is not None:
            self._charts["nuclei"].least = _NEW_LOOKS
            self._charts["nuclei"].per_field = 1
            shows_new["nuclei"] = partial(self._places.has_new, white_cells)
        for name, chart in self._charts.items():
            colour = getattr(seen, name)
            if colour is not None:
                chart.follow(to_lab(colour), step_s, shows_new[name])
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
            self._focus_level = _focus_level(sharpness, self._focus_level)
        levels["focus"] = self._focus_level
        worst = max(levels, key=lambda name: levels[name])
        status = _STATUS[levels[worst]]
        if self._profile.calibration_id is None and worst == "background":
            status = "uncalibrated" if levels[worst] == 0 else status
        elif blind_s > _BLIND_S and status == "good":
            status = "held"
        elif not self._profile.record.is_verified and status == "good":
            status = "unverified"
        is_promised = worst in self._promised
        advices = ADVICE if is_promised else SINCE_START
        advice = advices[worst] if levels[worst] else None
        if status != self._status:
            level = logging.WARNING if levels[worst] else logging.INFO
            log.log(level, "drift=%s of=%s %s", status, worst, advice or "")
            self._status = status
        return Drift(
            status=status,
            of=worst if levels[worst] else None,  # type: ignore[arg-type]
            advice=advice,
            since=_since(is_promised) if levels[worst] else UNSET,
            background=_rounded(self._charts["background"].delta_e),
            red_cells=_rounded(self._charts["red_cells"].delta_e),
            nuclei=_rounded(self._charts["nuclei"].delta_e),
            sharpness=_rounded(sharpness),
        )


def _focus_level(sharpness: float, before: int) -> int:
    """Return how many limits the sharpness is below; to end one it must rise more."""
    return sum(
        sharpness < limit * (_SHARP_AGAIN if before >= level else 1)
        for level, limit in enumerate(_FOCUS, 1)
    )


def _always() -> bool:
    return True


def looks_to_pool(
    looks: NDArray[np.float64], amber: float, per_field: int = _SAME_FIELD
) -> int:
    """Return how many looks it takes until chance is small beside a limit (ΔE).

    Parameters
    ----------
    looks
        (N, 3) CIELAB, in the order of time.
    amber
        The limit.
    per_field
        How many looks in a row, fewer than N, may show the same cells.

    Notes
    -----
    The error of a median of F fields is that of one field over the root of F, so that
    F = (variation / error)^2. Variation is read off looks that show different fields,
    by the median of their differences: neither a slow drift nor a sudden change counts.
    """
    apart = looks[per_field:] - looks[:-per_field]
    varies = _NORMAL * float(np.median(np.linalg.norm(apart, axis=1))) / np.sqrt(2)
    fields = float(varies / (_CHANCE * amber)) ** 2
    if fields < 1.5:  # a frame by itself: pooling two would only cost time
        return 1
    # Three times as many: the reference varies as well, and so does this estimate.
    return min(round(3 * fields) * per_field, _MOST_LOOKS)


def drift_of(drift: Drift) -> str:
    """Say in a few words what drifted, and beside what; empty where nothing did."""
    if drift.of is None:
        return ""
    name = drift.of.replace("_", " ")
    if drift.since == "calibration":
        return f"{name} left the calibration"
    return f"{name} changed since the first frames of the run"


def _since(is_promised: bool) -> Literal["calibration", "first frames"]:
    return "calibration" if is_promised else "first frames"


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
