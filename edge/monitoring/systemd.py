"""Tell systemd how we are: ready, at work, stopping. Silent where nobody asked.

The protocol of sd_notify(3): one datagram of `KEY=value` lines to a socket that the
service manager names in the environment.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, MutableMapping

log = logging.getLogger(__name__)

_LONGEST_PERIOD_S = 5.0
_SEND_S = 1.0


class Notifier:
    """Speaks to the service manager from one thread.

    `progress` is called for finished work alone, as often as there is some, so that a
    process in which something hangs is ended and started again; it is passed on at most
    four times per watchdog interval, and at least every 5 s where work goes on.
    """

    def __init__(
        self,
        address: str = "",
        watchdog_s: float | None = None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Speak to the socket `address`, a path or `@name`; to nobody if empty."""
        self.watchdog_s = watchdog_s
        self._period_s = min(_LONGEST_PERIOD_S, (watchdog_s or _LONGEST_PERIOD_S) / 4)
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._monotonic = monotonic
        self._due_s = monotonic()
        self._is_ready = False
        self._text = ""

    def ready(self) -> None:
        """Say once that the self-test has passed and work begins."""
        if not self._is_ready:
            self._is_ready = True
            self._send("READY=1")

    def progress(self, text: str = "") -> None:
        """Say that a piece of work is done, and in `text` how things are.

        Without `text` the last one stands. Before `ready` nothing is passed on: a start
        has a time limit of its own.
        """
        self._text = text or self._text
        now_s = self._monotonic()
        if self._is_ready and now_s >= self._due_s:
            self._due_s = now_s + self._period_s
            self._send(f"WATCHDOG=1\nSTATUS={_one_line(self._text)}")

    def status(self, text: str) -> None:
        """Say at once how things are; this is no progress."""
        self._send(f"STATUS={_one_line(text)}")

    def stopping(self) -> None:
        """Say that we are about to end, as we were told to."""
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        """Send a datagram; who cannot be told is told again next time."""
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.settimeout(_SEND_S)
            try:
                out.sendto(message.encode(), self._address)
            except OSError as error:
                log.warning("the service manager was not told: %s", error)


def notifier_of(environment: MutableMapping[str, str] = os.environ) -> Notifier:
    """Return the notifier that `environment` asks for.

    What it says of it is removed, so that no process we start speaks in our name. A
    socket of a kind that we do not speak, or a watchdog that is not meant for us or not
    a number, is logged and left out: then systemd ends us, which is seen.
    """
    address = environment.pop("NOTIFY_SOCKET", "")
    interval_us = environment.pop("WATCHDOG_USEC", "")
    process = environment.pop("WATCHDOG_PID", "")
    if address and address[0] not in "/@":
        log.warning("NOTIFY_SOCKET=%s: expected a path or @name", address)
        address = ""
    if not interval_us or process not in ("", str(os.getpid())):
        return Notifier(address)
    if not interval_us.isdecimal() or int(interval_us) == 0:
        log.warning("WATCHDOG_USEC=%s: expected microseconds", interval_us)
        return Notifier(address)
    return Notifier(address, int(interval_us) * 1e-6)


def _one_line(text: str) -> str:
    """Return `text` without ends of lines, which would begin another message."""
    return " ".join(text.split())
