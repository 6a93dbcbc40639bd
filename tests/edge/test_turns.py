from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from edge.turns import Turns, TurnsOver


class Notes(list[int]):
    """A tool that knows the thread it was opened in."""

    def __init__(self) -> None:
        super().__init__()
        self.thread = threading.get_ident()
        self.is_closed = False

    def note(self, number: int) -> int:
        assert threading.get_ident() == self.thread
        self.append(number)
        return 10 * number

    def close(self) -> None:
        self.is_closed = True


def started(notes: list[Notes]) -> tuple[Turns[Notes], threading.Thread]:
    def open_tool() -> Notes:
        notes.append(Notes())
        return notes[0]

    turns = Turns(open_tool)
    thread = threading.Thread(target=turns.run)
    thread.start()
    return turns, thread


def test_jobs_are_done_in_order_by_one_thread_whoever_comes_first() -> None:
    notes: list[Notes] = []
    turns, thread = started(notes)

    def job(number: int) -> int:
        time.sleep(0.002 * (number % 3))
        return turns.take(number, lambda tool: tool.note(number))

    with ThreadPoolExecutor(4) as workers:
        said = list(workers.map(job, range(40)))
    turns.close()
    thread.join(5)

    assert notes[0] == list(range(40))
    assert said == [10 * n for n in range(40)]
    assert notes[0].is_closed


def test_a_skipped_turn_holds_nobody_up() -> None:
    notes: list[Notes] = []
    turns, thread = started(notes)

    turns.skip(1)
    turns.skip(0)
    assert turns.take(2, lambda tool: tool.note(2)) == 20

    turns.close()
    thread.join(5)
    assert notes[0] == [2]


def test_what_a_job_raises_is_for_who_brought_it_and_the_next_goes_on() -> None:
    turns, thread = started([])

    with pytest.raises(ZeroDivisionError):
        turns.take(0, lambda tool: 1 // 0)
    assert turns.take(1, len) == 0

    turns.close()
    thread.join(5)


def test_who_waits_for_a_turn_that_never_comes_is_told_when_all_ends() -> None:
    turns, thread = started([])
    with ThreadPoolExecutor(1) as worker:
        waiting = worker.submit(turns.take, 5, len)
        time.sleep(0.05)
        turns.close()
        with pytest.raises(TurnsOver):
            waiting.result(5)
    with pytest.raises(TurnsOver):
        turns.take(6, len)
    thread.join(5)


def test_a_tool_that_cannot_be_opened_refuses_everybody() -> None:
    def broken() -> Notes:
        raise OSError("no engine")

    turns = Turns(broken)
    with pytest.raises(OSError, match="no engine"):
        turns.run()
    with pytest.raises(TurnsOver):
        turns.take(0, len)
