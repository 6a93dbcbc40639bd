from __future__ import annotations

from datetime import datetime, timezone

from edge.errors import HemascopeError
from edge.frames import Gap
from edge.run.failure_policy import FailurePolicy, HangWatch
from edge.run.frame_queue import QueuedFrame
from edge.run.frame_worker import FrameOutcome, rejected
from edge.run.result_order import ResultOrder
from tests.conftest import frame_result

GAP = Gap(0, 1, "gone", 0, datetime(2026, 1, 1, tzinfo=timezone.utc))


def queued(number: int) -> QueuedFrame:
    return QueuedFrame(number, GAP, 0, 0.0)


def good(number: int = 0) -> FrameOutcome:
    return FrameOutcome(queued=queued(number), result=frame_result(), digest=number)


def gap() -> FrameOutcome:
    return FrameOutcome(queued=queued(0), result=frame_result(status="gap"))


def bad() -> FrameOutcome:
    return rejected(queued(0), "the engine is gone")


def test_several_failures_in_a_row_end_the_process() -> None:
    policy = FailurePolicy(3)
    for outcome in (bad(), bad(), good(), bad(), gap(), bad()):
        policy.count(outcome)
        assert policy.error is None

    policy.count(bad())

    assert "3 frames in a row failed, the last one: the engine is gone" in str(
        policy.error
    )


def test_the_first_error_is_the_one_that_is_told() -> None:
    policy = FailurePolicy(1)
    first = HemascopeError("no such model")

    policy.give_up(first)
    policy.give_up(HemascopeError("stopped"))
    policy.count(bad())

    assert policy.error is first


def test_a_frame_that_takes_too_long_is_a_hang() -> None:
    now = [100.0]
    watch = HangWatch(10.0, lambda: now[0])
    now[0] += 9.5
    assert not watch.is_hung
    assert watch.left_s == 1.0  # never less, or the next frame would be given up too
    now[0] += 1.0
    assert watch.is_hung
    assert "10 s" in str(watch.error())

    watch.restart()

    assert not watch.is_hung
    assert watch.left_s == 10.0


def test_outcomes_wait_for_those_before_them() -> None:
    order = ResultOrder()
    order.add(good(1))
    order.add(good(3))
    assert order.take_due() is None

    order.add(good(0))

    taken = [order.take_due(), order.take_due(), order.take_due()]
    assert [t and t.queued.number for t in taken] == [0, 1, None]
    behind = order.take(3)
    assert behind is not None
    assert order.take(2) is None
