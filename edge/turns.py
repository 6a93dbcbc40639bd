"""Let frames that were examined in parallel pass one by one, in their order.

What follows cells from frame to frame needs order, and its engine one thread. So one
thread does those jobs, and each worker waits there for its turn.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing
from typing import Any, Generic, Protocol, TypeVar

from edge.errors import HemascopeError


class _Tool(Protocol):
    def close(self) -> None: ...


T = TypeVar("T", bound=_Tool)
R = TypeVar("R")


class TurnsOver(HemascopeError):
    """Nobody takes turns any more: the process ends."""


class Turns(Generic[T]):
    """Jobs of many threads, done by one, in the order of their numbers from 0.

    `open_tool` makes what the jobs are done with, in the thread that does them.
    """

    def __init__(self, open_tool: Callable[[], T]) -> None:
        self._open_tool = open_tool
        self._waiting: dict[int, tuple[Callable[[T], Any], Future[Any]]] = {}
        self._changed = threading.Condition()
        self._due = 0
        self._is_over = False

    def run(self) -> None:
        """Open the tool, and do the jobs until `close`; for one thread.

        Raises
        ------
        Exception
            What opening the tool raises; what a job raises is for who brought it.
        """
        try:
            with closing(self._open_tool()) as tool:
                while (job := self._next()) is not None:
                    _do(*job, tool)
        finally:
            self.close()
            self._refuse(all_of_them=True)

    def take(self, number: int, job: Callable[[T], R]) -> R:
        """Wait for turn `number` and return what `job` gives; each number comes once.

        Raises
        ------
        TurnsOver
            It was closed before the turn came.
        Exception
            What the job raises.
        """
        future: Future[R] = Future()
        with self._changed:
            if self._is_over:
                raise _over()
            self._waiting[number] = (job, future)
            self._changed.notify_all()
        return future.result()

    def skip(self, number: int) -> None:
        """Let turn `number` pass without a job, and do not wait for it."""
        with self._changed:
            self._waiting[number] = (lambda _tool: None, Future())
            self._changed.notify_all()

    def close(self) -> None:
        """Refuse what waits for a turn that never came. Safe to call twice."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        self._refuse()

    def _refuse(self, *, all_of_them: bool = False) -> None:
        with self._changed:
            refused = [n for n in self._waiting if all_of_them or n != self._due]
            futures = [self._waiting.pop(number)[1] for number in refused]
        for future in futures:
            future.set_exception(_over())

    def _next(self) -> tuple[Callable[[T], Any], Future[Any]] | None:
        with self._changed:
            while self._due not in self._waiting:
                if self._is_over:
                    return None
                self._changed.wait()
            job = self._waiting.pop(self._due)
            self._due += 1
            return job


def _over() -> TurnsOver:
    return TurnsOver("frames are not followed any more; the process ends")


def _do(job: Callable[[T], Any], future: Future[Any], tool: T) -> None:
    try:
        said = job(tool)
    except Exception as error:  # noqa: BLE001 it is raised again where it belongs
        future.set_exception(error)
    else:
        future.set_result(said)
