from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from edge.acquisition.schedule import Phase, Plan, SchedulePosition, plan_of
from edge.errors import ConfigurationInvalid
from edge.schema.results import MissedPoints
from edge.settings.timelapse import ScheduleSettings

useq = pytest.importorskip("useq", reason="useq-schema is not installed")

S = 1_000_000_000


def plan(text: str) -> Plan:
    return plan_of(msgspec.toml.decode(text, type=ScheduleSettings))


def file_of(folder: Path, text: str, name: str = "plan.yaml") -> Plan:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return plan_of(ScheduleSettings(file=path))


def times_s(plan: Plan) -> list[float]:
    return [plan.due_ns(index) / S for index in range(plan.points)]


def test_points_are_due_at_multiples_of_the_interval_and_no_error_adds_up() -> None:
    long = plan("interval_s = 0.1\nduration_h = 100.0")

    assert long.points == 3_600_001
    assert long.due_ns(3_600_000) == 100 * 3600 * S
    assert long.due_ns(1_234_567) == 123_456_700_000_000


def test_a_phase_begins_with_the_last_point_of_the_one_before() -> None:
    two = plan(
        "phases = [{interval_s = 10, points = 3}, {interval_s = 60, points = 3},"
        "{interval_s = 5, duration_h = 0.005}]"
    )

    assert times_s(two) == [0, 10, 20, 80, 140, 145, 150, 155]
    assert [two.phase_of(n) for n in range(8)] == [0, 0, 0, 1, 1, 2, 2, 2]
    assert two.expected_ns(SchedulePosition(3)) == 60 * S
    assert two.expected_ns(SchedulePosition(0)) is None
    assert two.expected_ns(SchedulePosition(3, 1)) is None


def test_the_last_point_that_is_due_is_known_at_every_moment() -> None:
    two = plan("phases = [{interval_s=10, points=3}, {interval_s=60, points=3}]")

    for index, due in enumerate(times_s(two)):
        assert two.index_at(int(due * S)) == index
        assert two.index_at(int(due * S) - 1) == index - 1
    assert two.index_at(10**18) == 4
    assert two.end_ns == 200 * S


def test_frames_of_a_point_follow_each_other() -> None:
    three = Plan([Phase(S, 5)], 3)

    assert three.after(SchedulePosition(1, 1)) == SchedulePosition(1, 2)
    assert three.after(SchedulePosition(1, 2)) == SchedulePosition(2)
    assert three.missed(SchedulePosition(1, 1), 3) == MissedPoints(
        first=1, last=2, frames=5
    )


@pytest.mark.parametrize(
    "time_plan",
    [
        {"interval": 2.5, "loops": 7},
        {"interval": 7, "duration": 60},
        {"duration": 12, "loops": 5},
        {"interval": 0.1, "loops": 1},
        [
            {"interval": 10, "duration": 30},
            {"interval": 60, "loops": 4},
            {"duration": 9, "loops": 4},
        ],
    ],
)
def test_a_file_is_due_when_useq_itself_says(tmp_path: Path, time_plan: object) -> None:
    sequence = useq.MDASequence(time_plan=time_plan, channels=["brightfield"])
    result = [event.min_start_time for event in sequence]

    for name, text in (
        ("plan.yaml", sequence.yaml()),
        ("plan.json", sequence.model_dump_json(exclude={"uid"})),
    ):
        ours = file_of(tmp_path, text, name)
        assert times_s(ours) == pytest.approx(result, abs=1e-6)


def test_the_example_is_what_it_says() -> None:
    example = Path(__file__).parents[3] / "examples" / "schedule.yaml"

    ours = plan_of(ScheduleSettings(file=example))

    assert ours.points == 481
    assert times_s(ours)[179:183] == [1790, 1800, 1860, 1920]
    assert ours.duration_ns == 19_800 * S


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("stage_positions: [{x: 0}, {x: 9}]", r"stage_positions \(2 entries\)"),
        ("z_plan: {range: 4, step: 1}", r"z_plan \(5 entries\)"),
        ("channels: [DAPI, FITC]", r"channels \(2 entries\)"),
        ("grid_plan: {rows: 2, columns: 2}", r"grid_plan \(4 entries\)"),
        ("channels: [{config: a, acquire_every: 2}]", "acquire_every"),
        ("stage_positions: [{x: 0, sequence: {z_plan: {range: 4, step: 1}}}]", "with"),
        ("autofocus_plan: {autofocus_motor_offset: 5, axes: [t]}", "autofocus"),
    ],
)
def test_what_nothing_here_can_drive_is_refused_by_name(
    tmp_path: Path, text: str, says: str
) -> None:
    time = "time_plan: {interval: 1, loops: 3}\n"
    with pytest.raises(ConfigurationInvalid, match=says):
        file_of(tmp_path, time + text)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("plan.yaml", "channels: [a]", "no time_plan"),
        ("plan.yaml", "time_plan: {interval: 0, loops: 5}", "time between two"),
        ("plan.yaml", "time_plan: {interval: -1, loops: 5}", "time between two"),
        ("plan.yaml", "time_plan: {interval: x, loops: 5}", "not a useq-schema"),
        ("plan.yaml", "[1, 2", "not a useq-schema"),
        ("plan.json", "", "not a useq-schema"),
        ("plan.txt", "", "expected a name in"),
        ("plan.yaml", "time_plan: {interval: 1, loops: 99999999}", "points, expected"),
    ],
)
def test_a_file_that_is_no_schedule_is_refused(
    tmp_path: Path, name: str, text: str, says: str
) -> None:
    with pytest.raises(ConfigurationInvalid, match=says):
        file_of(tmp_path, text, name)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationInvalid, match="nowhere"):
        plan_of(ScheduleSettings(file=tmp_path / "nowhere.yaml"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "one of the three"),
        ("interval_s = 1", "one of the two"),
        ("interval_s = 1\npoints = 3\nduration_h = 1", "one of the two"),
        ("interval_s = 0\npoints = 3", "interval_s"),
        ("interval_s = 1\npoints = 0", "points"),
        ("points = 3", "one of the three"),
        ("file = 'a.yaml'\npoints = 3", "go with interval_s"),
        ("phases = [{interval_s = 1}]", "one of the two"),
        ("interval_s = 1\npoints = 3\nphases = [{interval_s=1, points=2}]", "three"),
        ("interval_s = 1\npoints = 3\nframes_per_point = 0", "frames_per_point"),
    ],
)
def test_settings_that_are_no_schedule_are_refused(text: str, says: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=says):
        msgspec.toml.decode(
            text,
            type=ScheduleSettings,
            dec_hook=lambda kind, value: kind(value),
        )
