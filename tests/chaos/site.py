"""The programs under test: writer, publisher, archive, broker, and two proxies."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path

from edge.demo.broker import Mosquitto, start_broker
from edge.ledger.reader import LedgerReader
from edge.ledger.writer import Ledger
from edge.schema.codec import write_toml
from edge.settings.delivery import BrokerSettings, PublishSettings
from edge.settings.files import ArchiveFile, ArchiveSettings, DeviceFile
from edge.settings.run import LedgerSettings
from edge.settings.sources import SimulatedSettings
from tests.chaos.proxy import Proxy
from tests.chaos.writer import DEVICE, LEDGER, WITNESS

KEEPALIVE_S = 2
_CONTROL = [sys.executable, "-m", "tests.chaos.controls"]


class Site:
    """Device and laboratory on one machine, each behind a proxy of its own."""

    def __init__(
        self, folder: Path, rate_hz: float, seed: int, control: str | None = None
    ) -> None:
        self.folder, self.rate_hz, self.control = folder, rate_hz, control
        broker = start_broker(folder)
        assert isinstance(broker, Mosquitto), "mosquitto is not installed"
        self.broker = broker
        self.device_link = Proxy(broker.port, seed)
        self.archive_link = Proxy(broker.port, seed + 1)
        ledger = Ledger(folder / LEDGER, DEVICE)
        self.epoch = ledger.epoch
        ledger.close()
        self._write_settings()
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.kills: Counter[str] = Counter()
        self.ended_alone: list[str] = []
        for name in ("archive", "publish", "writer"):
            self.start(name)

    @property
    def archive_file(self) -> Path:
        return self.folder / "a.sqlite"

    @property
    def witness_file(self) -> Path:
        return self.folder / WITNESS

    def _write_settings(self) -> None:
        def through(link: Proxy) -> BrokerSettings:
            return BrokerSettings(port=link.port, keepalive_s=KEEPALIVE_S)

        device = DeviceFile(
            device=DEVICE,
            source=SimulatedSettings(),
            ledger=LedgerSettings(self.folder / LEDGER),
            broker=through(self.device_link),
            publish=PublishSettings(ack_timeout_s=2.0),
        )
        archive = ArchiveFile(
            archive=ArchiveSettings(self.archive_file),
            broker=through(self.archive_link),
        )
        write_toml(self.folder / "device.toml", device)
        write_toml(self.folder / "archive.toml", archive)

    def command(self, name: str) -> list[str]:
        """Return the command of a program; a control replaces one of them."""
        if name == "writer":
            module = [sys.executable, "-m", "tests.chaos.writer"]
            return [*module, str(self.folder), str(self.rate_hz)]
        is_replaced = (name, self.control) in (
            ("archive", "acknowledge-first"),
            ("publish", "cursor-ahead"),
        )
        config = {"publish": "device.toml", "archive": "archive.toml"}[name]
        program = _CONTROL if is_replaced else [sys.executable, "-m", "edge"]
        return [*program, name, "--config", str(self.folder / config)]

    def start(self, name: str) -> None:
        """Start a program; its output goes to a log of its own."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                self.command(name), stdout=log, stderr=log
            )

    def kill(self, name: str) -> None:
        """SIGKILL."""
        self.kills[name] += 1
        self.running[name].kill()
        self.running[name].wait()

    def end(self, name: str) -> None:
        """SIGTERM, and wait for the program's own end."""
        self.running[name].terminate()
        try:
            self.running[name].wait(20)
        except subprocess.TimeoutExpired:
            self.kill(name)

    def send(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a program or to the broker."""
        process = self.broker._process if name == "broker" else self.running[name]
        process.send_signal(number)

    def restart_broker(self) -> None:
        """Start the broker again; it remembers nothing."""
        program = str(self.broker._process.args[0])  # type: ignore[index]
        self.broker = Mosquitto(program, self.folder, self.broker.port)

    def tend(self) -> None:
        """Start again what ended by itself, as systemd would; remember that it did."""
        for name, process in list(self.running.items()):
            if process.poll() is not None:
                self.ended_alone.append(f"{name} with {process.returncode}")
                self.start(name)

    def newest_archived(self) -> int:
        """Return the number of the newest row in the archive."""
        found = None
        with suppress(sqlite3.Error):
            address = f"file:{self.archive_file}?mode=ro"
            with closing(sqlite3.connect(address, uri=True, timeout=5)) as db:
                found = db.execute(
                    "SELECT max(seq) FROM rows WHERE device = ? AND epoch = ?",
                    (DEVICE, self.epoch),
                ).fetchone()[0]
        return int(found or 0)

    def await_row_after(self, seq: int, within_s: float) -> float | None:
        """Wait for a row after `seq`; return how long it took, None if none came."""
        begin_s = time.monotonic()
        while self.newest_archived() <= seq:
            if time.monotonic() - begin_s > within_s:
                return None
            time.sleep(0.02)
        return time.monotonic() - begin_s

    def drain(self, within_s: float) -> None:
        """End the writer, and wait until its last row is archived."""
        self.end("writer")
        reader = LedgerReader(self.folder / LEDGER)
        _, newest = reader.span()
        reader.close()
        self.await_row_after(newest - 1, within_s)

    def close(self) -> None:
        """End everything."""
        for name, process in self.running.items():
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    process.send_signal(signal.SIGCONT)
                self.end(name)
        self.device_link.close()
        self.archive_link.close()
        self.send("broker", signal.SIGCONT)
        self.broker.close()


def pause(seconds: float) -> None:
    """Let a fault last."""
    threading.Event().wait(seconds)
