from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timezone

import numpy as np
import pytest

from edge.backoff import Backoff
from edge.frames import Exposure, Gap, RawFrame, Shot, SourceEnded, SourceLost
from edge.schema.results import Controls
from edge.sources.frame_numbers import number_by_time
from edge.sources.reconnecting import ReconnectingSource

UTC = datetime(2026, 1, 1, tzinfo=timezone.utc)


class Scripted:
    """A recorded camera: numbers are frames, an error is raised, None is a timeout."""

    def __init__(self, script: Iterable[int | Shot | Exception | None]) -> None:
        self._script = iter(script)
        self.is_live = True
        self.is_closed = False

    def read(self, timeout_s: float) -> Exposure | Gap | None:
        step = next(self._script, SourceEnded("the script is over"))
        if isinstance(step, Exception):
            raise step
        if step is None:
            return None
        shot = step if isinstance(step, Shot) else Shot(step, step, UTC, "scripted")
        return Exposure(shot, lambda: RawFrame(shot, np.zeros((2, 2, 3), np.uint8)))

    def close(self) -> None:
        self.is_closed = True


class Time:
    """A clock that moves only when somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


LOST = SourceLost("the cable is out")


def watch(*connections: Iterable[int | Exception | None] | Exception) -> list[object]:
    """Numbers, gaps and pauses of a source that is opened as often as needed."""
    time, waiting = Time(), iter(connections)

    def connect() -> Scripted:
        script = next(waiting)
        if isinstance(script, Exception):
            raise script
        return Scripted(script)

    source = ReconnectingSource(
        connect, backoff=Backoff(1.0, 30.0), monotonic=time.monotonic, sleep=time.sleep
    )
    seen: list[object] = []
    while True:
        try:
            item = source.read(0.5)
        except (SourceEnded, StopIteration):
            return seen
        if isinstance(item, Exposure):
            assert item.develop().shot == item.shot
            seen.append(item.shot.sequence)
        elif isinstance(item, Gap):
            seen.append((item.first, item.missed, item.reason))


def test_frames_without_a_jump_pass_unchanged() -> None:
    assert watch([5, 6, None, 7]) == [5, 6, 7]


def test_a_jump_of_the_drivers_numbers_is_a_gap_before_the_frame() -> None:
    assert watch([0, 1, 5, 6]) == [0, 1, (2, 3, "3 frames skipped by the camera"), 5, 6]


def test_numbers_go_on_when_the_driver_starts_again_at_zero() -> None:
    seen = watch([0, 1, LOST], [0, 1, 2])

    lost, back = seen[2], seen[3]
    assert seen[:2] + seen[4:] == [0, 1, 2, 3, 4]
    assert lost == (2, None, "camera lost: the cable is out")
    assert isinstance(back, tuple)
    assert back[2].startswith("camera back after")


def test_numbers_that_the_driver_kept_counting_show_what_was_missed() -> None:
    seen = watch([0, 1, LOST], [40, 41])

    assert seen[-3:] == [(2, 38, "38 frames skipped by the camera"), 40, 41]


def test_it_is_opened_again_after_longer_and_longer_pauses() -> None:
    seen = watch([0, LOST], LOST, LOST, LOST, LOST, LOST, LOST, LOST, [0])

    back = seen[2]
    assert isinstance(back, tuple)
    away_s = float(back[2].removeprefix("camera back after ").removesuffix(" s"))
    longest_s = 1 + 2 + 4 + 8 + 16 + 30 + 30 + 30
    assert longest_s * 1.01 >= away_s >= 0.49 * longest_s


def test_the_lost_device_is_released() -> None:
    scripted = Scripted([0, LOST])
    source = ReconnectingSource(lambda: scripted)
    source.read(1)
    source.read(1)

    assert scripted.is_closed


def test_a_source_that_cannot_be_opened_at_the_start_is_an_error() -> None:
    def fail() -> Scripted:
        raise LOST

    with pytest.raises(SourceLost):
        ReconnectingSource(fail)


@pytest.mark.parametrize(
    ("last", "taken_s", "period_s", "number"),
    [
        (None, 7.0, 0.1, 0),
        ((4, 1.0), 1.1, 0.1, 5),
        ((4, 1.0), 1.13, 0.1, 5),
        ((4, 1.0), 1.3, 0.1, 7),
        ((4, 1.0), 0.9, 0.1, 5),
        ((4, 1.0), 9.0, None, 5),
    ],
)
def test_frames_without_numbers_are_numbered_by_their_times(
    last: tuple[int, float] | None, taken_s: float, period_s: float | None, number: int
) -> None:
    assert number_by_time(last, taken_s, period_s) == number


def test_pauses_grow_and_stay_within_their_limits() -> None:
    backoff = Backoff(1.0, 30.0)
    waits = [backoff.next_s() for _ in range(10)]
    for wait_s, most_s in zip(waits, [1, 2, 4, 8, 16, 30, 30, 30, 30, 30], strict=True):
        assert most_s / 2 <= wait_s <= most_s

    backoff.reset()
    assert backoff.next_s() <= 1.0


def set_so(number: int, controls: Controls | None, camera: str = "A") -> Shot:
    return Shot(number, number, UTC, "scripted", camera=camera, controls=controls)


def shots(*connections: list[Shot | Exception], **options: object) -> list[object]:
    """Shots and reasons of gaps."""
    time, waiting = Time(), iter(connections)
    watched = ReconnectingSource(
        lambda: Scripted(next(waiting)),
        monotonic=time.monotonic,
        sleep=time.sleep,
        **options,  # type: ignore[arg-type]
    )
    seen: list[object] = []
    while True:
        try:
            item = watched.read(100.0)
        except (SourceEnded, StopIteration):
            return seen
        if isinstance(item, Exposure):
            assert item.develop().shot is item.shot
            seen.append(item.shot)
        elif item is not None:
            seen.append(item.reason)


LOCKED = Controls(exposure_ms=8.0, gain=1.0)


def test_a_control_that_changes_is_doubted_until_it_is_back() -> None:
    brighter = Controls(exposure_ms=12.0, gain=1.0)

    seen = shots([set_so(n, c) for n, c in enumerate([LOCKED, brighter, None, LOCKED])])

    doubts = [shot.doubt for shot in seen if isinstance(shot, Shot)]
    assert doubts == [
        None,
        "changed since the start: exposure is 12 ms, was 8 ms; set it back or "
        "calibrate",
        "how the camera is set cannot be read back; check its cable",
        None,
    ]


def test_a_control_that_was_let_free_may_change() -> None:
    free = [Controls(exposure_ms=ms, automatic=("exposure",)) for ms in (8.0, 12.0)]

    seen = shots([set_so(n, c) for n, c in enumerate(free)], varying=["exposure"])

    assert [shot.doubt for shot in seen if isinstance(shot, Shot)] == [None, None]


def test_a_camera_that_comes_back_set_otherwise_is_doubted() -> None:
    reset = Controls(exposure_ms=33.0, gain=1.0)

    seen = shots([set_so(0, LOCKED), LOST], [set_so(0, reset)])

    assert isinstance(seen[-1], Shot)
    assert seen[-1].sequence == 1
    assert "exposure is 33 ms, was 8 ms" in str(seen[-1].doubt)


def test_a_camera_that_was_exchanged_for_another_is_said() -> None:
    seen = shots(
        [set_so(0, LOCKED), LOST], [set_so(0, LOCKED, "B"), set_so(2, LOCKED, "B")]
    )

    assert seen[-4] == "another camera: B, it was A; calibrate it"
    assert [s.sequence for s in seen if isinstance(s, Shot)] == [0, 1, 3]
    assert seen[-2] == "1 frames skipped by the camera"


def test_what_is_noted_of_a_frame_goes_with_its_new_number() -> None:
    class Noted(Scripted):
        def read(self, timeout_s: float) -> Exposure | Gap | None:
            item = super().read(timeout_s)
            if not isinstance(item, Exposure):
                return item
            noted = replace(item.develop(), notes=("page 1 of 2",), filler_bytes=3)
            return Exposure(item.shot, lambda: noted)

    connections = iter([Noted([0, 1, LOST]), Noted([0])])
    source = ReconnectingSource(
        lambda: next(connections), backoff=Backoff(0.1, 1.0), sleep=lambda _: None
    )
    raws = []
    while len(raws) < 3:
        item = source.read(0.5)
        if isinstance(item, Exposure):
            raws.append(item.develop())

    assert [raw.shot.sequence for raw in raws] == [0, 1, 2]
    assert {(raw.notes, raw.filler_bytes) for raw in raws} == {(("page 1 of 2",), 3)}
