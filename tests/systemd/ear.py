"""The other end of sd_notify, as systemd holds it."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable


class Ear:
    """A socket as systemd listens on one."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0", 1))
        self._socket.setblocking(False)

    def heard(self) -> list[str]:
        messages = []
        while True:
            try:
                messages.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return messages

    def wait_for(
        self, is_it: Callable[[str], bool], within_s: float = 30.0
    ) -> list[str]:
        """What is heard up to the first message that is the one."""
        messages: list[str] = []
        deadline_s = time.monotonic() + within_s
        while not any(is_it(message) for message in messages):
            assert time.monotonic() < deadline_s, f"heard only {messages}"
            messages += self.heard()
            time.sleep(0.02)
        return messages

    def pings_within(self, time_s: float) -> int:
        """How often the watchdog was fed from now on."""
        self.heard()
        time.sleep(time_s)
        return sum("WATCHDOG=1" in message for message in self.heard())

    def close(self) -> None:
        self._socket.close()
