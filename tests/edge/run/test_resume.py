"""A run that was killed goes on, and says exactly what it lost."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from edge import clock
from edge.acquisition.pausable_source import PausableSource
from edge.acquisition.schedule import Phase, Plan
from edge.acquisition.scheduled_source import ScheduledSource
from edge.frames import Gap, Planned
from edge.ledger.reader import LedgerReader
from edge.ledger.rows import LedgerDamaged
from edge.ledger.writer import Ledger
from edge.remote.client import new_request
from edge.run.run_controller import RunController, RunRequest
from edge.schema.entries import Audit, RunMark
from edge.schema.requests import StartRequest
from edge.schema.results import (
    ClassShare,
    Differential,
    Following,
    FrameResult,
    Limits,
    MissedPoints,
    Point,
)
from edge.slide.run_state import RunState
from edge.timelapse.resume_state import ResumeState, resume_state_of
from tests.asking import DEVICE, marks_in
from tests.conftest import frame_result
from tests.edge.run.test_housekeeping import Camera
from tests.schedule_kills import verdict

S = 1_000_000_000


def test_a_run_that_is_killed_twice_goes_on_and_names_what_it_lost(
    tmp_path: Path,
) -> None:
    chance = random.Random(3)  # noqa: S311
    process = start(tmp_path)
    try:
        for _ in range(2):
            wait_for_rows(tmp_path, process)
            time.sleep(chance.uniform(0.0, 0.4))
            process.send_signal(signal.SIGKILL)
            process.wait()
            process = start(tmp_path)
        wait_for_rows(tmp_path, process)
        process.terminate()
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()

    figures = verdict(tmp_path, points=None, frames_per_point=2, kills=2)
    assert figures["tracks"] == 12  # each cell has kept its number


def start(folder: Path) -> subprocess.Popen[bytes]:
    program = [sys.executable, "-m", "tests.dying", str(folder), "9999", "0.1", "2"]
    return subprocess.Popen(program, cwd=Path(__file__).parents[3])


def wait_for_rows(folder: Path, process: subprocess.Popen[bytes]) -> None:
    before, deadline_s = count_rows(folder), time.monotonic() + 60
    while count_rows(folder) < before + 8:
        assert process.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def count_rows(folder: Path) -> int:
    try:
        with closing(LedgerReader(folder)) as reader:
            return reader.span()[1]
    except LedgerDamaged:
        return 0


class Process:
    """What a run process has open; `die` leaves all as it is."""

    def __init__(
        self, folder: Path, plan: Plan | None = None, **options: object
    ) -> None:
        self.ledger, self.runs = Ledger(folder, DEVICE), RunState()
        self.held = PausableSource(Camera())
        self.schedule = None if plan is None else ScheduledSource(self.held, plan)
        self.controller = RunController(
            self.ledger,
            self.runs,
            self.held,
            self.schedule,
            **options,  # type: ignore[arg-type]
        )

    def write(self, **changes: object) -> None:
        fields: dict[str, object] = {
            "monotonic_ns": time.monotonic_ns(),
            "utc": clock.utc_now(),
        }
        result = frame_result(2, **(fields | changes))
        self.append(result)

    def append(self, result: FrameResult) -> None:
        self.ledger.append(self.of_run(result))

    def of_run(self, result: FrameResult) -> FrameResult:
        return msgspec.structs.replace(result, run=self.runs.run_of(result).id)

    def die(self) -> None:
        self.ledger.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


PLAN = Plan([Phase(10 * S, 100)])


def point(index: int) -> Point:
    return Point(index=index, due=clock.utc_now(), late_ms=1.0)


def leave(
    folder: Path, plan: Plan | None = None, index: int = 7, **options: object
) -> RunMark:
    """Leave a run that has seen a frame; return its start."""
    process = Process(folder, plan, **options)
    process.controller.begin()
    limits = Limits(share=0.5, low=0.1, high=0.9)
    counted = ClassShare(label="RBC", count=120, exact=limits, more=3)
    process.write(
        point=None if plan is None else point(index),
        following=Following(continuity="first", tracks=9, next_track=41, next_event=5),
        differential=Differential(
            of="all cells",
            total=120,
            unidentified=0,
            classes=(counted,),
            wanted_width=0.1,
            patches=1,
        ),
    )
    process.die()
    return marks_in(folder)[0]


def take_up(folder: Path, plan: Plan | None = None, **options: object) -> Process:
    process = Process(folder, plan, **options)
    process.controller.begin()
    process.die()
    return process


def resumed(folder: Path) -> RunMark:
    (mark,) = [mark for mark in marks_in(folder) if mark.phase == "resumed"]
    return mark


def test_a_run_goes_on_with_its_id_slide_and_numbers(folder: Path) -> None:
    begun = leave(folder, request=RunRequest("S26-1", "op7"))

    process = take_up(folder)

    mark = resumed(folder)
    assert (mark.run, mark.slide, mark.operator) == (begun.run, "S26-1", "op7")
    assert process.runs.run == begun.run
    assert mark.lost is not None
    assert (mark.lost.row, mark.lost.next_track, mark.lost.next_event) == (2, 41, 5)
    assert mark.lost.counted == {"RBC": 120}
    assert mark.lost.away_s is not None
    assert 0 <= mark.lost.away_s < 60
    assert mark.text is not None
    assert "counted before: RBC 120" in mark.text
    assert "other tracks begin with 41" in mark.text


def test_the_cells_of_the_last_followed_frame_are_left(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Process(folder)
    process.controller.begin()
    assert resume_state_of(folder, process.ledger.state.progress).cells is None
    cells = tuple(
        msgspec.structs.replace(cell, track_id=track)
        for cell, track in zip(frame_result(3).cells, (7, None, 9), strict=True)
    )
    result = frame_result(3, following=Following(continuity="first", tracks=2))
    result = msgspec.structs.replace(result, cells=cells, boot_id=clock.boot_id())
    process.append(result)
    process.write(status="rejected", reason="dark")
    process.die()

    with closing(Ledger(folder, DEVICE)) as ledger:
        progress = ledger.state.progress
    left = resume_state_of(folder, progress)
    assert left.cells is not None
    assert (left.run, left.cells.tracks) == (process.runs.run, (7, 9))
    assert left.cells.boxes == (cells[0].box, cells[2].box)
    assert left.cells.monotonic_ns is not None

    monkeypatch.setattr(clock, "boot_id", lambda: "another")
    rebooted = resume_state_of(folder, progress)
    assert rebooted.cells is not None
    assert rebooted.cells.monotonic_ns is None
    assert progress is not None
    over = msgspec.structs.replace(progress, is_open=False)
    assert (resume_state_of(folder, over).run, resume_state_of(folder, over).cells) == (
        None,
        None,
    )
    assert resume_state_of(folder, None) == ResumeState()


def test_a_row_of_another_version_costs_the_tracks_and_not_the_run(
    folder: Path,
) -> None:
    leave(folder)
    with closing(Ledger(folder, DEVICE)) as ledger:
        progress = ledger.state.progress
    assert progress is not None
    with closing(sqlite3.connect(folder / "ledger.sqlite")) as db, db:
        db.execute("""UPDATE rows SET data = CAST('{"x":1}' AS BLOB) WHERE seq = 2""")

    left = resume_state_of(folder, progress)

    assert (left.run, left.next_track, left.cells) == (progress.run, 41, None)


def test_what_was_lost_is_said_for_each_death(folder: Path) -> None:
    leave(folder)
    take_up(folder)
    take_up(folder)

    first, second = (m.lost for m in marks_in(folder) if m.phase == "resumed")
    assert first is not None
    assert second is not None
    assert first.counted == {"RBC": 120}
    assert second.counted == {}
    assert second.next_track == 41


def test_a_schedule_keeps_its_zero_and_names_the_points_it_missed(
    folder: Path,
) -> None:
    begun = leave(folder, PLAN)
    assert begun.plan is not None
    later_ns = time.monotonic_ns() + 114 * S
    process = Process(folder, PLAN)
    assert process.schedule is not None
    process.schedule._monotonic_ns = lambda: later_ns
    process.controller.begin()
    gap = process.schedule.read(0.01)
    process.die()

    mark = resumed(folder)
    assert mark.plan == begun.plan
    assert mark.lost is not None
    assert mark.lost.points == MissedPoints(first=8, last=10, frames=3)
    assert mark.text is not None
    assert "points 8 to 10 missed" in mark.text
    assert isinstance(gap, Gap)
    assert gap.planned == Planned(begun.run, mark.lost.points)
    assert gap.reason.endswith("8 to 10 of the schedule missed: no process was at work")
    assert process.schedule._next.index == 11


def test_after_a_new_boot_due_times_follow_wall_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = leave(folder, PLAN)
    assert begun.plan is not None
    utc = clock.utc_now() + timedelta(seconds=95)
    monkeypatch.setattr(clock, "boot_id", lambda: "another")
    monkeypatch.setattr(clock, "utc_now", lambda: utc)

    process = take_up(folder, PLAN)

    mark = resumed(folder)
    assert mark.lost is not None
    assert mark.lost.is_rebooted
    assert mark.plan is not None
    assert mark.plan.zero_utc == begun.plan.zero_utc
    assert mark.plan.boot_id == "another"
    assert process.schedule is not None
    since_s = (process.schedule.now_ns() - mark.plan.zero_ns) / S
    assert since_s == pytest.approx(95, abs=30)
    assert mark.lost.away_s == pytest.approx(95, abs=30)
    assert mark.text is not None
    assert "wall clock" in mark.text


def test_a_clock_behind_the_last_row_is_not_believed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(folder, PLAN)
    utc = clock.utc_now() - timedelta(days=400)
    monkeypatch.setattr(clock, "boot_id", lambda: "another")
    monkeypatch.setattr(clock, "utc_now", lambda: utc)

    process = take_up(folder, PLAN)

    mark = resumed(folder)
    assert mark.lost is not None
    assert (mark.lost.away_s, mark.lost.points) == (None, None)
    assert "clock is behind" in str(mark.text)
    assert process.schedule is not None
    assert process.schedule._next.index == 8


@pytest.mark.parametrize("hours", [-2, 400 * 24])
def test_a_clock_that_was_set_within_the_run_moves_no_point_after_a_new_boot(
    folder: Path, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    process = Process(folder, PLAN)
    process.controller.begin()
    last = clock.utc_now() + timedelta(hours=hours)
    process.write(point=point(0), utc=last, boot_id=clock.boot_id())
    process.die()
    utc = last + timedelta(seconds=25)
    monkeypatch.setattr(clock, "boot_id", lambda: "another")
    monkeypatch.setattr(clock, "utc_now", lambda: utc)

    process = take_up(folder, PLAN)

    mark = resumed(folder)
    assert mark.lost is not None
    assert mark.lost.points == MissedPoints(first=1, last=1, frames=1)
    assert mark.plan is not None
    assert utc - mark.plan.zero_utc < timedelta(seconds=29)
    assert process.schedule is not None
    since_s = (process.schedule.now_ns() - mark.plan.zero_ns) / S
    assert 25 <= since_s < 29


def test_a_plan_that_was_over_meanwhile_ends(folder: Path) -> None:
    leave(folder, PLAN)
    later_ns = time.monotonic_ns() + 5000 * S
    process = Process(folder, PLAN)
    assert process.schedule is not None
    process.schedule._monotonic_ns = lambda: later_ns
    process.controller.begin()

    assert resumed(folder).lost.points == MissedPoints(  # type: ignore[union-attr]
        first=8, last=99, frames=92
    )
    assert isinstance(process.schedule.read(0.01), Gap)
    assert not process.controller.is_plan_over  # it is not a row yet
    assert process.schedule.read(0.01) is None
    assert process.controller.is_plan_over
    assert process.controller.end_plan()
    process.die()
    assert marks_in(folder)[-1].phase == "end"


@pytest.mark.parametrize(
    ("options", "plan", "why"),
    [
        ({"request": RunRequest("S26-2")}, PLAN, "another slide"),
        ({}, Plan([Phase(11 * S, 100)]), "the schedule in the settings is another"),
        ({}, None, "the schedule in the settings is another"),
    ],
)
def test_another_slide_or_schedule_is_a_new_run(
    folder: Path, options: dict[str, object], plan: Plan | None, why: str
) -> None:
    begun = leave(folder, PLAN, request=RunRequest("S26-1"))

    take_up(folder, plan, **options)

    _, ended, started = marks_in(folder)
    assert (ended.run, ended.phase) == (begun.run, "end")
    assert why in str(ended.text)
    assert started.phase == "start"
    assert started.run != begun.run


def test_a_run_without_a_schedule_is_not_resumed_after_long(folder: Path) -> None:
    leave(folder)

    take_up(folder, resume_within_s=0.0)

    assert [m.phase for m in marks_in(folder)] == ["start", "end", "start"]
    assert "resume_within_s" in str(marks_in(folder)[1].text)


def test_a_run_that_was_ended_is_not_resumed(folder: Path) -> None:
    process = Process(folder)
    process.controller.begin()
    process.controller.finish(is_over=True)
    process.die()

    take_up(folder)

    assert [m.phase for m in marks_in(folder)] == ["start", "end", "start"]


def test_an_interrupted_run_is_left_open_and_one_ended_by_hand_is_not(
    folder: Path,
) -> None:
    for is_left in (True, False):
        process = Process(folder, is_left_open=lambda is_left=is_left: is_left)
        process.controller.begin()
        process.controller.finish(is_over=False)
        process.die()

    assert [m.phase for m in marks_in(folder)] == ["start", "resumed", "end"]


def test_a_schedule_that_is_over_waits_for_a_start_also_after_a_restart(
    folder: Path,
) -> None:
    process = Process(folder, PLAN, waits_when_done=True)
    process.controller.begin()
    assert not process.controller.end_plan()
    assert process.held.is_paused
    process.die()

    again = take_up(folder, PLAN, waits_when_done=True)
    assert again.held.is_paused
    assert again.runs.run is None
    assert marks_in(folder)[-1].is_waiting
    at_hand = take_up(folder, PLAN, request=RunRequest("S26-9"))
    assert not at_hand.held.is_paused
    assert marks_in(folder)[-1].slide == "S26-9"


def test_a_run_that_is_asked_for_begins_its_schedule_anew(folder: Path) -> None:
    process = Process(folder, PLAN)
    process.controller.begin()
    assert process.schedule is not None
    first = marks_in(folder)[0]
    process.write(point=point(3))
    request = new_request("start", "anna", slide="S26-2")
    assert isinstance(request, StartRequest)

    done = process.controller.start(request)
    process.ledger.append_all(done.rows)
    done.then()

    _, ended, begun = marks_in(folder)
    assert (ended.run, ended.phase) == (first.run, "end")
    assert (begun.slide, begun.by) == ("S26-2", "anna")
    assert begun.plan is not None
    assert first.plan is not None
    assert begun.plan.zero_ns > first.plan.zero_ns
    assert process.schedule._next.index == 0
    progress = process.ledger.state.progress
    assert progress is not None
    assert (progress.run, progress.index) == (begun.run, 0)
    process.die()


def test_numbers_given_to_a_frame_in_hand_when_its_run_ended_are_not_given_again(
    folder: Path,
) -> None:
    process = Process(folder)
    process.controller.begin()
    process.write()
    done = process.controller.stop(new_request("stop", "anna"))
    process.ledger.append_all(done.rows)
    done.then()
    last_row = process.ledger.state.progress.row  # type: ignore[union-attr]

    process.write(following=Following(continuity="continuous", tracks=2, next_track=7))

    left = process.ledger.state.progress
    process.die()
    assert left is not None
    assert (left.next_track, left.row, left.is_open) == (7, last_row, False)


def test_a_paused_run_stays_paused_and_open(folder: Path) -> None:
    process = Process(folder, PLAN)
    process.controller.begin()
    asked = new_request("pause", "anna")
    done = process.controller.pause(asked)
    audit = Audit(name="pause", request=asked.id, outcome="done", text=done.text)
    process.ledger.append_all([*done.rows, audit])
    done.then()
    process.die()

    again = take_up(folder, PLAN)

    assert again.held.is_paused
    assert again.runs.run == marks_in(folder)[0].run
    assert [m.phase for m in marks_in(folder)] == ["start", "resumed"]
    other = take_up(folder, Plan([Phase(3 * S, 9)]))  # nothing starts by itself
    assert other.held.is_paused
    assert [m.phase for m in marks_in(folder)] == ["start", "resumed", "end"]


def test_a_ledger_of_an_earlier_version_begins_a_run(folder: Path) -> None:
    ledger = Ledger(folder, DEVICE)
    ledger.append(frame_result(1))
    ledger.close()

    take_up(folder)

    assert [m.phase for m in marks_in(folder)] == ["start"]


def test_progress_costs_a_row_little(folder: Path) -> None:
    process = Process(folder, PLAN)
    process.controller.begin()
    start_s = time.process_time()
    for index in range(100):
        process.ledger.state.record(
            index + 2, process.of_run(frame_result(1, point=point(index)))
        )
    spent_ms = (time.process_time() - start_s) * 1e3 / 100
    progress = process.ledger.state.progress
    process.die()

    assert progress is not None
    assert (progress.index, progress.row) == (100, 101)
    assert spent_ms < 5
    assert len(msgspec.json.encode(progress)) < 1000
