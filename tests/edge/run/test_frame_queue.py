from __future__ import annotations

import threading
import time
from dataclasses import replace
from datetime import datetime, timezone

import numpy as np
import pytest

from edge.frames import Exposure, Gap, Planned
from edge.run.frame_queue import MAX_PLANNED, FrameQueue
from edge.schema.results import Point
from tests.conftest import exposure_of


def exposure(number: int) -> Exposure:
    return exposure_of(np.zeros((2, 2, 3), np.uint8), number)


def gap() -> Gap:
    return Gap(0, 1, "test", 0, datetime(2026, 1, 1, tzinfo=timezone.utc))


def test_a_newer_live_exposure_replaces_the_one_nobody_took() -> None:
    frames = FrameQueue(is_live=True)
    for number in range(4):
        assert frames.put(exposure(number))

    queued = frames.take()

    assert queued is not None
    assert isinstance(queued.item, Exposure)
    assert queued.item.shot.sequence == 3
    assert (queued.number, queued.passed_over) == (0, 3)


def test_what_was_passed_over_is_counted_once() -> None:
    frames = FrameQueue(is_live=True)
    frames.put(exposure(0))
    frames.put(exposure(1))
    first = frames.take()
    frames.put(exposure(2))
    second = frames.take()

    assert first is not None
    assert second is not None
    assert (first.passed_over, second.passed_over) == (1, 0)
    assert (first.number, second.number) == (0, 1)


def test_a_gap_keeps_its_place_and_is_never_replaced() -> None:
    frames = FrameQueue(is_live=True)
    for item in (exposure(0), gap(), exposure(1), gap(), exposure(2)):
        frames.put(item)

    kinds = []
    frames.close()
    while (queued := frames.take()) is not None:
        kinds.append(type(queued.item).__name__)

    assert kinds == ["Gap", "Gap", "Exposure"]


def test_planned_exposures_are_not_replaced_and_wait_for_each_other() -> None:
    frames = FrameQueue(is_live=True)
    point = Point(index=0, due=datetime(2026, 1, 1, tzinfo=timezone.utc), late_ms=0.0)
    put: list[int] = []

    def plan() -> None:
        for number in range(7):
            planned = Planned("run", point)
            frames.put(replace(exposure(number), planned=planned))
            put.append(number)
        frames.close()

    thread = threading.Thread(target=plan)
    thread.start()
    time.sleep(0.1)
    assert len(put) == MAX_PLANNED
    taken = []
    while (queued := frames.take()) is not None:
        assert isinstance(queued.item, Exposure)
        assert queued.passed_over == 0
        taken.append(queued.item.shot.sequence)
    thread.join()

    assert taken == list(range(7))
    assert frames.is_empty


def test_a_recorded_exposure_waits_until_the_last_one_is_taken() -> None:
    frames = FrameQueue(is_live=False)
    put: list[int] = []

    def record() -> None:
        for number in range(5):
            frames.put(exposure(number))
            put.append(number)
        frames.close()

    thread = threading.Thread(target=record)
    thread.start()
    taken = []
    while (queued := frames.take()) is not None:
        assert isinstance(queued.item, Exposure)
        assert len(put) <= len(taken) + 2
        taken.append(queued.item.shot.sequence)
        time.sleep(0.01)
    thread.join()

    assert taken == [0, 1, 2, 3, 4]


def test_no_more_frames_are_handed_out_than_asked_for() -> None:
    frames = FrameQueue(is_live=True, max_frames=2)
    frames.put(exposure(0))
    frames.take()
    frames.put(exposure(1))
    frames.take()

    assert not frames.put(exposure(2))
    assert frames.take() is None


def test_closing_wakes_everybody_who_waits() -> None:
    frames = FrameQueue(is_live=False)
    frames.put(exposure(0))
    threads = [
        threading.Thread(target=lambda: [frames.take(), frames.take()]),
        threading.Thread(target=lambda: frames.put(exposure(1))),
    ]
    for thread in threads:
        thread.start()
    frames.close()
    for thread in threads:
        thread.join(timeout=5)

    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("workers", [2, 4])
def test_every_number_is_given_to_one_worker_only(workers: int) -> None:
    frames = FrameQueue(is_live=False)
    numbers: list[int] = []

    def work() -> None:
        while (queued := frames.take()) is not None:
            numbers.append(queued.number)

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for number in range(200):
        frames.put(exposure(number))
    frames.close()
    for thread in threads:
        thread.join()

    assert sorted(numbers) == list(range(200))


def test_no_more_tickets_are_out_than_may_be_until_all_is_to_end() -> None:
    frames = FrameQueue(is_live=False, max_in_work=2)
    given: list[int] = []

    def work() -> None:
        while (queued := frames.take()) is not None:
            given.append(queued.number)

    worker = threading.Thread(target=work)
    worker.start()
    for _ in range(4):
        frames.put(gap())
    time.sleep(0.1)
    assert given == [0, 1]

    frames.finish(0)
    time.sleep(0.1)
    assert given == [0, 1, 2]

    frames.close()
    worker.join(5)
    assert given == [0, 1, 2, 3]
