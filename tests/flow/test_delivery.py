"""Every result reaches the archive, unaltered and in order, whatever breaks between."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge.archive.store import Chain, Store
from edge.demo.broker import Mosquitto, free_port
from edge.ledger.cursor import read_cursor
from edge.ledger.reader import LedgerReader
from edge.ledger.rows import LedgerRow
from edge.ledger.writer import Ledger
from edge.mqtt import BrokerUnreachable, Link, topic
from edge.schema.codec import write_toml
from edge.settings.delivery import BrokerSettings, PublishSettings
from edge.settings.files import ArchiveFile, ArchiveSettings, DeviceFile
from edge.settings.run import LedgerSettings
from edge.settings.sources import SimulatedSettings
from tests.conftest import frame_result

DEVICE = "scope-01"
ROWS = 400
RATE_HZ = 100


class Site:
    """A ledger that grows, and the real programs that deliver it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.program = shutil.which(
            "mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin"
        )
        assert self.program, "mosquitto is not installed: run make setup"
        self.port = free_port()
        self.broker = Mosquitto(self.program, folder, self.port)
        address = BrokerSettings(port=self.port, keepalive_s=2)
        write_toml(
            folder / "device.toml",
            DeviceFile(
                device=DEVICE,
                source=SimulatedSettings(),
                ledger=LedgerSettings(folder / "ledger"),
                broker=address,
                publish=PublishSettings(ack_timeout_s=2.0),
            ),
        )
        write_toml(
            folder / "archive.toml",
            ArchiveFile(archive=ArchiveSettings(folder / "a.sqlite"), broker=address),
        )
        ledger = Ledger(folder / "ledger", DEVICE)
        self.epoch = ledger.epoch
        ledger.close()
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.writer = threading.Thread(target=self._write)

    def _write(self) -> None:
        ledger = Ledger(self.folder / "ledger", DEVICE)
        for _ in range(ROWS):
            ledger.append(frame_result())
            time.sleep(1 / RATE_HZ)
        ledger.close()

    def start(self, name: str) -> None:
        config = {"publish": "device", "archive": "archive"}[name]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "edge",
                    name,
                    "--config",
                    str(self.folder / f"{config}.toml"),
                ],
                stdout=log,
                stderr=log,
            )

    def kill(self, name: str) -> None:
        process = self.running.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def restart_broker(self) -> None:
        assert self.program
        self.broker = Mosquitto(self.program, self.folder, self.port)

    def written(self) -> list[LedgerRow]:
        reader = LedgerReader(self.folder / "ledger")
        rows = reader.rows(0, 10 * ROWS)
        reader.close()
        return rows

    def archived(self) -> list[LedgerRow]:
        store = Store(self.folder / "a.sqlite")
        rows = list(store.rows(Chain(DEVICE, self.epoch)))
        store.close()
        return rows

    def await_delivery(self, timeout_s: float = 40.0) -> None:
        self.writer.join()
        deadline = time.monotonic() + timeout_s
        while len(self.archived()) < ROWS and time.monotonic() < deadline:
            time.sleep(0.1)

    def acknowledged(self) -> int:
        cursor = read_cursor(self.folder / "ledger")
        return 0 if cursor is None else cursor.upto

    def await_rows(self, count: int, timeout_s: float = 20.0) -> None:
        deadline = time.monotonic() + timeout_s
        while len(self.archived()) < count:
            assert time.monotonic() < deadline, "nothing is archived"
            time.sleep(0.05)

    def close(self) -> None:
        if self.writer.is_alive():
            self.writer.join()
        for name in list(self.running):
            self.kill(name)
        self.broker.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    built = Site(tmp_path)
    yield built
    built.close()


def the_programs_start_again_among_hostile_messages(site: Site) -> None:
    """What an enemy left retained is the first that they read."""
    hostile_messages_arrive(site)
    for name in ("archive", "publish"):
        site.kill(name)
        site.start(name)


def nothing_happens(site: Site) -> None:
    pass


