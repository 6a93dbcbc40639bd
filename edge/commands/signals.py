"""End a process in order when it is told to."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def until_signalled() -> Iterator[threading.Event]:
    """Give an event that the ending signals set; a second one interrupts."""
    stop = threading.Event()

    def set_stop(number: int, _frame: Any) -> None:
        stop.set()
        signal.signal(number, signal.default_int_handler)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, set_stop)
    yield stop
