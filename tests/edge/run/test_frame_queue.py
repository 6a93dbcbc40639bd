from __future__ import annotations

import threading
import time
from dataclasses import replace
from datetime import datetime, timezone

import numpy as np
import pytest

from edge.frames import Exposure, Gap, Planned
from edge.run.frame_queue import MOST_PLANNED, FrameQueue
from edge.schema.results import Point
from tests.conftest import exposure_of


def exposure(number: int) -> Exposure:
    return exposure_of(np.zeros((2, 2, 3), np.uint8), number)


def gap() -> Gap:
    return Gap(0, 1, "test", 0, datetime(2026, 1, 1, tzinfo=timezone.utc))


def test_a_newer_live_exposure_replaces_the_one_nobody_took() -> None:
    desk = FrameQueue(is_live=True)
    for number in range(4):
        assert desk.put(exposure(number))

    ticket = desk.take()

    assert ticket is not None
    assert isinstance(ticket.item, Exposure)
    assert ticket.item.shot.sequence == 3
    assert (ticket.number, ticket.passed_over) == (0, 3)


def test_what_was_passed_over_is_counted_once() -> None:
    desk = FrameQueue(is_live=True)
    desk.put(exposure(0))
    desk.put(exposure(1))
    first = desk.take()
    desk.put(exposure(2))
    second = desk.take()

    assert first is not None
    assert second is not None
    assert (first.passed_over, second.passed_over) == (1, 0)
    assert (first.number, second.number) == (0, 1)


def test_a_gap_keeps_its_place_and_is_never_replaced() -> None:
    desk = FrameQueue(is_live=True)
    for item in (exposure(0), gap(), exposure(1), gap(), exposure(2)):
        desk.put(item)

    kinds = []
    desk.close()
    while (ticket := desk.take()) is not None:
        kinds.append(type(ticket.item).__name__)

    assert kinds == ["Gap", "Gap", "Exposure"]


def test_planned_exposures_are_not_replaced_and_wait_for_each_other() -> None:
    desk = FrameQueue(is_live=True)
    point = Point(index=0, due=datetime(2026, 1, 1, tzinfo=timezone.utc), late_ms=0.0)
    put: list[int] = []

    def plan() -> None:
        for number in range(7):
            planned = Planned("run", point)
            desk.put(replace(exposure(number), planned=planned))
            put.append(number)
        desk.close()

    thread = threading.Thread(target=plan)
    thread.start()
    time.sleep(0.1)
    assert len(put) == MOST_PLANNED
    taken = []
    while (ticket := desk.take()) is not None:
        assert isinstance(ticket.item, Exposure)
        assert ticket.passed_over == 0
        taken.append(ticket.item.shot.sequence)
    thread.join()

    assert taken == list(range(7))
    assert desk.is_empty


def test_a_recorded_exposure_waits_until_the_last_one_is_taken() -> None:
    desk = FrameQueue(is_live=False)
    put: list[int] = []

    def record() -> None:
        for number in range(5):
            desk.put(exposure(number))
            put.append(number)
        desk.close()

    thread = threading.Thread(target=record)
    thread.start()
    taken = []
    while (ticket := desk.take()) is not None:
        assert isinstance(ticket.item, Exposure)
        assert len(put) <= len(taken) + 2
        taken.append(ticket.item.shot.sequence)
        time.sleep(0.01)
    thread.join()

    assert taken == [0, 1, 2, 3, 4]


def test_no_more_frames_are_handed_out_than_asked_for() -> None:
    desk = FrameQueue(is_live=True, most_frames=2)
    desk.put(exposure(0))
    desk.take()
    desk.put(exposure(1))
    desk.take()

    assert not desk.put(exposure(2))
    assert desk.take() is None


def test_closing_wakes_everybody_who_waits() -> None:
    desk = FrameQueue(is_live=False)
    desk.put(exposure(0))
    threads = [
        threading.Thread(target=lambda: [desk.take(), desk.take()]),
        threading.Thread(target=lambda: desk.put(exposure(1))),
    ]
    for thread in threads:
        thread.start()
    desk.close()
    for thread in threads:
        thread.join(timeout=5)

    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("workers", [2, 4])
def test_every_number_is_given_to_one_worker_only(workers: int) -> None:
    desk = FrameQueue(is_live=False)
    numbers: list[int] = []

    def work() -> None:
        while (ticket := desk.take()) is not None:
            numbers.append(ticket.number)

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for number in range(200):
        desk.put(exposure(number))
    desk.close()
    for thread in threads:
        thread.join()

    assert sorted(numbers) == list(range(200))


def test_no_more_tickets_are_out_than_may_be_until_all_is_to_end() -> None:
    desk = FrameQueue(is_live=False, most_out=2)
    given: list[int] = []

    def work() -> None:
        while (ticket := desk.take()) is not None:
            given.append(ticket.number)

    worker = threading.Thread(target=work)
    worker.start()
    for _ in range(4):
        desk.put(gap())
    time.sleep(0.1)
    assert given == [0, 1]

    desk.finish()
    time.sleep(0.1)
    assert given == [0, 1, 2]

    desk.close()
    worker.join(5)
    assert given == [0, 1, 2, 3]
