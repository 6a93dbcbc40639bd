"""What the publisher believes of the archive, at a real broker."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from edge.delivery.publisher import Publisher
from edge.ledger.cursor import read_cursor
from edge.ledger.rows import LedgerMoved
from edge.ledger.writer import Ledger
from edge.mqtt import Link, Message, topic
from edge.schema.codec import decode, encode
from edge.schema.messages import Ack, DeviceState
from edge.schema.results import ResultHead
from edge.settings.delivery import BrokerSettings, PublishSettings
from tests.asking import DEVICE
from tests.conftest import frame_result


@pytest.mark.parametrize("upto", [2, 3])
def test_an_archive_that_holds_rows_we_do_not_is_an_alarm(
    tmp_path: Path, address: BrokerSettings, upto: int
) -> None:
    """As after the ledger was restored from a copy: no row of it would be archived."""
    with closing(Ledger(tmp_path, DEVICE)) as ledger:
        for _ in range(2):
            ledger.append(frame_result())
        ack = Ack(epoch=ledger.epoch, upto=upto, hash="f" * 64, resume=True)

    alarms = _alarms_after(tmp_path, address, [ack], "archive-disagrees")

    assert "archive-disagrees" in alarms


def test_an_archive_with_an_altered_row_gets_the_true_one_though_its_state_is_lost(
    tmp_path: Path, address: BrokerSettings
) -> None:
    """Both may happen at once where a network alters bytes."""
    with closing(Ledger(tmp_path, DEVICE)) as ledger:
        rows = [ledger.append(frame_result()) for _ in range(300)]
        ack = Ack(epoch=ledger.epoch, upto=2, hash="f" * 64, resume=True)
    stop, found = threading.Event(), set[int]()
    publishing = threading.Thread(target=_publish, args=(tmp_path, address, stop))
    with closing(Link(address, "archive", [topic(DEVICE, "result")])) as archive:
        publishing.start()
        deadline_s = time.monotonic() + 5
        while 2 not in found and time.monotonic() < deadline_s:
            for event in archive.poll(0.05):
                if isinstance(event, Message):
                    found.add(decode(event.payload, ResultHead).seq)
                    archive.publish(topic(DEVICE, "ack"), encode(ack))
    stop.set()
    publishing.join()

    assert {1, 2, rows[-1].seq} <= found


def _alarms_after(
    folder: Path, address: BrokerSettings, acks: list[Ack], awaited: str
) -> set[str]:
    """Answer each state of a publisher by `acks`; return its alarms of the last one."""
    stop = threading.Event()
    publishing = threading.Thread(target=_publish, args=(folder, address, stop))
    with closing(Link(address, "archive", [topic(DEVICE, "state")])) as archive:
        publishing.start()
        alarms: set[str] = set()
        deadline_s = time.monotonic() + 15
        while awaited not in alarms and time.monotonic() < deadline_s:
            for event in archive.poll(0.05):
                if isinstance(event, Message):
                    state = decode(event.payload, DeviceState)
                    alarms = {alarm.code for alarm in state.alarms}
                    for ack in acks:
                        archive.publish(topic(DEVICE, "ack"), encode(ack))
    stop.set()
    publishing.join()
    return alarms


def _publish(folder: Path, address: BrokerSettings, stop: threading.Event) -> None:
    Publisher(folder, address, PublishSettings()).run(stop)


def test_the_last_state_says_that_the_ledger_is_gone(
    tmp_path: Path, address: BrokerSettings
) -> None:
    folder = tmp_path / "ledger"
    Ledger(folder, DEVICE).close()
    failed: list[LedgerMoved] = []

    def publish() -> None:
        try:
            _publish(folder, address, threading.Event())
        except LedgerMoved as error:
            failed.append(error)

    publishing = threading.Thread(target=publish, daemon=True)
    states: list[DeviceState] = []
    with closing(Link(address, "screen", [topic(DEVICE, "state")])) as screen:
        publishing.start()
        deadline_s = time.monotonic() + 15
        while not any(state.state == "stopped" for state in states):
            assert time.monotonic() < deadline_s
            states += [
                decode(event.payload, DeviceState)
                for event in screen.poll(0.05)
                if isinstance(event, Message)
            ]
            if states and folder.exists():
                folder.rename(tmp_path / "aside")
    publishing.join(5)

    assert "ledger-gone" in {alarm.code for alarm in states[-1].alarms}
    assert f"{folder / 'ledger.sqlite'}: " in str(failed[0])


def test_an_archive_that_goes_back_is_an_alarm(
    tmp_path: Path, address: BrokerSettings
) -> None:
    """As after an older archive was put back: rows that it acknowledged are gone."""
    with closing(Ledger(tmp_path, DEVICE)) as ledger:
        rows = [ledger.append(frame_result()) for _ in range(3)]
    acks = [
        Ack(epoch=ledger.epoch, upto=row.seq, hash=row.sha256, resume=True)
        for row in (rows[2], rows[0])
    ]

    alarms = _alarms_after(tmp_path, address, acks, "archive-went-back")

    assert "archive-went-back" in alarms


def test_another_program_of_our_name_is_an_alarm_and_in_the_cursor_for_doctor(
    tmp_path: Path, address: BrokerSettings
) -> None:
    Ledger(tmp_path, DEVICE).close()
    stop = threading.Event()
    publishing = threading.Thread(target=_publish, args=(tmp_path, address, stop))
    alarms: set[str] = set()
    with closing(Link(address, "screen", [topic(DEVICE, "state")])) as screen:
        publishing.start()
        deadline_s = time.monotonic() + 15
        while "name-taken" not in alarms and time.monotonic() < deadline_s:
            for event in screen.poll(0.05):
                if isinstance(event, Message):
                    state = decode(event.payload, DeviceState)
                    alarms = {alarm.code for alarm in state.alarms}
                    if state.state == "online" and not alarms & {"name-taken"}:
                        Link(address, DEVICE, [])  # the other program
    cursor = read_cursor(tmp_path)
    stop.set()
    publishing.join()

    assert "name-taken" in alarms
    assert cursor is not None
    assert "another program came with our name" in cursor.trouble
