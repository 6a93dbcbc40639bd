"""A real mosquitto with the configuration we ship, and clients that try things."""

from __future__ import annotations

import shutil
import signal
import ssl
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edge.demo.broker import free_port

SHIPPED = Path(__file__).parents[2] / "systemd" / "mosquitto"
PASSWORDS = {
    name: f"the password of {name}"
    for name in (
        "scope-01",
        "scope-02",
        "archive",
        "dashboard",
        "operator",
        "observer",
    )
}
_ANSWER_S = 5.0


class ShippedBroker:
    """Our files with other paths and ports. Its log is in `folder`."""

    def __init__(self, folder: Path, without: str = "") -> None:
        """Start it; lines that contain `without` are left out, for a control."""
        self.folder = folder
        self.ports = {"tls": free_port(), "wss": free_port(), "certificate": 0}
        while self.ports["certificate"] in (0, *list(self.ports.values())[:2]):
            self.ports["certificate"] = free_port()
        self._make_certificates()
        self._write_acl()
        self._write_passwords()
        text = "persistence true\n" + f"persistence_location {folder}/\n"
        for name in ("hemascope.conf", "certificates.conf"):
            text += (SHIPPED / name).read_text()
        text = text.replace("/etc/mosquitto/certs/", f"{folder}/")
        text = text.replace("/etc/mosquitto/", f"{folder}/")
        for number, port in zip((8883, 8884, 8885), self.ports.values(), strict=True):
            text = text.replace(f"listener {number}", f"listener {port} 127.0.0.1")
        lines = [x for x in text.splitlines() if not without or without not in x]
        (folder / "mosquitto.conf").write_text("user root\n" + "\n".join(lines))
        self._start()

    def _start(self) -> None:
        program = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin")
        assert program, "mosquitto is not installed: run make setup"
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [program, "-c", self.folder / "mosquitto.conf"], stdout=log, stderr=log
            )
        deadline_s = time.monotonic() + _ANSWER_S
        while "running" not in (output := (self.folder / "log").read_text()):
            assert self._process.poll() is None, output
            assert time.monotonic() < deadline_s, output
            time.sleep(0.02)

    def restart(self) -> None:
        """As `systemctl restart mosquitto`."""
        self.close()
        self._start()

    def reload(self) -> None:
        """As `systemctl reload mosquitto`."""
        self._process.send_signal(signal.SIGHUP)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()

    def _make_certificates(self) -> None:
        for arguments in (
            ["broker", "localhost", "127.0.0.1"],
            ["client", "scope-01"],
            ["client", "scope-02"],
        ):
            subprocess.run(
                [SHIPPED / "make-certificates.sh", self.folder, *arguments], check=True
            )

    def _write_acl(self) -> None:
        """Add a person as the file says: a block of its own."""
        acl = (SHIPPED / "hemascope.acl").read_text()
        block = acl[acl.index("user operator") :].split("\n\n")[0]
        own = block.replace("user operator", "user observer")
        own = own.replace("cells/v1/operator/", "cells/v1/observer/")
        (self.folder / "hemascope.acl").write_text(f"{acl}\n{own}\n")

    def _write_passwords(self) -> None:
        path = self.folder / "hemascope.passwd"
        path.write_text("".join(f"{n}:{p}\n" for n, p in PASSWORDS.items()))
        subprocess.run(["mosquitto_passwd", "-U", path], check=True)


class Client:
    """One MQTT 5 connection, moved by hand."""

    def __init__(
        self,
        broker: ShippedBroker,
        name: str | None,
        *,
        listener: str = "tls",
        password: str | None = None,
        client_id: str = "",
        will: tuple[str, str] | None = None,
    ) -> None:
        """Connect as user `name`; `reason` tells how it went, -1 if it broke."""
        self.name, self.reason = name or "", -1
        self.heard: list[tuple[str, str, bool]] = []
        self.answers: dict[int, int] = {}
        self._granted = False
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=paho.MQTTv5,
            transport="websockets" if listener == "wss" else "tcp",
        )
        certificate = broker.folder / f"{name}.pem"
        has_certificate = listener == "certificate" and certificate.exists()
        self._client.tls_set(
            str(broker.folder / "ca.pem"),
            str(certificate) if has_certificate else None,
            str(certificate.with_suffix(".key")) if has_certificate else None,
        )
        if name is not None and not has_certificate:
            secret = PASSWORDS.get(name, "") if password is None else password
            self._client.username_pw_set(name, secret)
        if will is not None:
            self._client.will_set(*will, qos=1)
        self._client.on_connect = self._on_connect
        self._client.on_message = self._on_message
        self._client.on_publish = self._on_publish
        self._client.on_subscribe = self._on_subscribe
        try:
            self._client.connect("127.0.0.1", broker.ports[listener], 60)
        except (ssl.SSLError, ConnectionError):
            return
        self._until(lambda: self.reason >= 0)
        if self.reason != 0:
            self.vanish()

    def subscribe(self, topics: Iterable[str]) -> None:
        self._granted = False
        wanted = [(name, SubscribeOptions(qos=1)) for name in topics]
        if self.is_alive() and self._client.subscribe(wanted)[0] == 0:
            self._until(lambda: self._granted)

    def publish(
        self, messages: Iterable[tuple[str, str]], *, is_retained: bool = False
    ) -> list[int]:
        """The broker's reason code for each message; -1 where none came."""
        if not self.is_alive():
            return [-1 for _ in messages]
        sent = [
            self._client.publish(name, payload, 1, is_retained).mid
            for name, payload in messages
        ]
        self._until(lambda: all(mid in self.answers for mid in sent))
        return [self.answers.get(mid, -1) for mid in sent]

    def listen(self) -> None:
        """Take all that the broker has for us: two answers with nothing before them.

        It hands on what others publish before it answers them, and answers in order.
        """
        quiet, before = 0, -1
        while quiet < 2 and self.is_answered():
            quiet = quiet + 1 if len(self.heard) == before else 0
            before = len(self.heard)

    def is_alive(self) -> bool:
        return self.reason == 0 and self._client.socket() is not None

    def is_answered(self) -> bool:
        """Whether the broker still talks with us."""
        return self.publish([("nowhere", "are you there?")]) != [-1]

    def vanish(self) -> None:
        """Be gone without a goodbye, as when the cable is pulled."""
        self._client._reset_sockets()

    def close(self) -> None:
        self._client.disconnect()
        self.vanish()

    def _until(self, is_done: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + _ANSWER_S
        while not is_done() and time.monotonic() < deadline_s:
            if self._client.loop(0.02) is not MQTTErrorCode.MQTT_ERR_SUCCESS:
                return

    def _on_connect(self, _c: Any, _d: Any, _f: Any, reason: Any, _p: Any) -> None:
        self.reason = reason.value

    def _on_message(self, _c: Any, _d: Any, message: paho.MQTTMessage) -> None:
        self.heard.append(
            (message.topic, message.payload.decode("latin-1"), message.retain)
        )

    def _on_publish(self, _c: Any, _d: Any, mid: int, reason: Any, _p: Any) -> None:
        self.answers[mid] = reason.value

    def _on_subscribe(self, _c: Any, _d: Any, _m: int, _r: Any, _p: Any) -> None:
        self._granted = True
