from __future__ import annotations

import socket
import subprocess
import threading
import time
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from edge.demo.broker import Mosquitto, free_port
from edge.errors import ConfigurationInvalid
from edge.mqtt import (
    MAX_PAYLOAD_BYTES,
    BrokerRefused,
    BrokerUnreachable,
    Link,
    Message,
    PayloadRefused,
    Published,
    Will,
    split_topic,
    topic,
)
from edge.settings.delivery import BrokerSettings
from tests.chaos.proxy import Proxy
from tests.conftest import receive


def test_a_topic_that_was_altered_on_the_way_ends_no_process() -> None:
    assert split_topic("cells/v1/scope-01.ack") == ("", "cells/v1/scope-01.ack")


def test_a_message_arrives_as_it_was_sent(address: BrokerSettings) -> None:
    listener = Link(address, "listener", ["cells/v1/+/result"])
    speaker = Link(address, "speaker", [])

    speaker.publish(
        topic("scope-01", "result"), b"\x00\xff", properties=(("seq", "7"),)
    )

    (message,) = receive(listener, 1)
    assert message.payload == b"\x00\xff"
    assert split_topic(message.topic) == ("scope-01", "result")
    assert message.properties == (("seq", "7"),)
    assert not message.is_retained


class AlteringOnce(Proxy):
    """Alters one byte of the topics that are subscribed to, the first time."""

    is_done = False

    def _tamper(self, data: bytes) -> bytes:
        if self.is_done or b"+/result" not in data:
            return data
        self.is_done = True
        return data.replace(b"+/result", b"+/sesult")


def test_topics_that_were_altered_as_we_subscribed_are_heard_a_little_later(
    address: BrokerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.mqtt._RENEW_PERIOD_S", 0.3)
    speaker = Link(address, "speaker", [])
    speaker.publish(topic("a", "state"), b"kept", is_retained=True)
    speaker.publish(topic("b", "result"), b"kept", is_retained=True)
    speaker.poll(0.1)
    with closing(AlteringOnce(address.port, seed=0)) as way:
        listener = Link(
            msgspec.structs.replace(address, port=way.port),
            "listener",
            ["cells/v1/+/result", "cells/v1/+/state"],
        )
        assert [m.topic for m in receive(listener, 9, within_s=0.2)] == [
            topic("a", "state")
        ]

        late = receive(listener, 9, within_s=1.0)  # and three times renewed

        assert [m.topic for m in late] == [topic("b", "result")]
        listener.close()


def test_the_broker_says_when_nobody_listens(address: BrokerSettings) -> None:
    link = Link(address, "speaker", [])

    number = link.publish(topic("scope-01", "result"), b"x")

    deadline = time.monotonic() + 5
    events: list[Message | Published] = []
    while not events and time.monotonic() < deadline:
        events += link.poll(0.05)
    assert events == [Published(number, 0x10)]


def test_the_will_is_published_when_we_vanish_and_not_when_we_leave(
    address: BrokerSettings,
) -> None:
    listener = Link(address, "listener", ["cells/v1/+/state"])
    will = Will(topic("scope-01", "state"), b"gone")
    Link(address, "scope-01", [], will).close()
    assert receive(listener, 1, within_s=0.7) == []

    vanishing = Link(address, "scope-01", [], will)
    vanishing._client.socket().close()

    (message,) = receive(listener, 1, within_s=8)
    assert message.payload == b"gone"


def test_a_message_too_large_for_any_broker_is_not_sent(
    address: BrokerSettings,
) -> None:
    link = Link(address, "speaker", [])

    with pytest.raises(PayloadRefused, match=str(MAX_PAYLOAD_BYTES)):
        link.publish(topic("a", "result"), b"x" * (MAX_PAYLOAD_BYTES + 1))
    link.publish(topic("a", "result"), b"x" * MAX_PAYLOAD_BYTES)


def test_a_broker_that_dies_is_noticed(
    broker: Mosquitto, address: BrokerSettings
) -> None:
    link = Link(address, "scope-01", [])
    broker.kill()

    with pytest.raises(BrokerUnreachable):
        receive(link, 1)


def test_a_broker_that_is_not_there_is_said() -> None:
    with pytest.raises(BrokerUnreachable, match="is it running"):
        Link(BrokerSettings(port=free_port()), "scope-01", [])


def test_a_server_that_speaks_no_mqtt_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(BrokerUnreachable, match="MQTT 5"):
            Link(BrokerSettings(port=port), "scope-01", [])


def test_bytes_on_which_the_mqtt_library_breaks_are_a_lost_connection() -> None:
    """A PUBLISH whose topic is longer than the packet."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(b"\x30\x01\x00")
                connection.recv(1024)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(BrokerUnreachable, match="closed the connection"):
            Link(BrokerSettings(port=server.getsockname()[1]), "us", [])
        thread.join(5)


def test_a_wrong_password_is_told_from_a_broker_that_is_away(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "strict.conf").write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous false\n"
    )
    broker = subprocess.Popen(
        ["/usr/sbin/mosquitto", "-c", str(tmp_path / "strict.conf")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(0.5)
    (tmp_path / "password").write_text("wrong\n")
    settings = BrokerSettings(
        port=port, username="scope-01", password_file=tmp_path / "password"
    )

    with pytest.raises(BrokerRefused, match="password"):
        Link(settings, "scope-01", [])
    broker.terminate()
    broker.wait()


@pytest.mark.parametrize("setting", ["password_file", "ca"])
def test_a_missing_file_is_a_wrong_setting(
    address: BrokerSettings, tmp_path: Path, setting: str
) -> None:
    settings = BrokerSettings(
        port=address.port, username="x", **{setting: tmp_path / "none"}
    )

    with pytest.raises(ConfigurationInvalid, match="none"):
        Link(settings, "scope-01", [])


def test_a_name_that_no_host_can_have_is_a_wrong_setting() -> None:
    with pytest.raises(ConfigurationInvalid, match="host's name"):
        Link(BrokerSettings(host="..a"), "scope-01", [])


def test_a_certificate_that_is_none_is_a_wrong_setting(
    address: BrokerSettings, tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")

    with pytest.raises(ConfigurationInvalid, match=r"ca\.pem.*PEM"):
        Link(BrokerSettings(port=address.port, ca=tmp_path / "ca.pem"), "scope-01", [])


def test_a_message_that_is_kept_says_so_also_when_it_comes_live(
    address: BrokerSettings,
) -> None:
    listener = Link(address, "listener", ["a/#"])
    speaker = Link(address, "speaker", [])

    speaker.publish("a/b", b"1", is_retained=True, correlation=b"one", expires_s=60)
    speaker.publish("a/b", b"2", qos=0)

    kept, passing = receive(listener, 2)
    assert (kept.is_retained, kept.correlation, kept.qos) == (True, b"one", 1)
    assert (passing.is_retained, passing.correlation, passing.qos) == (False, None, 0)


def test_what_is_larger_than_any_of_ours_does_not_reach_us(
    address: BrokerSettings,
) -> None:
    listener = Link(address, "listener", ["a/#"])
    speaker = Link(address, "speaker", [])
    speaker._client.publish("a/b", b"x" * 400_000, 1)
    speaker.publish("a/b", b"small")

    (message,) = receive(listener, 1)
    assert message.payload == b"small"
