"""The real programs at a real broker, every message held against the contract."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from edge.cli.command import command_command
from edge.contract.asyncapi import CHANNELS
from edge.errors import HemascopeError
from edge.mqtt import Link, Message, topic
from edge.remote.client import NoAnswer, new_request, send_request
from edge.schema.codec import encode, write_toml
from edge.schema.requests import CommandName, Request, Response
from edge.settings.delivery import BrokerSettings, CommandSettings
from edge.settings.files import ArchiveFile, ArchiveSettings, DeviceFile
from edge.settings.run import AlarmSettings, LedgerSettings, RunSettings
from edge.settings.sources import SimulatedSettings
from tests.contract import broken, channel_of

DEVICE = "scope-01"


class Listener:
    """Keeps all that goes over the broker."""

    def __init__(self, address: BrokerSettings) -> None:
        self.heard: list[Message] = []
        self._done = threading.Event()
        self._link = Link(address, "listener", ["cells/#"])
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while not self._done.is_set():
            self.heard += [e for e in self._link.poll(0.05) if isinstance(e, Message)]

    def close(self) -> None:
        self._done.set()
        self._thread.join()
        self._link.close()


class Laboratory:
    """A device that sees a simulated slide, an archive, and a listener."""

    def __init__(self, folder: Path, address: BrokerSettings) -> None:
        self.folder, self.address = folder, address
        write_toml(
            folder / "device.toml",
            DeviceFile(
                device=DEVICE,
                source=SimulatedSettings(width_px=480, height_px=360, rate_hz=8),
                ledger=LedgerSettings(folder / "ledger"),
                run=RunSettings(workers=1, preview_hz=2.0),
                commands=CommandSettings(
                    allow=("start", "stop", "note", "snapshot"), keep_snapshots=1
                ),
                alarms=AlarmSettings(disk_share=(0.0, 1.0)),  # some disk is used
                broker=address,
            ),
        )
        write_toml(
            folder / "archive.toml",
            ArchiveFile(archive=ArchiveSettings(folder / "a.sqlite"), broker=address),
        )
        self.listener = Listener(address)
        self.running = [self._start("archive", "archive"), self._start("run", "device")]
        until((folder / "ledger" / "metrics.json").exists)
        self.running.append(self._start("publish", "device"))
        until(lambda: self.count("metrics") > 0)

    def _start(self, name: str, config: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                [
                    *(sys.executable, "-m", "edge", name),
                    *("--config", str(self.folder / f"{config}.toml")),
                ],
                stdout=log,
                stderr=log,
            )

    def count(self, key: str) -> int:
        return sum(channel_of(message) == key for message in list(self.listener.heard))

    def ask(self, name: CommandName, **result: str | None) -> list[Response]:
        request = new_request(name, "anna", **result)
        return list(send_request(self.address, DEVICE, name, request, timeout_s=15))

    def has_answered(self, request: Request) -> bool:
        return any(
            channel_of(message) == "response"
            and message.correlation == request.id.encode()
            for message in list(self.listener.heard)
        )

    def end(self) -> None:
        for process in reversed(self.running):
            process.terminate()
            process.wait()
        time.sleep(0.2)  # the last states are heard too
        self.listener.close()


def _retain(laboratory: Laboratory, request: Request) -> None:
    """Have a request kept, by a broker that passes it on live as well."""
    link = Link(laboratory.address, "enemy", [])
    link.publish(topic(DEVICE, "cmd/req/stop"), encode(request), is_retained=True)
    link.poll(0.2)
    link.close()


def until(holds: object, within_s: float = 30.0) -> None:
    deadline = time.monotonic() + within_s
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.02)


@pytest.fixture
def laboratory(tmp_path: Path, address: BrokerSettings) -> Iterator[Laboratory]:
    built = Laboratory(tmp_path, address)
    yield built
    built.end()


def test_all_that_is_said_fits_the_contract(laboratory: Laboratory) -> None:
    assert [a.outcome for a in laboratory.ask("snapshot")] == ["accepted", "done"]
    assert [a.outcome for a in laboratory.ask("stop")] == ["done"]
    (started,) = laboratory.ask("start", slide="S26-2")
    assert "is started" in started.text
    (refused,) = laboratory.ask("self-test")
    assert refused.outcome == "refused"
    assert "not allowed" in refused.text

    where = ["--device", DEVICE, "--port", str(laboratory.address.port)]
    noted = CliRunner().invoke(
        command_command,
        ["note", "--text", "oil changed", "--by", "anna", *where],
    )
    assert noted.exit_code == 0, noted.output
    assert "done: noted" in noted.output
    with pytest.raises(HemascopeError, match="refused") as error:
        CliRunner().invoke(
            command_command,
            ["self-test", *where],
            catch_exceptions=False,
        )
    assert error.value.exit_code == 1
    retained = new_request("stop", "enemy")
    _retain(laboratory, retained)
    until(lambda: laboratory.has_answered(retained))
    until(lambda: laboratory.count("preview") > 0)
    until(lambda: laboratory.count("metrics") > 2)
    heard = list(laboratory.listener.heard)

    (kept,) = [m for m in heard if channel_of(m) == "request" and m.is_retained]
    assert "retain" in (broken(kept) or "")
    heard.remove(kept)
    wrong = [b for b in map(broken, heard) if b is not None]
    assert wrong == []
    seen = Counter(map(channel_of, heard))
    assert set(seen) == {channel.key for channel in CHANNELS}
    answers = [m for m in heard if channel_of(m) == "response"]
    for message in answers:
        answer = msgspec.json.decode(message.payload, type=Response)
        assert message.correlation == answer.id.encode()
        if answer.id == retained.id:
            assert (answer.outcome, answer.text[:8]) == ("refused", "retained")
    # A control: what breaks the contract is seen.
    result = next(m for m in heard if channel_of(m) == "result")
    assert broken(Message(result.topic, b'{"v":1}', False)) is not None
    assert broken(Message(result.topic, result.payload, True)) is not None
    assert broken(Message(result.topic, result.payload, False, qos=0)) is not None
    assert broken(Message("cells/v1/x/other", b"{}", False)) is not None


def test_nobody_listens_is_said_at_once(address: BrokerSettings) -> None:
    request = new_request("stop", "anna")

    with pytest.raises(NoAnswer, match="does not listen") as error:
        list(send_request(address, "scope-77", "stop", request, timeout_s=5))
    assert error.value.exit_code == 75
