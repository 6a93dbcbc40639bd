from __future__ import annotations

import msgspec
import pytest
from click.testing import CliRunner

from edge.schema.results import Event
from edge.settings.sources import SimulatedSettings
from edge.settings.timelapse import TrackingSettings
from edge.simulation.microscope import SimulatedMicroscope
from export.benchmark.commands import timelapse_command
from export.benchmark.timelapse.bench_command import _override
from export.benchmark.timelapse.change_events import PassingClock, expected_changes
from export.benchmark.timelapse.change_events import score as score_events
from export.benchmark.timelapse.tracking import follow, random_scene, real_scene, score
from tests.conftest import frame_result

SCENE = random_scene(60, 12, 3, hand_um=0, missed=0.0)


def test_the_truth_scores_full_and_swapped_numbers_do_not() -> None:
    pytest.importorskip("trackeval")
    right = score(SCENE.truth, SCENE.true_um, SCENE.truth, SCENE.true_um)
    half = [n if t < 6 else n + 10_000 for t, n in enumerate(SCENE.truth)]
    broken = score(SCENE.truth, SCENE.true_um, half, SCENE.true_um)

    assert (right["HOTA"], right["IDF1"], right["IDSW"]) == (1.0, 1.0, 0)
    assert broken["MOTA"] > 0.9
    assert broken["IDF1"] < 0.7
    assert broken["IDSW"] > 30


def test_the_tracker_is_scored_on_what_it_names() -> None:
    pytest.importorskip("trackeval")
    numbers, places, spent_ms = follow(SCENE, TrackingSettings())

    assert score(SCENE.truth, SCENE.true_um, numbers, places)["IDF1"] > 0.85
    assert len(spent_ms) == 12


def test_real_detections_become_a_scene() -> None:
    pytest.importorskip("trackpy")
    rows = [
        {"path": f"f{t}", "x0": str(x + t), "x1": str(x + t + 8), "y0": "3", "y1": "9"}
        for t in range(4)
        for x in (20, 60, 100)
    ]

    scene = real_scene(rows)

    assert [len(f) for f in scene.found_um] == [3] * 4
    assert len({tuple(t.tolist()) for t in scene.truth}) == 1


CHANGING = SimulatedSettings(
    width_px=320,
    height_px=240,
    pixel_size_um=0.14,
    rate_hz=0.1,
    drift_um_per_s=0,
    hand_move_every_s=0,
    seed=2,
    changing=1.0,
    changing_within_h=0.2,
)


def test_every_expected_change_counts_once_and_others_are_false_alarms() -> None:
    clock = PassingClock()
    microscope = SimulatedMicroscope(
        CHANGING, monotonic_ns=clock.now_ns, sleep=clock.sleep
    )
    must, _ = expected_changes(microscope, 90)

    def event(number: int, change: str, frame: int, x_um: float, y_um: float) -> Event:
        x, y = round(x_um / 0.14), round(y_um / 0.14)
        return Event(
            id=number,
            track_id=number,
            change=change,
            phase="confirmed",
            onset=frame,
            onset_utc=frame_result().utc,
            frame=frame + 2,
            frames=3,
            confidence=0.9,
            box=(max(x - 20, 0), max(y - 20, 0), x + 20, y + 20),
        )

    found = [
        event(n, e.change, e.frame + 1, e.x_um, e.y_um) for n, e in enumerate(must)
    ]
    false = [event(900, "lysis", 5, 1.0, 1.0), found[0]]
    frame = msgspec.structs.replace(frame_result(0), events=(*found, *false))
    result = score_events(microscope, [frame, *[frame_result(0)] * 89])

    assert len(must) >= 4
    assert sum(result.found.values()) == len(must)
    assert sum(result.false.values()) == 2
    assert set(result.late) == {1}


def test_hours_pass_at_once_while_somebody_sleeps() -> None:
    clock = PassingClock()
    before = clock.now_ns()
    clock.sleep(3600.0)

    assert clock.now_ns() - before == 3600 * 10**9


def test_the_microscope_of_a_run_can_be_another_one() -> None:
    run = CliRunner().invoke(timelapse_command, ["events", "--set", "stan=giemsa"])

    assert run.exit_code == 2
    assert "did you mean stain?" in run.output
    changed = _override(SimulatedSettings(), ["stain=giemsa", "noise=6"])
    assert (changed.stain, changed.noise) == ("giemsa", 6.0)
