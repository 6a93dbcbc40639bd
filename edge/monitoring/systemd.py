"""Tell systemd that a process is ready, works, or stops. Does nothing without systemd.

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

_MAX_PERIOD_S = 5.0
_SEND_TIMEOUT_S = 1.0


class Notifier:
    """Sends messages to the service manager, from one thread.

    `progress` must be called for finished work alone. So systemd ends and restarts a
    process in which something hangs. It is sent on at most four times per watchdog
    interval, and at least every 5 s while work goes on.
    """

    def __init__(
        self,
        address: str = "",
        watchdog_s: float | None = None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Send to the socket `address`, a path or `@name`; if empty, send nothing."""
        self.watchdog_s = watchdog_s
        self._period_s = min(_MAX_PERIOD_S, (watchdog_s or _MAX_PERIOD_S) / 4)
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._monotonic = monotonic
        self._next_due_s = monotonic()
        self._is_ready = False
        self._text = ""

    def ready(self) -> None:
        """Report once that the self-test has passed and work begins."""
        if not self._is_ready:
            self._is_ready = True
            self._send("READY=1")

    def progress(self, text: str = "") -> None:
        """Report that a piece of work is done; `text` is the status for people.

        Without `text` the last one is sent again. Before `ready` nothing is sent: the
        start of a process has a time limit of its own.
        """
        self._text = text or self._text
        now_s = self._monotonic()
        if self._is_ready and now_s >= self._next_due_s:
            self._next_due_s = now_s + self._period_s
            self._send(f"WATCHDOG=1\nSTATUS={_one_line(self._text)}")

    def status(self, text: str) -> None:
        """Send the status `text` at once; this does not count as progress."""
        self._send(f"STATUS={_one_line(text)}")

    def stopping(self) -> None:
        """Report that the process ends in order."""
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        """Send a datagram; a failure is logged, since the next message follows soon."""
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.settimeout(_SEND_TIMEOUT_S)
            try:
                out.sendto(message.encode(), self._address)
            except OSError as error:
                log.warning("the service manager was not reached: %s", error)


def notifier_from_environment(
    environment: MutableMapping[str, str] = os.environ,
) -> Notifier:
    """Return the notifier that `environment` asks for.

    The variables are removed, so that no process we start can send in our name. A kind
    of socket that we do not support, or a watchdog interval that is not a number, is
    logged and left out: systemd then ends this process, and that is noticed. A watchdog
    for another process is left out too.
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
    """Return `text` on one line: a second line would be another message."""
    return " ".join(text.split())
