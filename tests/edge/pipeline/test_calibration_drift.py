from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import cv2
import msgspec
import numpy as np
import pytest

from edge.artifacts.profile import Profile, ProfileRecord, ReferenceRecord
from edge.pipeline.calibration_drift import (
    ADVICE,
    SINCE_START,
    DriftWatch,
    drift_of,
    expected_colours,
    looks_to_pool,
)
from edge.schema.results import Drift, SeenColours
from tests import drift_hours

OFFSET = 0.07
WHITE = (217.0, 217.0, 217.0)  # an empty field, corrected
RECORD = ProfileRecord(
    white_point=(220.0, 215.0, 205.0),
    matrix=((1.0, 0.0, 0.0, OFFSET), (0.0, 1.0, 0.0, OFFSET), (0.0, 0.0, 1.0, OFFSET)),
)
CALIBRATED = Profile(RECORD, None, "a" * 64)
Colour = tuple[float, float, float]


def shifted(delta_e: float) -> Colour:
    """White, so many ΔE towards yellow, by OpenCV's own conversion."""
    white = np.array([[WHITE]], np.float32) / 255
    lab = cv2.cvtColor(white, cv2.COLOR_RGB2Lab)
    lab[..., 2] += delta_e
    red, green, blue = (cv2.cvtColor(lab, cv2.COLOR_Lab2RGB)[0, 0] * 255).tolist()
    return red, green, blue


def follow(
    watch: DriftWatch,
    seconds: int,
    background: Callable[[int], Colour | None],
    *,
    start: int = 0,
    red: Colour | None = (180.0, 150.0, 160.0),
    focus: float = 1.0,
    noise: float = 0.0,
) -> list[Drift]:
    random = np.random.default_rng(0)

    def grainy(colour: Colour | None) -> Colour | None:
        if colour is None:
            return None
        r, g, b = (np.array(colour) + random.normal(0, noise, 3)).tolist()
        return r, g, b

    return [
        watch.follow(
            SeenColours(background=grainy(background(s)), red_cells=red, nuclei=None),
            focus,
            s * 10**9,
        )
        for s in range(start, start + seconds)
    ]


def test_a_shift_of_four_is_amber_within_ten_seconds_and_red_within_thirty() -> None:
    watch = DriftWatch(CALIBRATED)
    follow(watch, 60, lambda _: WHITE, noise=0.5)

    result = follow(watch, 30, lambda _: shifted(4.2), start=60, noise=0.5)

    assert "amber" in {d.status for d in result[:10]}
    assert result[-1].status == "red"
    assert result[-1].of == "background"
    assert result[-1].advice == ADVICE["background"]
    assert result[-1].background == pytest.approx(4.2, abs=0.5)


def test_a_slow_drift_of_the_lamp_is_noticed() -> None:
    watch = DriftWatch(CALIBRATED)

    result = follow(watch, 600, lambda s: shifted(s / 100), noise=0.5)

    levels = [d.status for d in result]
    assert levels.index("amber") < 300  # ΔE 2 is reached after 200 s
    assert levels.index("red") < 500


def test_an_hour_without_drift_raises_nothing() -> None:
    watch = DriftWatch(CALIBRATED)

    result = follow(watch, 3600, lambda s: shifted(np.sin(s / 40)), noise=1.0)

    assert {d.status for d in result} == {"good"}


def test_an_alarm_ends_when_the_cause_does_and_not_before() -> None:
    watch = DriftWatch(CALIBRATED)
    follow(watch, 60, lambda _: shifted(5.0))

    still = follow(watch, 60, lambda _: shifted(3.4), start=60)
    gone = follow(watch, 60, lambda _: WHITE, start=120)

    assert still[-1].status == "red"
    assert gone[-1].status == "good"
    assert gone[-1].advice is None


@pytest.mark.parametrize(
    ("delta_e", "changes"),
    [(2.4, ["amber", "good"]), (5.0, ["amber", "red", "amber", "good"])],
)
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_a_fault_is_told_once_as_it_begins_and_once_as_it_ends(
    delta_e: float, changes: list[str], noise: float
) -> None:
    """Five minutes of it, and five minutes after."""
    result = follow(
        DriftWatch(CALIBRATED),
        900,
        lambda s: shifted(delta_e if 300 <= s < 600 else 0.0),
        noise=noise,
    )

    levels = [drift.status for drift in result]
    told = [new for old, new in pairwise(levels) if new != old]
    # Without noise the average of red and amber is below their limits at once.
    assert told == changes or told == [*changes[:2], "good"]
    assert {"good"} == {*levels[:300]} == {*levels[630:]}


