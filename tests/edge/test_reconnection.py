"""Connect again soon, and say when another program has our name."""

from __future__ import annotations

import threading
import time
from itertools import pairwise
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from edge.demo.broker import free_port
from edge.errors import HemascopeError
from edge.mqtt import BrokerUnreachable, Link, NameTaken
from edge.reconnection import ShortConnections, keep_serving
from edge.settings.delivery import BrokerSettings
from tests.asking import Clock
from tests.systemd.broker import PASSWORDS, ShippedBroker

LOST = BrokerUnreachable("connection lost")


def test_serving_goes_on_with_a_new_connection_after_a_broken_one() -> None:
    stop = threading.Event()
    served: list[int] = []

    def serve(link: Link, stop: threading.Event) -> None:
        served.append(len(served))
        if len(served) == 2:
            stop.set()
            return
        raise BrokerUnreachable("gone")

    keep_serving(lambda: None, serve, stop)  # type: ignore[arg-type,return-value]

    assert served == [0, 1]


def test_three_short_connections_in_a_row_are_another_program_of_our_name() -> None:
    clock = Clock()
    short = ShortConnections(clock.monotonic)
    errors = []
    for _ in range(3):
        short.note_connected()
        clock.move(1)
        errors.append(short.explain(LOST))
        clock.move(1)

    assert errors[:2] == [LOST, LOST]
    assert isinstance(errors[2], NameTaken)
    assert "another program came with our name" in str(errors[2])


@pytest.mark.parametrize(("lasted_s", "is_broker_away"), [(6, False), (1, True)])
def test_a_network_or_a_broker_that_breaks_now_and_then_is_no_other_program(
    lasted_s: float, is_broker_away: bool
) -> None:
    clock = Clock()
    short = ShortConnections(clock.monotonic)
    for _ in range(10):
        short.note_connected()
        clock.move(lasted_s)
        assert short.explain(LOST) is LOST
        if is_broker_away:
            assert short.explain(LOST) is LOST


def test_a_broker_that_was_away_for_long_is_asked_again_within_two_seconds() -> None:
    address = BrokerSettings(port=free_port())
    stop, tries_s = threading.Event(), [time.monotonic()]

    def connect() -> Link:
        tries_s.append(time.monotonic())
        if len(tries_s) == 6:
            stop.set()
        return Link(address, "scope-01", [])

    keep_serving(connect, lambda link, stop: None, stop)

    waits_s = [after - before for before, after in pairwise(tries_s)]
    assert max(waits_s) < 2.2


@pytest.mark.parametrize("transport", ["tcp", "websockets"])
def test_another_program_of_our_name_is_named_at_the_broker_that_we_ship(
    tmp_path: Path, transport: str
) -> None:
    """Over TLS; the other one comes over TLS or WebSocket as soon as it is out."""
    broker = ShippedBroker(tmp_path)
    (tmp_path / "password").write_text(PASSWORDS["scope-01"])
    settings = BrokerSettings(
        host="localhost",
        port=broker.ports["tls"],
        ca=tmp_path / "ca.pem",
        username="scope-01",
        password_file=tmp_path / "password",
    )
    other = paho.Client(
        CallbackAPIVersion.VERSION2,
        protocol=paho.MQTTv5,
        transport=transport,  # type: ignore[arg-type]
    )
    other.tls_set(str(tmp_path / "ca.pem"))
    other.username_pw_set("scope-01", PASSWORDS["scope-01"])
    port = broker.ports["tls" if transport == "tcp" else "wss"]
    stop, errors = threading.Event(), list[HemascopeError]()

    def serve(link: Link, stop: threading.Event) -> None:
        other.connect("localhost", port)
        for _ in range(100):
            other.loop(0.02)
            link.poll(0.02)

    def note(error: HemascopeError) -> None:
        errors.append(error)
        if isinstance(error, NameTaken):
            stop.set()

    keep_serving(lambda: Link(settings, "scope-01", []), serve, stop, note)
    broker.close()

    assert "another program came with our name" in str(errors[-1])
    assert len(errors) <= 3  # a newer broker names it at the first
