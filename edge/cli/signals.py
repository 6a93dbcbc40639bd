"""A process and what rules it: signals that end it, and the service manager."""

from __future__ import annotations

import faulthandler
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from edge.monitoring.systemd import Notifier, notifier_from_environment

_SAME_S = 1.0  # one Ctrl-C may arrive twice, from the terminal and from make


class StopEvent(threading.Event):
    """Set when the process shall end; `is_by_hand` where a person pressed Ctrl-C."""

    is_by_hand = False


@contextmanager
def until_signalled(stop: StopEvent | None = None) -> Iterator[StopEvent]:
    """Give an event that the ending signals set; one more, later, interrupts."""
    stop = StopEvent() if stop is None else stop
    since_s = time.monotonic()

    def set_stop(number: int, _frame: Any) -> None:
        nonlocal since_s
        if stop.is_set() and time.monotonic() - since_s > _SAME_S:
            raise KeyboardInterrupt
        if not stop.is_set():
            since_s = time.monotonic()
            stop.is_by_hand = number == signal.SIGINT
            stop.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, set_stop)
    yield stop


def service_notifier() -> Notifier:
    """Return the connection to the service manager that started this process.

    If the watchdog ends a hanging process, every thread writes where it stands.
    """
    faulthandler.enable()
    return notifier_from_environment()
