"""Use a tool in a thread of its own, by another that waits, but not for ever.

The engine of a sequence model is opened, used and closed in one thread. It may hang,
and who waits for it must still be able to say so.
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
    """Nothing is done any more: the tool was never opened, hangs, or is closed."""


class JobTimedOut(HemascopeError):
    """A job did not end in time; it is the last one that was tried."""


class DeadlineWorker(Generic[T]):
    """Jobs of one thread, done by another, one at a time.

    `open_tool` makes what the jobs are done with, in the thread that does them.
    """

    def __init__(self, open_tool: Callable[[], T]) -> None:
        self._open_tool = open_tool
        self._job: tuple[Callable[[T], Any], Future[Any]] | None = None
        self._changed = threading.Condition()
        self._is_open = self._is_over = False

    def run(self) -> None:
        """Open the tool, and do the jobs until `close`; for one thread.

        Raises
        ------
        Exception
            What opening the tool raises; what a job raises is for who brought it.
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

    def do(self, job: Callable[[T], R], most_s: float) -> R:
        """Wait for what `job` gives; from one thread.

        Raises
        ------
        AsideOver
            Jobs are not done any more.
        Hung
            It took longer than `most_s`; the next one is not even tried.
        Exception
            What the job raises.
        """
        future: Future[R] = Future()
        with self._changed:
            if self._is_over:
                raise _over()
            self._job = job, future
            self._changed.notify_all()
        wait([future], most_s)
        if not future.done():
            self.close()
            raise JobTimedOut(
                f"a job has been in work for {most_s:.0f} s, expected less"
            )
        return future.result()

    def close(self) -> None:
        """Take no more jobs. Safe to call twice."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def _refuse(self) -> None:
        """Tell who waits that nothing will come."""
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
    except Exception as error:  # noqa: BLE001 it is raised again where it belongs
        future.set_exception(error)
    else:
        future.set_result(answer)
