"""Alarms and answers on topics of their own, as often as it takes."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from edge.delivery.announcer import MAX_REPEATED_ENTRIES, Announcer
from edge.delivery.publisher import Publisher
from edge.ledger.reader import LedgerReader
from edge.ledger.rows import LedgerDamaged
from edge.ledger.writer import Ledger
from edge.mqtt import Link, Message, Published, topic
from edge.schema.entries import Alarm, Audit, Note
from edge.settings.delivery import BrokerSettings, PublishSettings
from tests.asking import DEVICE, START
from tests.conftest import frame_result, receive

ALARM = Alarm(severity="red", code="hot", text="x", advice="y", since=START)
DONE = Audit(name="stop", request="request-00000001", outcome="done", text="stopped")


def written(folder: Path) -> LedgerReader:
    ledger = Ledger(folder, DEVICE)
    unread = Audit(name="stop", outcome="refused", text="no request at all")
    for result in (frame_result(), ALARM, Note(text="x", by="anna"), unread, DONE):
        ledger.append(result)
    ledger.close()
    return LedgerReader(folder)


def test_alarms_and_answers_are_sent_until_the_broker_has_them(
    tmp_path: Path, address: BrokerSettings
) -> None:
    reader = written(tmp_path)
    listener = Link(address, "listener", ["cells/#"])
    announcer = Announcer(reader, 0)
    first = Link(address, "first", [])
    announcer.restart()
    announcer.send(first)
    alarm, answer = receive(listener, 2)
    assert alarm.topic == topic(DEVICE, "alarm")
    assert alarm.payload == reader.rows(1, 1)[0].data
    assert answer.topic == topic(DEVICE, "cmd/resp/stop")
    assert answer.correlation == b"request-00000001"
    first.close()  # before we read what the broker said of them

    second = Link(address, "second", [])
    announcer.restart()
    announcer.send(second)
    assert receive(listener, 2) == [alarm, answer]
    events: list[Message | Published] = []
    while len(events) < 2:
        events += second.poll(0.05)
    for event in events:
        assert isinstance(event, Published)
        announcer.confirm(event.message_id)
    assert announcer.announced == 5

    announcer.restart()
    announcer.send(second)
    assert receive(listener, 1, within_s=0.3) == []
    reader.close()


def test_where_nobody_knows_what_was_told_the_newest_are_told_again(
    tmp_path: Path,
) -> None:
    ledger = Ledger(tmp_path, DEVICE)
    for _ in range(MAX_REPEATED_ENTRIES + 50):
        ledger.append(ALARM)
    reader = LedgerReader(tmp_path)

    assert Announcer(reader, None).announced == 50
    reader.close()
    ledger.close()


def test_a_ledger_of_an_earlier_version_is_said(tmp_path: Path) -> None:
    Ledger(tmp_path, DEVICE).close()
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as db:
        db.execute("DROP TABLE entries")
        db.commit()

    with pytest.raises(LedgerDamaged, match="start `hemascope run` once"):
        Publisher(tmp_path, BrokerSettings(), PublishSettings())
    ledger = Ledger(tmp_path, DEVICE)
    ledger.append(ALARM)
    ledger.close()
    stop = threading.Event()
    stop.set()
    Publisher(tmp_path, BrokerSettings(), PublishSettings()).run(stop)
