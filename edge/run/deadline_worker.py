"""Give jobs to a thread of its own, and wait for each no longer than a deadline.

The engine of a sequence model must be opened, used and closed in one thread. It may
hang, and the main thread, which waits for it, must still be able to say so.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import closing
from typing import Any, Generic, Protocol, TypeVar

from edge.errors import HemascopeError


class _Closeable(Protocol):
    def close(self) -> None: ...


T = TypeVar("T", bound=_Closeable)
R = TypeVar("R")


class WorkerClosed(HemascopeError):
    """Jobs are not taken any more: the tool was not opened, hangs, or is closed."""


class JobTimedOut(HemascopeError):
    """A job did not end in time; no later one is tried."""


class DeadlineWorker(Generic[T]):
    """One thread that does the jobs of another, one at a time.

    `run` is for the thread that does them, and `do` for the thread that gives them;
    `open_tool` opens what the jobs need, in the thread that does them.
    """

    def __init__(self, open_tool: Callable[[], T]) -> None:
        self._open_tool = open_tool
        self._job: tuple[Callable[[T], Any], Future[Any]] | None = None
        self._changed = threading.Condition()
        self._is_open = self._is_over = False

    def run(self) -> None:
        """Open the tool, and do jobs until `close`.

        Raises
        ------
        Exception
            What opening the tool raises. What a job raises, `do` raises.
        """
        try:
            with closing(self._open_tool()) as tool:
                self._is_open = True
                while (job := self._next()) is not None:
                    _do(*job, tool)
        finally:
            self.close()
            self._refuse()

    @property
    def is_opening(self) -> bool:
        """Whether a job would wait for the tool to be opened."""
        return not self._is_open and not self._is_over

    def do(self, job: Callable[[T], R], max_s: float) -> R:
        """Return what `job` returns, waiting for it.

        Raises
        ------
        AsideOver
            Jobs are not taken any more.
        Hung
            It took longer than `max_s`; no later job is tried.
        Exception
            What the job raises.
        """
        future: Future[R] = Future()
        with self._changed:
            if self._is_over:
                raise _over()
            self._job = job, future
            self._changed.notify_all()
        wait([future], max_s)
        if not future.done():
            self.close()
            raise JobTimedOut(
                f"a job has been in work for {max_s:.0f} s, expected less"
            )
        return future.result()

    def close(self) -> None:
        """Take no more jobs. Safe to call twice."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def _refuse(self) -> None:
        """Let a job that waits fail: nobody will do it."""
        with self._changed:
            job, self._job = self._job, None
        if job is not None:
            job[1].set_exception(_over())

    def _next(self) -> tuple[Callable[[T], Any], Future[Any]] | None:
        with self._changed:
            while self._job is None or self._is_over:
                if self._is_over:
                    return None
                self._changed.wait()
            job, self._job = self._job, None
            return job


def _over() -> WorkerClosed:
    return WorkerClosed("cells are not followed any more; the process ends")


def _do(job: Callable[[T], Any], future: Future[Any], tool: T) -> None:
    try:
        answer = job(tool)
    except Exception as error:  # noqa: BLE001 `do` raises it again
        future.set_exception(error)
    else:
        future.set_result(answer)
