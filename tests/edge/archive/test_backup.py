"""What docs/operations.md tells people to do, done for real."""

from __future__ import annotations

import re
import shlex
import shutil
import socket
import sqlite3
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from edge import clock
from edge.archive.backup import BackupFailed, back_up
from edge.archive.receiver import Archive
from edge.archive.store import Chain, Store
from edge.cli.main import hemascope
from edge.cli.maintenance import backup_command
from edge.delivery.publisher import Publisher
from edge.demo.broker import Mosquitto
from edge.doctor.device import ExaminedDevice
from edge.doctor.registry import CHECKS
from edge.doctor.runner import run_check
from edge.errors import HemascopeError
from edge.ledger.cursor import read_cursor
from edge.ledger.reader import LedgerReader
from edge.ledger.rows import LedgerRow
from edge.ledger.writer import Ledger
from edge.monitoring.alarms import ALARM_KINDS
from edge.mqtt import BrokerRefused, Link
from edge.settings.delivery import BrokerSettings, PublishSettings
from edge.settings.run import LedgerSettings
from tests.conftest import frame_result
from tests.systemd.broker import PASSWORDS, SHIPPED, ShippedBroker

GUIDE = Path(__file__).parents[3] / "docs" / "operations.md"
DEVICE = "scope-01"
SQLITE = "ledger.sqlite"


def fill(folder: Path, rows: int) -> str:
    """Append so many rows to the ledger in `folder`; return its epoch."""
    with closing(Ledger(folder, DEVICE)) as ledger:
        for _ in range(rows):
            ledger.append(frame_result(utc=clock.utc_now()))
        return ledger.epoch


def written(folder: Path) -> list[LedgerRow]:
    with closing(LedgerReader(folder)) as reader:
        return reader.rows(0, 10_000)


def archived(file: Path, epoch: str) -> list[LedgerRow]:
    with closing(Store(file)) as store:
        return list(store.rows(Chain(DEVICE, epoch)))


