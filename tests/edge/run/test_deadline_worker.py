from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from edge.run.deadline_worker import DeadlineWorker, JobTimedOut, WorkerClosed


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
        assert threading.get_ident() == self.thread
        self.is_closed = True


class Bench:
    """An aside at work."""

    def __init__(self) -> None:
        self.notes: list[Notes] = []
        self.aside = DeadlineWorker(self.open)
        self.thread = threading.Thread(target=self.aside.run)
        self.thread.start()

    def open(self) -> Notes:
        self.notes.append(Notes())
        return self.notes[0]

    def end(self) -> None:
        self.aside.close()
        self.thread.join(5)


@pytest.fixture
def bench() -> Iterator[Bench]:
    started = Bench()
    yield started
    started.end()


def test_jobs_are_done_one_by_one_in_the_thread_of_the_tool(bench: Bench) -> None:
    result = [bench.aside.do(lambda tool, n=n: tool.note(n), 5.0) for n in range(9)]
    bench.end()

    assert result == [10 * n for n in range(9)]
    assert bench.notes[0] == list(range(9))
    assert bench.notes[0].is_closed


def test_what_a_job_raises_is_for_who_brought_it_and_the_next_goes_on(
    bench: Bench,
) -> None:
    with pytest.raises(ZeroDivisionError):
        bench.aside.do(lambda tool: 1 // 0, 5.0)

    assert bench.aside.do(len, 5.0) == 0


def test_who_waits_for_a_job_that_hangs_is_told_and_the_next_is_not_tried(
    bench: Bench,
) -> None:
    released = threading.Event()
    start_s = time.monotonic()

    with pytest.raises(JobTimedOut, match="0 s"):
        bench.aside.do(lambda tool: released.wait(30), 0.1)
    with pytest.raises(WorkerClosed):
        bench.aside.do(len, 30.0)

    assert time.monotonic() - start_s < 5
    released.set()


def test_nothing_is_done_once_it_is_closed(bench: Bench) -> None:
    bench.end()

    with pytest.raises(WorkerClosed):
        bench.aside.do(len, 5.0)


def test_a_tool_that_cannot_be_opened_refuses_who_waits() -> None:
    asked = threading.Event()

    def broken() -> Notes:
        asked.wait(5)
        raise OSError("no engine")

    aside, told = DeadlineWorker(broken), []
    assert aside.is_opening
    thread = threading.Thread(target=lambda: told.append(_error_of(aside)))
    thread.start()
    threading.Timer(0.05, asked.set).start()
    with pytest.raises(WorkerClosed):
        aside.do(len, 30.0)
    thread.join(5)

    assert told == ["no engine"]
    assert not aside.is_opening


def _error_of(aside: DeadlineWorker[Notes]) -> str:
    try:
        aside.run()
    except OSError as error:
        return str(error)
    return ""
