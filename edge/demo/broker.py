"""Start a broker for a demonstration: mosquitto, or the embedded one.

A laboratory runs mosquitto as a service, with users and an access list.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Protocol

from edge.errors import HemascopeError

_START_TIMEOUT_S = 5.0


class BrokerMissing(HemascopeError):
    """No broker can be started here."""


class Broker(Protocol):
    """A running broker on the loopback address."""

    port: int
    description: str

    def close(self) -> None:
        """Stop it. Safe to call twice."""


def start_broker(folder: Path) -> Broker:
    """Start mosquitto if it is on the PATH, else the embedded broker.

    Raises
    ------
    BrokerMissing
        Neither can be started.
    """
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    program = shutil.which("mosquitto", path=path)
    if program is not None:
        return Mosquitto(program, folder)
    try:
        from edge.demo.embedded_broker import EmbeddedBroker
    except ImportError as error:
        raise BrokerMissing(
            "no MQTT broker: mosquitto is not on the PATH and the embedded one is not "
            "installed; run `apt install mosquitto`, or `pip install '.[demo]'` in the "
            "project's folder"
        ) from error
    return EmbeddedBroker()


def free_port() -> int:
    """Return a TCP port of the loopback address that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Mosquitto:
    """A mosquitto process on the loopback address, without access control."""

    def __init__(self, program: str, folder: Path, port: int | None = None) -> None:
        self.port = port or free_port()
        self.description = f"mosquitto on 127.0.0.1:{self.port}"
        config = folder / "mosquitto.conf"
        config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence false\n"
            "max_queued_messages 0\nset_tcp_nodelay true\n",
            encoding="utf-8",
        )
        with (folder / "mosquitto.log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 the program was looked up
                [program, "-c", str(config)],
                stdout=log,
                stderr=log,
                start_new_session=True,  # so that Ctrl-C does not reach it
            )
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not _is_listening(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise BrokerMissing(
                    f"{program} did not start on port {self.port}; try "
                    f"`mosquitto -v -c {config}`"
                )
            time.sleep(0.01)

    def kill(self) -> None:
        """Kill it at once, as a power cut would."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Stop it."""
        self._process.terminate()
        self._process.wait()


def _is_listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0
