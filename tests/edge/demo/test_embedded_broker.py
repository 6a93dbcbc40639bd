"""The broker of demonstrations does what the programs need of a broker."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edge.demo.broker import BrokerMissing, start_broker
from edge.mqtt import Link, Published, Will
from edge.settings.delivery import BrokerSettings
from tests.conftest import receive

if TYPE_CHECKING:
    from edge.demo.embedded_broker import EmbeddedBroker

pytest.importorskip("mqtt5")


@pytest.fixture
def embedded() -> Iterator[EmbeddedBroker]:
    from edge.demo.embedded_broker import EmbeddedBroker

    broker = EmbeddedBroker()
    yield broker
    broker.close()


@pytest.fixture
def address(embedded: EmbeddedBroker) -> BrokerSettings:
    return BrokerSettings(port=embedded.port, keepalive_s=2)


def test_messages_reach_those_who_want_them_in_order(address: BrokerSettings) -> None:
    listener = Link(address, "listener", ["a/+/c", "x/#"])
    speaker = Link(address, "speaker", [])
    speaker.publish("x/y/z", b"yes", qos=0, properties=(("seq", "1"),))
    speaker.publish("a/b/d", b"no")
    for number in range(150):
        speaker.publish(f"a/{number}/c", str(number).encode())
    speaker.poll(0.1)

    first, *others = receive(listener, 151)

    assert (first.payload, first.properties) == (b"yes", (("seq", "1"),))
    assert [m.payload for m in others] == [str(n).encode() for n in range(150)]


def test_who_subscribes_again_gets_retained_messages_once(
    address: BrokerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.mqtt._RENEW_PERIOD_S", 0.1)
    speaker = Link(address, "speaker", [])
    speaker.publish("a/state", b"kept", is_retained=True)
    speaker.poll(0.1)
    listener = Link(address, "listener", ["a/state"])

    found = receive(listener, 9, within_s=0.6)

    assert [m.payload for m in found] == [b"kept"]


def test_retained_messages_reach_those_who_come_later(address: BrokerSettings) -> None:
    speaker = Link(address, "speaker", [])
    speaker.publish("a/state", b"old", is_retained=True)
    speaker.publish("a/state", b"new", is_retained=True)
    speaker.publish("b/state", b"gone", is_retained=True)
    speaker.publish("b/state", b"", is_retained=True)
    speaker.close()

    messages = receive(Link(address, "late", ["+/state"]), 2, within_s=1.0)

    assert [(m.topic, m.payload, m.is_retained) for m in messages] == [
        ("a/state", b"new", True)
    ]


def test_the_will_speaks_for_those_who_vanish(address: BrokerSettings) -> None:
    listener = Link(address, "listener", ["+/state"])
    Link(address, "polite", [], Will("p/state", b"gone")).close()
    vanishing = Link(address, "sudden", [], Will("s/state", b"gone"))
    vanishing._client.socket().close()

    assert [m.topic for m in receive(listener, 1)] == ["s/state"]
    later = receive(Link(address, "late", ["+/state"]), 1)
    assert [m.is_retained for m in later] == [True]


def test_it_says_when_nobody_listens(address: BrokerSettings) -> None:
    link = Link(address, "speaker", [])
    number = link.publish("a/b", b"x")

    deadline, events = time.monotonic() + 5, []
    while not events and time.monotonic() < deadline:
        events += link.poll(0.05)
    assert events == [Published(number, 0x10)]


@pytest.mark.parametrize(
    "data", [b"\xff" * 100, b"GET / HTTP/1.1\r\n\r\n", b"\x10\x05abc"]
)
def test_nonsense_ends_only_the_connection_it_came_from(
    address: BrokerSettings, data: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", address.port)) as rude:
        rude.sendall(data)
        time.sleep(0.1)

    listener = Link(address, "listener", ["a/b"])
    listener.publish("a/b", b"x")
    assert len(receive(listener, 1)) == 1


def test_without_mosquitto_the_embedded_broker_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.demo.broker.shutil.which", lambda *_, **__: None)

    broker = start_broker(tmp_path)

    assert "demonstration only" in broker.description
    broker.close()


def test_without_any_broker_the_remedy_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.demo.broker.shutil.which", lambda *_, **__: None)
    monkeypatch.setitem(sys.modules, "edge.demo.embedded_broker", None)

    with pytest.raises(BrokerMissing, match="apt install mosquitto"):
        start_broker(tmp_path)


def test_what_belongs_to_a_message_goes_with_it(address: BrokerSettings) -> None:
    listener = Link(address, "listener", ["a/#"])
    speaker = Link(address, "speaker", [])
    speaker.publish("a/b", b"1", is_retained=True, correlation=b"one")

    (message,) = receive(listener, 1)
    assert (message.is_retained, message.correlation) == (True, b"one")