def test_a_fault_that_stays_at_its_limit_is_one_fault() -> None:
    result = follow(
        DriftWatch(CALIBRATED), 600, lambda s: shifted(2.0 + np.sin(s / 5)), noise=0.5
    )

    levels = [drift.status for drift in result]
    assert [new for old, new in pairwise(levels) if new != old] == ["amber"]


def test_a_focus_at_its_limit_is_told_once() -> None:
    watch, random = DriftWatch(CALIBRATED), np.random.default_rng(1)
    follow(watch, 40, lambda _: WHITE, focus=0.02)

    result = [
        follow(watch, 1, lambda _: WHITE, start=s, focus=random.normal(0.01, 0.001))[0]
        for s in range(40, 640)
    ]

    levels = [drift.status for drift in result]
    assert [new for old, new in pairwise(levels) if new != old] == ["amber"]


def test_nothing_is_guessed_while_no_background_is_visible() -> None:
    watch = DriftWatch(CALIBRATED)
    follow(watch, 30, lambda _: WHITE)

    result = follow(watch, 90, lambda _: None, start=30)

    assert result[30].status == "good"
    assert result[-1].status == "held"
    assert follow(watch, 2, lambda _: WHITE, start=120)[-1].status == "good"


def test_without_a_calibration_that_is_said_and_the_first_frames_are_the_norm() -> None:
    watch = DriftWatch(Profile(ProfileRecord(), None, None))

    calm = follow(watch, 60, lambda _: shifted(9.0))
    moved = follow(watch, 30, lambda _: WHITE, start=60)

    assert calm[-1].status == "uncalibrated"
    assert moved[-1].status == "red"


