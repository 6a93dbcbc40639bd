"""A row that the disk has altered goes nowhere, and stops nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge import clock
from edge.archive.receiver import Archive
from edge.archive.store import ArchiveFailed, Chain, Store
from edge.cli.delivery import archive_command
from edge.delivery.intact_rows import IntactRows
from edge.delivery.publisher import Publisher
from edge.ledger.cursor import read_cursor
from edge.ledger.reader import LedgerReader
from edge.ledger.rows import LEDGER_FILE, LedgerRow
from edge.ledger.writer import Ledger
from edge.mqtt import Link, Message, topic
from edge.schema.codec import decode, write_toml
from edge.schema.messages import DeviceState
from edge.settings.delivery import BrokerSettings, PublishSettings
from edge.settings.files import ArchiveFile, ArchiveSettings
from tests.asking import DEVICE
from tests.conftest import frame_result

PARTS = ["data", "sha256", "prev", "sha256, no text"]


def fill(folder: Path, count: int) -> list[LedgerRow]:
    with closing(Ledger(folder, DEVICE)) as ledger:
        return [ledger.append(frame_result(utc=clock.utc_now())) for _ in range(count)]


def flip_a_bit(folder: Path, row: LedgerRow, part: str) -> None:
    """Flip one bit of the file, in this part of the row, as a bad disk does."""
    path = folder / LEDGER_FILE
    content = bytearray(path.read_bytes())
    begin = content.find(row.data)
    assert begin > 0, "the row does not lie in one piece"
    offset = {
        "data": row.data.index(b'"counts"') + 2,
        "prev": row.data.index(b'"prev":"') + 20,
        "sha256": len(row.data) + 10,
        "sha256, no text": len(row.data) + 10,
    }[part]
    assert "sha256" not in part or content[begin + len(row.data) :][:64].decode() == (
        row.sha256
    )
    content[begin + offset] ^= 128 if "no text" in part else 1
    path.write_bytes(content)


@contextmanager
def at_work(folder: Path, file: Path, address: BrokerSettings) -> Iterator[None]:
    stop = threading.Event()

    def archive() -> None:
        with closing(Store(file)) as store:
            Archive(store, address, "archive").run(stop)

    def publish() -> None:
        Publisher(folder, address, PublishSettings(ack_timeout_s=2)).run(stop)

    threads = [threading.Thread(target=work) for work in (archive, publish)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def await_acknowledged(folder: Path, upto: int) -> None:
    deadline_s = time.monotonic() + 15
    while (cursor := read_cursor(folder)) is None or cursor.upto < upto:
        assert time.monotonic() < deadline_s, f"{upto} rows were not acknowledged"
        time.sleep(0.05)


@pytest.mark.parametrize("part", PARTS)
def test_what_follows_a_damaged_row_is_delivered_and_the_hole_is_named(
    tmp_path: Path, address: BrokerSettings, part: str
) -> None:
    folder, file = tmp_path / "ledger", tmp_path / "archive.sqlite"
    rows = fill(folder, 40)
    flip_a_bit(folder, rows[19], part)  # row 20
    flip_a_bit(folder, rows[29], part)  # rows 30 and 31
    flip_a_bit(folder, rows[30], part)
    with closing(LedgerReader(folder)) as reader:
        chain = Chain(DEVICE, reader.epoch)
    seen: list[DeviceState] = []
    sent: set[bytes] = set()

    with (
        closing(Link(address, "screen", [topic(DEVICE, "+")])) as screen,
        at_work(folder, file, address),
    ):
        await_acknowledged(folder, 40)
        deadline_s = time.monotonic() + 1.5
        while time.monotonic() < deadline_s:
            for event in screen.poll(0.05):
                if isinstance(event, Message) and event.topic.endswith("/state"):
                    seen.append(decode(event.payload, DeviceState))
                elif isinstance(event, Message) and event.topic.endswith("/result"):
                    sent.add(event.payload)

    with closing(Store(file, must_exist=True)) as store:
        stored = list(store.rows(chain))
    wanted = [row for row in rows if row.seq not in (20, 30, 31)]
    assert stored == wanted
    assert sent == {row.data for row in wanted}  # nobody else got them either
    alarms = {alarm.code: alarm.text for state in seen for alarm in state.alarms}
    assert "rows between 20 and 31" in alarms["row-damaged"]
    assert "archive-disagrees" not in alarms
    assert seen[-1].oldest == 1  # what was said to pass the hole is taken back
    assert _verified(tmp_path, file) == (
        f"{DEVICE} {chain.epoch}: 40 rows, intact\n"
        f"{DEVICE} {chain.epoch}: rows 20 to 20 never came\n"
        f"{DEVICE} {chain.epoch}: rows 30 to 31 never came\n"
    )


def _verified(folder: Path, file: Path) -> str:
    config = folder / "archive.toml"
    write_toml(config, ArchiveFile(archive=ArchiveSettings(file=file)))
    words = ["--config", str(config), "--verify"]
    return CliRunner().invoke(archive_command, words).output


def test_an_archive_that_is_put_back_gets_the_rows_before_the_hole_again(
    tmp_path: Path, address: BrokerSettings
) -> None:
    folder, file = tmp_path / "ledger", tmp_path / "archive.sqlite"
    rows = fill(folder, 30)
    flip_a_bit(folder, rows[19], "data")
    with at_work(folder, file, address):
        await_acknowledged(folder, 30)
    for path in tmp_path.glob("archive.sqlite*"):
        path.unlink()

    with at_work(folder, file, address):
        deadline_s = time.monotonic() + 15
        while _count(file) < 29:
            assert time.monotonic() < deadline_s
            time.sleep(0.1)

    with closing(Store(file, must_exist=True)) as store:
        (chain,) = store.chains()
        assert list(store.rows(chain)) == rows[:19] + rows[20:]
        assert [hole[2:] for hole in store.holes()] == [(20, 20)]


def _count(file: Path) -> int:
    try:
        store = Store(file, must_exist=True)
    except ArchiveFailed:  # its tables are not there yet
        return 0
    with closing(store):
        return sum(1 for chain in store.chains() for _ in store.rows(chain))


@pytest.mark.parametrize("part", PARTS)
def test_a_damaged_row_is_left_out_and_told_of(tmp_path: Path, part: str) -> None:
    rows = fill(tmp_path, 6)
    flip_a_bit(tmp_path, rows[2], part)
    told: list[str] = []
    with closing(LedgerReader(tmp_path)) as reader:
        intact = IntactRows(reader, told.append)

        assert intact.following(0, 10) == rows[:2]
        assert intact.following(2, 10) == []
        assert intact.newest(1, 4) == [rows[1], rows[3], rows[4]]
        assert intact.next_after(2) == rows[3]
        assert intact.next_after(6) is None
    assert told[0] == "1 damaged in this device's own ledger, row 3; not sent"