def the_broker_is_killed_and_comes_back(site: Site) -> None:
    for _ in range(2):
        time.sleep(0.6)
        site.broker.kill()
        time.sleep(0.7)
        site.restart_broker()


def the_publisher_is_killed_four_times(site: Site) -> None:
    for _ in range(4):
        time.sleep(0.7)
        site.kill("publish")
        site.start("publish")


def the_archive_is_away_for_a_while(site: Site) -> None:
    time.sleep(0.8)
    site.kill("archive")
    time.sleep(2.0)
    site.start("archive")


def the_publisher_is_killed_while_broker_and_archive_are_away(site: Site) -> None:
    time.sleep(0.8)
    site.kill("archive")
    time.sleep(0.3)
    site.broker.kill()
    time.sleep(0.5)
    site.kill("publish")
    site.restart_broker()
    site.start("publish")
    time.sleep(1.0)
    site.start("archive")


def hostile_messages_arrive(site: Site) -> None:
    """Forged, retained, oversized and malformed messages on every topic it reads."""
    site.await_rows(20)  # both programs are at work
    enemy = Link(BrokerSettings(port=site.port), "enemy", [])
    epoch = site.epoch.encode()
    forged = b'{"v":1,"epoch":"%s","upto":300,"hash":"%s","resume":false}'
    for payload in (
        b"",
        b"[]",
        b"\x00",
        b"{" * 5000,
        b"\xff" * 200_000,
        forged % (epoch, b"f" * 64),
        forged % (epoch, b"0" * 64),
        forged.replace(b"300", b"99999999") % (epoch, b"f" * 64),
        forged.replace(b"300", b"9" * 30) % (epoch, b"f" * 64),
        b'{"v":1,"device":"%s","x":' % DEVICE.encode() + b"[" * 100_000,
    ):
        for name in ("ack", "state", "result"):
            enemy.publish(topic(DEVICE, name), payload, is_retained=name != "state")
            enemy.publish(topic("archive", name), payload, is_retained=name == "ack")
        enemy.publish(topic("scope-02", "result"), payload)
        enemy.poll(0.05)
    enemy.close()


@pytest.mark.parametrize(
    "fault",
    [
        nothing_happens,
        the_broker_is_killed_and_comes_back,
        the_publisher_is_killed_four_times,
        the_archive_is_away_for_a_while,
        the_publisher_is_killed_while_broker_and_archive_are_away,
        hostile_messages_arrive,
        the_programs_start_again_among_hostile_messages,
    ],
)
def test_the_archive_holds_what_the_ledger_holds(
    site: Site, fault: Callable[[Site], None]
) -> None:
    site.start("archive")
    site.start("publish")
    site.writer.start()

    fault(site)
    site.await_delivery()

    written = site.written()
    assert len(written) == ROWS
    assert site.archived() == written  # every byte, in order, nothing twice
    for process in site.running.values():
        assert process.poll() is None


def test_a_backlog_drains_through_a_broker_whose_queue_is_short(site: Site) -> None:
    """It drops what is beyond 5 messages, and tells nobody."""
    site.broker.close()
    config = site.folder / "short.conf"
    config.write_text(
        f"listener {site.port} 127.0.0.1\nallow_anonymous true\n"
        "max_queued_messages 5\nmax_inflight_messages 3\n"
    )
    assert site.program
    short = subprocess.Popen([site.program, "-c", str(config)])
    ledger = Ledger(site.folder / "ledger", DEVICE)
    for _ in range(ROWS):
        ledger.append(frame_result())
    ledger.close()
    site.start("archive")
    site.start("publish")

    site.await_rows(ROWS, timeout_s=20)

    assert site.archived() == site.written()
    short.terminate()
    short.wait()


