"""Frames at the points of a plan, by clocks that move only when a test moves them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import msgspec
import numpy as np
import pytest

from edge.acquisition.pausable_source import PausableSource
from edge.acquisition.schedule import Phase, Plan, SchedulePosition
from edge.acquisition.scheduled_source import ScheduledSource
from edge.backoff import Backoff
from edge.frames import Exposure, Gap, RawFrame, Shot, SourceLost
from edge.pipeline.pipeline import ExaminedFrame
from edge.schema.results import Following, MissedPoints, Point
from edge.settings.timelapse import PauseSettings, TrackingSettings
from edge.sources.reconnecting import ReconnectingSource
from edge.timelapse.follower import Follower
from edge.timelapse.frame_intervals import FrameIntervals
from tests.conftest import frame_result

S = 1_000_000_000
UTC = datetime(2026, 1, 1, tzinfo=timezone.utc)
RUN = "20260101T000000Z-000001"


class Time:
    """A monotonic clock, and the time that the machine was suspended."""

    def __init__(self) -> None:
        self.now_ns = 1000 * S
        self.slept_ns = 0

    def monotonic_ns(self) -> int:
        return self.now_ns

    def monotonic(self) -> float:
        return self.now_ns / S

    def suspended_ns(self) -> int:
        return self.slept_ns

    def sleep(self, seconds: float) -> None:
        self.now_ns += max(1, round(seconds * S))


class Camera:
    """Exposes every 100 ms of that clock, whoever reads; away where `is_away` says."""

    def __init__(
        self, time: Time, is_away: Callable[[float], bool] = lambda s: False
    ) -> None:
        self.time, self.is_away, self.is_live = time, is_away, True
        self.number = -1
        self.developed: list[int] = []
        self.buffer: list[Shot] = []
        if is_away(self.seconds()):
            raise SourceLost("the cable is out")

    def seconds(self) -> float:
        return self.time.now_ns / S - 1000

    def read(self, timeout_s: float) -> Exposure | Gap | None:
        if not self.is_live:
            return self.expose()
        if self.buffer:
            shot = self.buffer.pop(0)
            return Exposure(shot, lambda: self.develop(shot))
        self.time.now_ns = (self.time.now_ns // (S // 10) + 1) * (S // 10)
        if self.is_away(self.seconds()):
            raise SourceLost("the cable is out")
        return self.expose()

    def expose(self) -> Exposure:
        self.number += 1
        utc = UTC + timedelta(seconds=self.seconds())
        shot = Shot(self.number, self.time.now_ns, utc, "test")
        return Exposure(shot, lambda: self.develop(shot))

    def develop(self, shot: Shot) -> RawFrame:
        self.developed.append(shot.sequence)
        return RawFrame(shot, np.zeros((300, 400, 3), np.uint8))

    def close(self) -> None:
        pass


class Bench:
    """A plan over a camera; `at_s` is where on the clock the plan begins."""

    def __init__(
        self,
        plan: Plan,
        is_away: Callable[[float], bool] = lambda s: False,
        at_s: float = 0.25,
    ) -> None:
        self.time, self.plan = Time(), plan
        self.camera = Camera(self.time)

        def connect() -> Camera:
            self.camera = Camera(self.time, is_away)
            return self.camera

        watched = ReconnectingSource(
            connect,
            backoff=Backoff(1.0, 4.0),  # its delays are drawn
            monotonic=self.time.monotonic,
            sleep=self.time.sleep,
        )
        self.held = PausableSource(watched)
        self.source = ScheduledSource(
            self.held,
            plan,
            monotonic_ns=self.time.monotonic_ns,
            suspended_ns=self.time.suspended_ns,
            sleep=self.time.sleep,
        )
        self.time.sleep(at_s)
        self.source.begin(RUN, self.source.plan_note())

    def read(self) -> Exposure | Gap:
        """The next item that the plan has to say something of."""
        for _ in range(1_000_000):
            item = self.source.read(0.5)
            if item is not None and item.planned is not None:
                return item
            assert not self.source.is_over
        raise AssertionError("nothing came")

    def rest(self) -> list[Exposure | Gap]:
        """All that is still to come of the plan."""
        items = []
        while not self.source.is_over:
            item = self.source.read(0.5)
            items += [] if item is None else [item]
        return items


def point(item: Exposure | Gap) -> Point:
    assert isinstance(item, Exposure)
    assert item.planned is not None
    assert item.planned.run == RUN
    return item.planned.what


def missed(item: Exposure | Gap) -> MissedPoints:
    assert isinstance(item, Gap)
    assert item.planned is not None
    return item.planned.what


def test_a_frame_is_taken_when_its_point_is_due_and_none_in_between() -> None:
    bench = Bench(Plan([Phase(10 * S, 5)]))

    items = bench.rest()

    assert [point(i).index for i in items] == [0, 1, 2, 3, 4]
    assert [point(i).late_ms for i in items] == [50.0] * 5
    assert [point(i).between for i in items] == [0, 99, 99, 99, 99]
    assert [point(i).expected_s for i in items] == [None, 10, 10, 10, 10]
    assert [point(i).next_s for i in items] == [10, 10, 10, 10, None]
    due = [point(i).due - point(items[0]).due for i in items]
    assert due == [timedelta(seconds=10 * n) for n in range(5)]
    assert bench.camera.developed == []  # nothing was decoded by looking for them


def test_lateness_does_not_add_up_over_hours() -> None:
    bench = Bench(Plan([Phase(S * 333 // 1000, 3_000)]))

    late_ms = np.array([point(item).late_ms for item in bench.rest()])

    assert len(late_ms) == 3_000
    assert late_ms.min() >= 0
    assert late_ms.max() < 100  # never more than the camera's own interval


def test_an_old_frame_of_the_drivers_buffer_is_not_the_planned_one() -> None:
    bench = Bench(Plan([Phase(10 * S, 2)]))
    bench.read()
    bench.time.sleep(9.93)
    bench.camera.buffer = [
        Shot(4 - n, bench.time.now_ns - n * S, UTC, "test") for n in (3, 2, 1)
    ]

    taken = point(bench.read())

    assert (taken.index, taken.between) == (1, 3)
    assert taken.late_ms == 50.0


def test_frames_of_a_point_follow_each_other_at_once() -> None:
    bench = Bench(Plan([Phase(10 * S, 2)], 3))

    places = [(point(i).index, point(i).frame, point(i).late_ms) for i in bench.rest()]

    assert places == [(p, f, 50.0 + 100 * f) for p in (0, 1) for f in (0, 1, 2)]


def test_frames_that_the_driver_skips_between_points_are_only_counted() -> None:
    bench = Bench(Plan([Phase(10 * S, 2)]))
    bench.read()
    bench.camera.number += 25

    items = bench.rest()

    assert [point(item).between for item in items] == [99 + 25]


def test_missed_points_are_one_gap_and_are_not_caught_up() -> None:
    bench = Bench(Plan([Phase(10 * S, 100)], 2), lambda s: 33.0 < s < 71.0)

    items = bench.rest()

    (gap,) = [i for i in items if isinstance(i, Gap) and i.planned is not None]
    assert missed(gap) == MissedPoints(first=4, last=6, frames=6)
    assert gap.reason == "points 4 to 6 of the schedule missed: camera away"
    taken = [point(i) for i in items if isinstance(i, Exposure)]
    assert [p.index for p in taken] == sorted([*range(4), *range(7, 100)] * 2)
    assert max(p.late_ms for p in taken if p.index != 7) == 150.0


def test_a_burst_that_is_cut_short_says_how_many_are_missing() -> None:
    bench = Bench(Plan([Phase(10 * S, 3)], 3))
    bench.read()
    bench.time.sleep(11)

    gap = missed(bench.read())

    assert gap == MissedPoints(first=0, last=0, frames=2)
    assert point(bench.read()).index == 1


def test_a_pause_that_outlasts_points_says_so() -> None:
    bench = Bench(Plan([Phase(10 * S, 9)]))
    bench.read()
    bench.held.pause()
    for _ in range(250):
        assert bench.source.read(0.5) is None
    bench.held.resume()

    gap = bench.read()
    assert missed(gap) == MissedPoints(first=1, last=1, frames=1)
    assert "paused" in gap.reason  # type: ignore[union-attr]
    assert point(bench.read()).index == 2


def test_the_end_is_told_also_where_the_last_points_are_missed() -> None:
    bench = Bench(Plan([Phase(10 * S, 5)]), lambda s: s > 15)

    items = bench.rest()

    assert missed(items[-1]) == MissedPoints(first=2, last=4, frames=3)
    assert bench.source.read(0.5) is None


def test_it_is_over_only_when_the_last_frame_was_handed_on() -> None:
    bench = Bench(Plan([Phase(10 * S, 1)]))
    bench.read()
    assert not bench.source.is_over  # who has it has not come back yet
    assert bench.source.read(0.5) is None
    assert bench.source.is_over

    bench.source.begin("another", bench.source.plan_note())
    assert not bench.source.is_over


def test_points_that_passed_without_a_process_are_told_before_anything_else() -> None:
    bench = Bench(Plan([Phase(10 * S, 9)]))
    lost = MissedPoints(first=2, last=4, frames=3)
    note = bench.source.plan_note()
    bench.time.sleep(52)

    bench.source.begin(RUN, note, SchedulePosition(2), lost)
    first, second = bench.source.read(0.5), bench.read()

    assert isinstance(first, Gap)
    assert missed(first) == lost
    assert first.reason.endswith("no process was at work")
    assert point(second).index == 5
    assert point(bench.read()).index == 6


def test_a_frame_that_came_while_the_run_was_taken_up_is_not_lost() -> None:
    bench = Bench(Plan([Phase(10 * S, 9)]))
    lost = MissedPoints(first=2, last=4, frames=3)
    note = bench.source.plan_note()
    bench.time.sleep(52)
    expose = bench.camera.expose

    def late() -> Exposure:
        bench.camera.expose = expose  # type: ignore[method-assign]
        bench.source.begin(RUN, note, SchedulePosition(2), lost)
        return expose()

    bench.source.end()
    bench.camera.expose = late  # type: ignore[method-assign]
    first, second = bench.read(), bench.source.read(0.5)

    assert missed(first) == lost
    assert isinstance(second, Exposure)
    assert point(second).index == 5


def test_the_time_in_which_the_machine_was_suspended_counts() -> None:
    bench = Bench(Plan([Phase(10 * S, 9)]))
    bench.read()
    bench.time.slept_ns += 25 * S  # monotonic time stood still

    assert missed(bench.read()) == MissedPoints(first=1, last=1, frames=1)
    assert point(bench.read()).index == 2


def test_a_recording_waits_for_each_point() -> None:
    bench = Bench(Plan([Phase(10 * S, 4)]))
    bench.camera.is_live = False
    bench.held._source._is_live = False  # type: ignore[attr-defined]

    taken = [point(item) for item in bench.rest()]

    assert [p.index for p in taken] == [0, 1, 2, 3]
    assert max(p.late_ms for p in taken) < 1
    assert [p.between for p in taken] == [0, 0, 0, 0]


def test_a_silent_camera_is_told_from_the_silence_between_points() -> None:
    bench = Bench(Plan([Phase(600 * S, 4)]), lambda s: s > 300)
    bench.read()
    while bench.camera.seconds() < 299:
        bench.source.read(0.5)
    assert bench.source.silent_s < 1

    while bench.camera.seconds() < 400:
        bench.source.read(0.5)
    assert bench.source.silent_s == pytest.approx(100, abs=2)


def test_a_camera_away_for_ten_minutes_costs_its_points_and_nothing_else() -> None:
    """Gap recorded, states handled by the rule, schedule kept."""
    plan = Plan([Phase(10 * S, 140)])
    bench = Bench(plan, lambda s: 605 < s < 1205)
    pauses = PauseSettings(reset_after_s=120)
    follower = Follower(
        TrackingSettings(confirm_after=1),
        FrameIntervals(pauses.lost_after, pauses.reset_after_s),
    )

    gaps: list[tuple[float, str]] = []
    result: list[tuple[Point, Following]] = []
    for item in bench.rest():
        if isinstance(item, Gap):
            gaps.append((bench.camera.seconds(), item.reason))
        else:
            result.append((point(item), follow(follower, item)))

    reasons = [reason for _, reason in gaps]
    assert reasons[0] == "camera lost: the cable is out"
    assert reasons[1].startswith("camera back after 6")
    assert reasons[2].startswith("points 61 to 1")
    lost = [i for i in range(140) if i not in {p.index for p, _ in result}]
    first_back = lost[-1] + 1
    assert lost == list(range(61, first_back))
    assert 120 <= first_back <= 124  # back-off opens it again within 30 s
    continuity = {p.index: f.continuity for p, f in result}
    assert continuity.pop(0) == "first"
    assert continuity.pop(first_back) == "reset"
    assert set(continuity.values()) == {"continuous"}
    zero = result[0][0].due
    for planned, _ in result:
        assert planned.due == zero + timedelta(seconds=10 * planned.index)
        assert planned.late_ms <= 50.0 or planned.index == first_back
    ended = {track for _, f in result for track in f.ended}
    assert ended == set()  # the same cells are still there


def follow(follower: Follower, item: Exposure) -> Following:
    template = frame_result(1).cells[0]
    random = np.random.default_rng(1)
    corners = random.integers(20, (300, 200), (12, 2)).tolist()
    result = msgspec.structs.replace(
        frame_result(0),
        cells=tuple(
            msgspec.structs.replace(template, id=n, box=(x, y, x + 70, y + 70))
            for n, (x, y) in enumerate(corners)
        ),
        monotonic_ns=item.shot.monotonic_ns,
        width_px=400,
        height_px=300,
        pixel_size_um=0.3,
        locator="l",
        point=point(item),
    )
    following = follower.follow(ExaminedFrame(item.develop(), result)).following
    assert following is not None
    return following
