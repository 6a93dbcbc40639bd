"""Serve over a connection to the broker, and connect again whenever it breaks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from threading import Event

from edge.backoff import Backoff
from edge.errors import HemascopeError
from edge.mqtt import BrokerRefused, BrokerUnreachable, Link, NameTaken

log = logging.getLogger(__name__)

# A broker that is away may be back at any moment, and the first result is wanted soon.
_AWAY_PAUSE_S = 2.0
# A refusal lasts until a person changes a setting; asking more often helps nobody.
_REFUSED_PAUSE_S = 60.0
# So many connections in a row that broke so soon: another program has our name. Our
# connection throws it out; it comes back after a second or two and throws us out.
SHORT_S, _SHORT_CONNECTIONS = 5.0, 3


def keep_serving(
    connect: Callable[[], Link],
    serve: Callable[[Link, Event], None],
    stop: Event,
    on_wait: Callable[[HemascopeError], None] = lambda error: None,
) -> None:
    """Connect and serve until `stop`; connect again whenever the connection breaks.

    `on_wait` is called with the error, every second before the next try.

    Raises
    ------
    ConfigurationInvalid
        A certificate or password file cannot be read.
    """
    backoff, short = Backoff(max_s=_AWAY_PAUSE_S), ShortConnections()
    while not stop.is_set():
        error: HemascopeError
        try:
            link = connect()
            backoff.reset()
            short.note_connected()
            serve(link, stop)
            continue
        except BrokerUnreachable as broken:
            error, wait_s = short.explain(broken), backoff.next_s()
            log.warning("%s; next try in %.1f s", error, wait_s)
        except BrokerRefused as refusal:
            error, wait_s = refusal, _REFUSED_PAUSE_S
            log.error("%s; next try in %.0f s", error, wait_s)
        _wait(stop, wait_s, partial(on_wait, error))


class ShortConnections:
    """Recognises another program of our name by connections that break soon.

    MQTT 5 has a reason for it, "Session taken over", but mosquitto 2.0.11 closes the
    connection without a word. Where the broker was away between, it was the broker, and
    nothing is suspected.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._connected_s: float | None = None  # the present connection
        self._count = 0

    def note_connected(self) -> None:
        """Note that a connection is up."""
        self._connected_s = self._monotonic()

    def explain(self, broken: BrokerUnreachable) -> BrokerUnreachable:
        """Return the error to report for a connection that broke or did not come up."""
        connected_s, self._connected_s = self._connected_s, None
        if connected_s is None or self._monotonic() - connected_s > SHORT_S:
            self._count = 0
            return broken
        self._count += 1
        if self._count < _SHORT_CONNECTIONS or isinstance(broken, NameTaken):
            return broken
        return NameTaken(
            f"another program came with our name, or something on the way cuts "
            f"connections: {self._count} in a row broke within {SHORT_S:.0f} s; give "
            f"each program a name of its own ({broken})"
        )


def _wait(stop: Event, wait_s: float, on_second: Callable[[], None]) -> None:
    """Wait for `stop`, at most `wait_s`; call `on_second` at once and every second."""
    deadline_s = time.monotonic() + wait_s
    while (left_s := deadline_s - time.monotonic()) > 0:
        on_second()
        if stop.wait(min(left_s, 1.0)):
            return
