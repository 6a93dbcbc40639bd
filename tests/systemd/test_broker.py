"""The broker's configuration that we ship, on a real mosquitto with TLS."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from edge.mqtt import MAX_PAYLOAD_BYTES, BrokerRefused, Link
from edge.settings.delivery import BrokerSettings
from tests.conftest import receive
from tests.systemd.access import (
    VICTIMS,
    Measurement,
    declared,
    table,
    takeovers,
)
from tests.systemd.broker import SHIPPED, Client, ShippedBroker

SECURITY = Path(__file__).parents[2] / "docs" / "security.md"


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShippedBroker]:
    started = ShippedBroker(tmp_path_factory.mktemp("broker"))
    yield started
    started.close()


def test_the_table_in_the_docs_is_the_declared_one() -> None:
    assert table(declared()) in SECURITY.read_text()


def test_every_role_may_do_what_is_declared_and_nothing_else(
    shipped: ShippedBroker,
) -> None:
    assert Measurement(shipped, "tls").rights() == declared()


@pytest.mark.parametrize("listener", ["wss", "certificate"])
def test_a_browser_and_a_certificate_have_the_same_rights(
    shipped: ShippedBroker, listener: str
) -> None:
    measured = Measurement(shipped, listener, is_brief=True).rights()

    wanted = {k: v.replace("RW", "") for k, v in declared().items()}
    assert measured == wanted


@pytest.mark.parametrize(
    ("listener", "victims"), [("tls", VICTIMS), ("wss", ("scope-01",))]
)
def test_nobody_is_thrown_out_by_who_takes_its_client_id(
    shipped: ShippedBroker, listener: str, victims: tuple[str, ...]
) -> None:
    assert takeovers(shipped, listener, victims) == []


def test_without_names_as_client_ids_devices_would_be_thrown_out(
    tmp_path: Path,
) -> None:
    control = ShippedBroker(tmp_path, without="use_username_as_clientid")

    thrown = takeovers(control, "tls")

    control.close()
    assert ("dashboard", "scope-01") in thrown


@pytest.mark.parametrize(
    ("name", "password"),
    [(None, None), ("scope-01", "wrong"), ("scope-01", ""), ("scope-99", "x")],
)
@pytest.mark.parametrize("listener", ["tls", "wss"])
def test_nobody_comes_in_without_name_and_password(
    shipped: ShippedBroker, listener: str, name: str | None, password: str | None
) -> None:
    client = Client(shipped, name, listener=listener, password=password)

    assert client.reason in (-1, 0x86, 0x87)
    assert not client.is_alive()


def test_a_password_does_not_stand_in_for_a_certificate(
    shipped: ShippedBroker,
) -> None:
    assert not Client(shipped, "operator", listener="certificate").is_alive()


def test_the_broker_is_deaf_without_tls(shipped: ShippedBroker) -> None:
    with socket.create_connection(("127.0.0.1", shipped.ports["tls"])) as plain:
        plain.settimeout(5)
        plain.sendall(b"\x10\x10\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x00\x00\x00\x00")
        try:
            answer = plain.recv(64)
        except ConnectionResetError:
            answer = b""

    assert not answer.startswith(b"\x20")  # a CONNACK


def test_tls_of_2006_is_not_spoken(shipped: ShippedBroker) -> None:
    where = f"127.0.0.1:{shipped.ports['tls']}"
    command = ["openssl", "s_client", "-connect", where, "-cipher", "ALL:@SECLEVEL=0"]
    old, new = (
        subprocess.run([*command, version], input=b"", capture_output=True, check=False)
        for version in ("-tls1_1", "-tls1_2")
    )

    assert b"alert protocol version" in old.stderr  # said by the broker
    assert new.returncode == 0


@pytest.fixture
def device(shipped: ShippedBroker, tmp_path: Path) -> BrokerSettings:
    (tmp_path / "password").write_text("the password of scope-01\n")
    return BrokerSettings(
        port=shipped.ports["tls"],
        ca=shipped.folder / "ca.pem",
        username="scope-01",
        password_file=tmp_path / "password",
    )


def test_our_own_connection_works_and_small_messages_go_at_once(
    shipped: ShippedBroker, device: BrokerSettings
) -> None:
    link = Link(device, "scope-01", ["cells/v1/archive/state"])
    archive = Client(shipped, "archive")
    archive.publish([("cells/v1/archive/state", "online")])
    archive.close()

    (message,) = receive(link, 1)
    assert message.payload == b"online"
    link.close()


def test_the_largest_message_passes_and_a_larger_one_does_not(
    shipped: ShippedBroker, device: BrokerSettings
) -> None:
    link = Link(device, "scope-01", [])
    link.publish("cells/v1/scope-01/preview", b"x" * MAX_PAYLOAD_BYTES, qos=0)
    link.publish("cells/v1/scope-01/result", b"x" * MAX_PAYLOAD_BYTES)
    link.close()
    dashboard = Client(shipped, "dashboard")
    dashboard.subscribe(["cells/v1/+/preview"])
    flood = Client(shipped, "scope-01")

    flood.publish([("cells/v1/scope-01/preview", "y" * 300_000)])
    dashboard.listen()

    assert not flood.is_answered()
    assert [text[:1] for _, text, _ in dashboard.heard] == []
    dashboard.close()


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # paho leaves it
def test_a_broker_with_another_authority_is_not_believed(
    device: BrokerSettings, tmp_path: Path
) -> None:
    make = [SHIPPED / "make-certificates.sh", tmp_path / "other", "broker", "x"]
    subprocess.run(make, check=True)
    other = msgspec.structs.replace(device, ca=tmp_path / "other" / "ca.pem")

    with pytest.raises(BrokerRefused, match="TLS"):
        Link(other, "scope-01", [])


@pytest.mark.parametrize("name", ["ca", "broker", "../x", "A", ""])
def test_a_certificate_never_replaces_another_ones_key(
    tmp_path: Path, name: str
) -> None:
    make = [SHIPPED / "make-certificates.sh", tmp_path, "client", name]

    done = subprocess.run(make, capture_output=True, text=True, check=False)

    assert done.returncode == 64
    assert "a client is named by" in done.stderr