def test_the_cells_of_the_first_field_are_not_taken_for_all() -> None:
    """White cells differ among themselves, and a camera is fast."""
    random = np.random.default_rng(3)
    watch = DriftWatch(Profile(ProfileRecord(), None, None))
    result = []
    for frame in range(20 * 180):
        if frame % 160 == 0:  # every eight seconds another field
            nuclei = (90.0, 60.0, 130.0 if frame else 165.0)
            nuclei = tuple((np.array(nuclei) + random.normal(0, 3, 3)).tolist())
        seen = SeenColours(background=WHITE, red_cells=None, nuclei=nuclei)
        result.append(watch.follow(seen, 1.0, frame * 10**9 // 20))

    assert {drift.status for drift in result} == {"uncalibrated"}


def test_what_was_never_calibrated_has_changed_since_the_start() -> None:
    watch = DriftWatch(Profile(ProfileRecord(), None, None))
    follow(watch, 60, lambda _: shifted(9.0))

    moved = follow(watch, 30, lambda _: WHITE, start=60)[-1]

    assert moved.since == "first frames"
    assert drift_of(moved) == "background changed since the first frames of the run"


def test_what_was_calibrated_has_left_its_calibration() -> None:
    watch = DriftWatch(CALIBRATED)

    moved = follow(watch, 60, lambda _: shifted(5.0))[-1]

    assert moved.since == "calibration"
    assert drift_of(moved) == "background left the calibration"
    assert drift_of(follow(DriftWatch(CALIBRATED), 9, lambda _: WHITE)[-1]) == ""


def test_one_to_three_nuclei_of_a_field_say_nothing_of_the_stain() -> None:
    """One white cell in six is of a kind with a much paler nucleus."""
    random = np.random.default_rng(3)
    watch = DriftWatch(Profile(ProfileRecord(), None, None))
    result: list[Drift] = []

    def fields(seconds: int, colour: Colour) -> None:
        for second in range(seconds):
            if second % 8 == 0:
                pale = 70 * (random.random() < 0.16)
                nuclei = (np.array(colour) + pale + random.normal(0, 5, 3)).tolist()
            seen = SeenColours(background=WHITE, red_cells=None, nuclei=tuple(nuclei))
            result.append(watch.follow(seen, 1.0, len(result) * 10**9))

    fields(2 * 3600, (90.0, 60.0, 130.0))
    assert {drift.status for drift in result} == {"uncalibrated"}
    assert result[-1].nuclei is not None

    fields(360, (120.0, 30.0, 90.0))  # another stain, told within six minutes
    assert result[-1].of == "nuclei"


def test_a_stage_that_rests_on_one_odd_cell_says_nothing_of_the_stain() -> None:
    """Then the stage moves on, and again cells are seen that were not there before."""
    watch, result = DriftWatch(Profile(ProfileRecord(), None, None)), []
    random = np.random.default_rng(4)

    def look(nuclei: Colour, x: int) -> None:
        seen = SeenColours(background=WHITE, red_cells=None, nuclei=nuclei)
        box = (x, 100, x + 180, 280)
        result.append(watch.follow(seen, 1.0, len(result) * 10**9, [box]))

    for second in range(3600):
        look((190.0, 150.0, 200.0), 100 + second // 60)  # creeps a pixel per minute
    assert result[-1].nuclei is None

    for second in range(1200):
        if second % 8 == 0:  # another field
            x = int(random.integers(0, 100_000))
            colour = tuple(
                (np.array((90.0, 60, 130)) + random.normal(0, 5, 3)).tolist()
            )
        look(colour, x)
    assert result[-1].nuclei is not None
    for _ in range(3600):  # rests on an odd cell of the usual stain
        look((190.0, 150.0, 200.0), 100)
    assert {drift.status for drift in result} == {"uncalibrated"}


def test_looks_are_pooled_until_chance_is_small_beside_the_limit() -> None:
    random = np.random.default_rng(1)
    calm, lively = random.normal(0, 0.2, (60, 3)), random.normal(0, 2, (60, 3))
    changed = np.vstack([calm, calm + 9])

    assert looks_to_pool(calm, amber=2.0) == 1
    assert looks_to_pool(changed, amber=2.0) == 1
    assert looks_to_pool(lively, amber=2.0) > 100
    assert looks_to_pool(lively, amber=10.0) < 40


def test_another_stain_is_told_from_another_lamp() -> None:
    watch = DriftWatch(CALIBRATED)
    follow(watch, 40, lambda _: WHITE)

    result = follow(watch, 60, lambda _: WHITE, start=40, red=(130.0, 90.0, 110.0))

    assert result[-1].of == "red_cells"
    assert result[-1].since == "first frames"  # the calibration promises nothing
    assert result[-1].advice == SINCE_START["red_cells"]


def test_lost_focus_is_said_beside_the_runs_own() -> None:
    watch = DriftWatch(CALIBRATED)
    follow(watch, 40, lambda _: WHITE, focus=0.02)

    result = follow(watch, 40, lambda _: WHITE, start=40, focus=0.004)

    assert result[-1].of == "focus"
    assert result[-1].sharpness == pytest.approx(0.2, abs=0.02)


def test_a_slide_reference_promises_what_cells_look_like() -> None:
    reference = ReferenceRecord(
        red_cell_density=(0.05, 0.10, 0.07),
        nucleus_density=None,
        cells=300,
        nuclei=0,
        matrix=((2.0, 0.0, 0.0), (0.0, 1.5, 0.0), (0.0, 0.0, 1.0)),
    )
    record = msgspec.structs.replace(
        RECORD,
        reference=reference,
        matrix=((2.0, 0.0, 0.0, 0.07), (0.0, 1.5, 0.0, 0.07), (0.0, 0.0, 1.0, 0.07)),
    )

    promised = expected_colours(Profile(record, None, "a" * 64))

    red = np.array([[255 * 10 ** -np.array([0.17, 0.22, 0.14])]], np.float32) / 255
    expected = cv2.cvtColor(red, cv2.COLOR_RGB2Lab)[0, 0]
    np.testing.assert_allclose(promised["red_cells"], expected, atol=0.1)
    assert promised["nuclei"] is None


def test_a_gap_counts_as_a_few_seconds() -> None:
    watch = DriftWatch(CALIBRATED)
    follow(watch, 10, lambda _: WHITE)

    (after,) = follow(watch, 1, lambda _: shifted(3.0), start=4000)

    assert after.status == "good"


def test_an_hour_of_a_simulated_slide_raises_nothing_but_changes_are_told() -> None:
    """The short form of `python -m tests.drift_hours`, on the slide that cried wolf."""
    looks = drift_hours.measure(seed=2, frames=96)

    found = drift_hours.false_alarms(looks, hours=1, run_h=1.0, seed=2)
    told = {
        name: drift_hours.found_after_s(looks, name, factors, seed=2, at_s=120)
        for name, factors in drift_hours.CONTROLS.items()
        if name != "nuclei"  # told after minutes
    }

    assert not found
    assert (told["background"]["amber"] or 99) <= 10
    assert (told["background"]["red"] or 99) <= 30
    assert (told["red_cells"]["red"] or 99) <= 60