@contextmanager
def at_work(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Let a process of ours work in a thread, as long as the block lasts."""
    stop, failed = threading.Event(), []

    def watched() -> None:
        try:
            work(stop)
        except (HemascopeError, OSError, AssertionError) as error:
            failed.append(error)

    thread = threading.Thread(target=watched)
    thread.start()
    yield
    stop.set()
    thread.join(20)
    assert not failed, failed


def publishing(
    folder: Path, broker: BrokerSettings
) -> Callable[[threading.Event], None]:
    def work(stop: threading.Event) -> None:
        Publisher(folder, broker, PublishSettings(ack_timeout_s=2)).run(stop)

    return work


def archiving(file: Path, broker: BrokerSettings) -> Callable[[threading.Event], None]:
    def work(stop: threading.Event) -> None:
        with closing(Store(file)) as store:
            Archive(store, broker, "archive").run(stop)

    return work


def await_rows(file: Path, epoch: str, count: int) -> None:
    deadline_s = time.monotonic() + 20
    uri = f"{file.as_uri()}?mode=ro"
    while True:
        with suppress(sqlite3.Error), closing(sqlite3.connect(uri, uri=True)) as db:
            wanted = "SELECT count(*) FROM rows WHERE epoch = ?"
            if db.execute(wanted, (epoch,)).fetchone()[0] >= count:
                return
        assert time.monotonic() < deadline_s, f"{count} rows were not archived"
        time.sleep(0.05)


def await_acknowledged(ledger: Path, upto: int) -> None:
    deadline_s = time.monotonic() + 20
    while (cursor := read_cursor(ledger)) is None or cursor.upto < upto:
        assert time.monotonic() < deadline_s, f"{upto} rows were not acknowledged"
        time.sleep(0.05)


# -- backup ----------------------------------------------------------------------------


def test_a_ledger_is_copied_while_it_is_written_and_cp_would_lose_rows(
    tmp_path: Path,
) -> None:
    ledger = Ledger(tmp_path / "ledger", DEVICE)
    for _ in range(20):
        ledger.append(frame_result())
    stop = threading.Event()

    def copy() -> None:
        stop.wait(0.1)
        output = back_up(tmp_path / "ledger" / SQLITE, tmp_path / SQLITE)
        assert re.fullmatch(r"ledger of \d+ rows, all intact", output)
        stop.set()

    copying = threading.Thread(target=copy)
    copying.start()
    while not stop.is_set():
        ledger.append(frame_result())
    copying.join()
    lost = 0  # as long as nothing was moved from the log into the file at that moment
    for _ in range(3):
        ledger.append(frame_result())
        lost += ledger.seq - _rows_in_a_mere_copy(tmp_path)
    ledger.close()

    rows = written(tmp_path / "ledger")
    copied = written(tmp_path)
    assert 20 <= len(copied) <= len(rows)
    assert copied == rows[: len(copied)]
    assert lost > 0, "the control must lose"


def _rows_in_a_mere_copy(folder: Path) -> int:
    """Copy a ledger as nobody should, and count the rows in the copy."""
    shutil.copy(folder / "ledger" / SQLITE, folder / "cp.sqlite")
    with closing(sqlite3.connect(folder / "cp.sqlite")) as db:
        try:
            return int(db.execute("SELECT max(seq) FROM rows").fetchone()[0] or 0)
        except sqlite3.DatabaseError:  # not even the table is there
            return 0


def test_a_damaged_or_foreign_file_never_replaces_a_good_copy(tmp_path: Path) -> None:
    fill(tmp_path / "ledger", 5)
    database, copy = tmp_path / "ledger" / SQLITE, tmp_path / "copy.sqlite"
    back_up(database, copy)
    good = copy.read_bytes()
    with closing(sqlite3.connect(database)) as db, db:
        db.execute("UPDATE rows SET sha256 = '0' WHERE seq = 3")

    with pytest.raises(BackupFailed, match="damaged at row 3"):
        back_up(database, copy)
    for name, content in (("x", b"no database" * 100), ("y", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BackupFailed):
            back_up(tmp_path / name, copy)
    with pytest.raises(BackupFailed, match="no such file"):
        back_up(tmp_path / "nothing", copy)
    with pytest.raises(BackupFailed, match="the database itself"):
        back_up(database, database)
    with pytest.raises(BackupFailed, match="check both disks"):
        back_up(database, tmp_path / "no" / "folder")

    assert copy.read_bytes() == good
    assert not list(tmp_path.glob("*.part"))


def test_the_command_says_what_the_copy_holds(tmp_path: Path) -> None:
    fill(tmp_path / "ledger", 3)
    words = [str(tmp_path / "ledger" / SQLITE), str(tmp_path / "copy.sqlite")]

    output = CliRunner().invoke(backup_command, words)

    assert output.output == f"{words[1]}: ledger of 3 rows, all intact\n"
    assert (tmp_path / "copy.sqlite").stat().st_mode & 0o777 == 0o600


def test_an_archive_that_was_lost_is_restored_and_filled_up_by_the_device(
    tmp_path: Path, broker: Mosquitto
) -> None:
    address = BrokerSettings(port=broker.port, keepalive_s=2)
    ledger, file = tmp_path / "ledger", tmp_path / "a.sqlite"
    epoch = fill(ledger, 30)
    with at_work(archiving(file, address)), at_work(publishing(ledger, address)):
        await_rows(file, epoch, 30)
        output = back_up(file, tmp_path / "backup.sqlite")  # while it is at work
        fill(ledger, 30)
        await_rows(file, epoch, 60)
    assert output == "archive of 30 rows, all intact"
    for path in tmp_path.glob("a.sqlite*"):
        path.unlink()
    shutil.copy(tmp_path / "backup.sqlite", file)
    assert len(archived(file, epoch)) == 30

    with at_work(archiving(file, address)), at_work(publishing(ledger, address)):
        await_rows(file, epoch, 60)

    assert archived(file, epoch) == written(ledger)


def test_a_ledger_that_was_lost_delivers_what_its_copy_has_and_a_new_one_goes_on(
    tmp_path: Path, broker: Mosquitto
) -> None:
    address = BrokerSettings(port=broker.port, keepalive_s=2)
    ledger, file = tmp_path / "ledger", tmp_path / "a.sqlite"
    old = fill(ledger, 40)  # none of them archived
    back_up(ledger / SQLITE, tmp_path / "backup.sqlite")
    shutil.rmtree(ledger)
    rescue = tmp_path / "rescue"
    rescue.mkdir()
    shutil.copy(tmp_path / "backup.sqlite", rescue / SQLITE)
    new = fill(ledger, 10)

    with at_work(archiving(file, address)):
        with at_work(publishing(rescue, address)):
            await_rows(file, old, 40)
        with at_work(publishing(ledger, address)):
            await_rows(file, new, 10)

    rescued = ExaminedDevice(
        None, None, {"device": DEVICE, "ledger": LedgerSettings(rescue)}
    )
    output = [finding.found for finding in run_check(CHECKS["ledger"], rescued)]
    assert "the archive has acknowledged every row" in output
    assert old != new
    assert archived(file, old) == written(rescue)
    assert archived(file, new) == written(ledger)


def test_to_go_on_with_an_old_copy_is_noticed_and_its_rows_are_kept_aside(
    tmp_path: Path, broker: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    """Why the guide forbids it: numbers that the archive knows come a second time."""
    address = BrokerSettings(port=broker.port, keepalive_s=2)
    ledger, file = tmp_path / "ledger", tmp_path / "a.sqlite"
    epoch = fill(ledger, 10)
    back_up(ledger / SQLITE, tmp_path / "backup.sqlite")
    fill(ledger, 10)
    with at_work(archiving(file, address)), at_work(publishing(ledger, address)):
        await_rows(file, epoch, 20)
    true = archived(file, epoch)
    shutil.rmtree(ledger)
    ledger.mkdir()
    shutil.copy(tmp_path / "backup.sqlite", ledger / SQLITE)
    fill(ledger, 12)  # numbers 11 to 22, of which the archive has 11 to 20

    with at_work(archiving(file, address)), at_work(publishing(ledger, address)):
        time.sleep(2)

    assert archived(file, epoch) == true  # nothing that was archived is altered
    assert "the archive holds another row 20 than this ledger" in caplog.text
    with closing(sqlite3.connect(file)) as db:
        (aside,) = db.execute("SELECT count(*) FROM quarantine").fetchone()
    assert aside >= 10


# -- certificates and passwords --------------------------------------------------------


@dataclass
class Laboratory:
    """A shipped broker, an archive and a device that goes on examining."""

    folder: Path
    broker: ShippedBroker

    def settings(self, name: str) -> BrokerSettings:
        password = self.folder / f"{name}.password"
        if not password.exists():
            password.write_text(PASSWORDS[name])
        return BrokerSettings(
            host="localhost",
            port=self.broker.ports["tls"],
            keepalive_s=2,
            ca=self.folder / "ca.pem",
            username=name,
            password_file=password,
        )


@pytest.fixture
def laboratory(tmp_path: Path) -> Iterator[Laboratory]:
    (tmp_path / "broker").mkdir()
    shipped = ShippedBroker(tmp_path / "broker")
    shutil.copy(tmp_path / "broker" / "ca.pem", tmp_path / "ca.pem")
    yield Laboratory(tmp_path, shipped)
    shipped.close()


def examining(folder: Path) -> Callable[[threading.Event], None]:
    def work(stop: threading.Event) -> None:
        with closing(Ledger(folder, DEVICE)) as ledger:
            while not stop.wait(0.02):
                ledger.append(frame_result())

    return work


def test_a_new_authority_takes_over_while_results_are_delivered(
    laboratory: Laboratory,
) -> None:
    folder, broker = laboratory.folder, laboratory.broker
    ledger, file, new = folder / "ledger", folder / "a.sqlite", folder / "new-ca"
    epoch = fill(ledger, 1)
    with (
        at_work(archiving(file, laboratory.settings("archive"))),
        at_work(publishing(ledger, laboratory.settings(DEVICE))),
        at_work(examining(ledger)),
    ):
        await_rows(file, epoch, 10)
        make = [SHIPPED / "make-certificates.sh", new, "broker", "localhost"]
        subprocess.run(make, check=True)
        old_ca, new_ca = (folder / "ca.pem").read_bytes(), (new / "ca.pem").read_bytes()
        (folder / "ca.pem").write_bytes(old_ca + new_ca)  # both, everywhere first
        for name in ("broker.pem", "broker.key"):
            shutil.copy(new / name, broker.folder / name)
        broker.restart()
        count = len(archived(file, epoch))
        await_rows(file, epoch, count + 20)  # under the new certificate
        (folder / "ca.pem").write_bytes(new_ca)  # the old one is taken away
        broker.restart()
        count = len(archived(file, epoch))
        await_rows(file, epoch, count + 20)
    with (
        at_work(archiving(file, laboratory.settings("archive"))),
        at_work(publishing(ledger, laboratory.settings(DEVICE))),
    ):
        await_rows(file, epoch, len(written(ledger)))

    assert archived(file, epoch) == written(ledger)
    (folder / "ca.pem").write_bytes(old_ca)  # the old authority counts no more
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    where = ("localhost", broker.ports["tls"])
    with (
        socket.create_connection(where) as plain,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        context.wrap_socket(plain, server_hostname="localhost")


def test_a_new_password_loses_nothing(laboratory: Laboratory) -> None:
    folder, broker = laboratory.folder, laboratory.broker
    ledger, file = folder / "ledger", folder / "a.sqlite"
    settings = laboratory.settings(DEVICE)
    epoch = fill(ledger, 1)
    with at_work(archiving(file, laboratory.settings("archive"))):
        with at_work(examining(ledger)):
            with at_work(publishing(ledger, settings)):
                await_rows(file, epoch, 10)
                words = ["-b", broker.folder / "hemascope.passwd", DEVICE, "another"]
                subprocess.run(["mosquitto_passwd", *words], check=True)
                broker.reload()
            with pytest.raises(BrokerRefused, match="Not authori"):
                Link(settings, DEVICE, [])
            (folder / f"{DEVICE}.password").write_text("another")
            with at_work(publishing(ledger, settings)):
                count = len(archived(file, epoch))
                await_rows(file, epoch, count + 20)
        with at_work(publishing(ledger, settings)):
            await_rows(file, epoch, len(written(ledger)))

    assert archived(file, epoch) == written(ledger)


# -- the guide -------------------------------------------------------------------------


def test_the_guide_says_what_each_alarm_means_and_what_to_do() -> None:
    told = re.findall(r"^\| `([a-z-]+)` \| (.+?) \| (.+?) \| (.+?) \|$", text(), re.M)

    alarms = {code: (means, cause, do) for code, means, cause, do in told}
    assert set(alarms) == set(ALARM_KINDS)
    for code, (means, cause, do) in alarms.items():
        assert ALARM_KINDS[code].advice in do, code
        assert len(means) > 20, code
        assert len(cause) > 20, code


def test_every_command_and_option_of_the_guide_exists() -> None:
    told = re.findall(r"(?:^ *|`)(?:sudo )?hemascope ([a-z][^`#\n]*)", text(), re.M)
    assert len(told) > 15
    context = click.Context(hemascope)
    for line in told:
        name, *words = shlex.split(line)
        command = hemascope.get_command(context, name)
        assert command is not None, line
        if isinstance(command, click.Group):
            command = command.get_command(context, words.pop(0))
            assert command is not None, line
        known = {opt for param in command.params for opt in param.opts}
        assert {word for word in words if word.startswith("--")} <= known, line


def text() -> str:
    return GUIDE.read_text(encoding="utf-8")