def test_without_ledger_and_acknowledgement_the_same_fault_loses_results(
    site: Site,
) -> None:
    """The negative control: PUBACKed by the broker, and gone."""
    site.start("archive")
    ledger = Ledger(site.folder / "ledger", DEVICE)
    acked, number = 0, 0
    link: Link | None = None
    stop_s = time.monotonic() + ROWS / RATE_HZ
    fault = threading.Thread(
        target=the_publisher_is_killed_while_broker_and_archive_are_away,
        args=(_WithoutPublisher(site),),
    )
    fault.start()
    while time.monotonic() < stop_s:
        number += 1
        row = ledger.append(frame_result())
        try:
            link = link or Link(BrokerSettings(port=site.port), DEVICE, [])
            link.publish(topic(DEVICE, "result"), row.data)
            acked += len(link.poll(1 / RATE_HZ))
        except BrokerUnreachable:
            link = None
    fault.join()
    ledger.close()
    time.sleep(1.0)

    assert acked > number / 3, "the control must work while nothing is broken"
    assert len(site.archived()) < acked, "a harness in which nothing can be lost"


class _WithoutPublisher:
    """The site as the fault sees it, where the test itself is the publisher."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def __getattr__(self, name: str) -> object:
        return getattr(self._site, name)

    def kill(self, name: str) -> None:
        if name != "publish":
            self._site.kill(name)

    def start(self, name: str) -> None:
        if name != "publish":
            self._site.start(name)

    @property
    def broker(self) -> Mosquitto:
        return self._site.broker


def test_rows_that_are_gone_for_good_do_not_stop_what_follows(site: Site) -> None:
    """The archive's file was lost after rows had been acknowledged and deleted."""
    site.start("archive")
    site.start("publish")
    site.writer.start()
    site.await_delivery()
    deadline = time.monotonic() + 10
    while site.acknowledged() < ROWS and time.monotonic() < deadline:
        time.sleep(0.1)
    site.kill("archive")
    for path in site.folder.glob("a.sqlite*"):
        path.unlink()
    ledger = Ledger(site.folder / "ledger", DEVICE)
    assert ledger.prune(keep=50) == ROWS - 50
    ledger.close()

    site.start("archive")
    site.await_rows(50)

    assert site.archived() == site.written()
    store = Store(site.folder / "a.sqlite")
    assert store.holes() == [(DEVICE, site.epoch, 1, ROWS - 50)]
    store.close()


def test_two_processes_cannot_publish_one_ledger(site: Site) -> None:
    site.start("publish")
    time.sleep(1.5)
    site.running["first"] = site.running.pop("publish")
    site.start("publish")

    assert site.running["publish"].wait(10) == 1
    assert "publishes this ledger" in (site.folder / "publish.log").read_text()
    assert site.running["first"].poll() is None


def test_a_ledger_that_was_moved_aside_is_not_published_for_ever(site: Site) -> None:
    """Its rows would go on to be sent, and none of the new ledger's."""
    site.start("publish")
    while read_cursor(site.folder / "ledger") is None:  # it has not opened it yet
        assert site.running["publish"].poll() is None
        time.sleep(0.05)
    (site.folder / "ledger").rename(site.folder / "aside")
    Ledger(site.folder / "ledger", DEVICE).close()

    assert site.running["publish"].wait(10) == 1  # systemd starts it again
    assert "moved, replaced or deleted" in (site.folder / "publish.log").read_text()


def test_a_broker_that_refuses_us_costs_nothing(tmp_path: Path, site: Site) -> None:
    """Rows stay in the ledger, the program stays up, and the log says what to do."""
    site.broker.close()
    (tmp_path / "strict.conf").write_text(
        f"listener {site.port} 127.0.0.1\nallow_anonymous false\n"
    )
    assert site.program
    strict = subprocess.Popen(
        [site.program, "-c", str(tmp_path / "strict.conf")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    site.start("publish")
    site.writer.start()
    site.writer.join()

    log = (tmp_path / "publish.log").read_text()
    assert site.running["publish"].poll() is None
    assert "refuses us" in log
    assert "password" in log
    assert len(site.written()) == ROWS
    strict.terminate()
    strict.wait()
