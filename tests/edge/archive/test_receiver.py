from __future__ import annotations

import hashlib
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edge.archive.receiver import Archive
from edge.archive.store import ArchiveFailed, Chain, Store, StoreOutcome
from edge.ledger.reader import LedgerReader
from edge.ledger.rows import LedgerRow
from edge.ledger.writer import Ledger
from edge.mqtt import ARCHIVE_STATE, Link, Message
from edge.schema.codec import decode
from edge.schema.messages import ArchiveState, DeviceState
from edge.schema.results import FIRST_PREVIOUS, Result
from edge.settings.delivery import BrokerSettings
from tests.conftest import frame_result

DEVICE = "scope-01"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "archive.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def rows(tmp_path: Path) -> list[LedgerRow]:
    """Ten rows of a real ledger."""
    ledger = Ledger(tmp_path / "ledger", DEVICE)
    for _ in range(10):
        ledger.append(frame_result())
    ledger.close()
    reader = LedgerReader(tmp_path / "ledger")
    stored = reader.rows(0, 100)
    reader.close()
    return stored


@pytest.fixture
def chain(rows: list[LedgerRow]) -> Chain:
    return Chain(DEVICE, decode(rows[0].data, Result).epoch)


def message(data: bytes, device: str = DEVICE) -> Message:
    return Message(f"cells/v1/{device}/result", data, is_retained=False)


def give(store: Store, *data: bytes) -> list[StoreOutcome]:
    return [v for d in data for v in store.store_messages([message(d)]).values()]


def state(chain: Chain, oldest: int) -> DeviceState:
    return DeviceState(
        state="online",
        device=chain.device,
        epoch=chain.epoch,
        connection=1,
        oldest=oldest,
        seq=10,
        acknowledged=0,
        software="0",
    )


def states_until(screen: Link, wanted: str) -> list[str]:
    """Return the states of the archive until the one that is wanted."""
    states: list[str] = []
    deadline_s = time.monotonic() + 10
    while wanted not in states:
        assert time.monotonic() < deadline_s, states
        states += [
            decode(event.payload, ArchiveState).state
            for event in screen.poll(0.05)
            if isinstance(event, Message)
        ]
    return states


def test_rows_in_order_are_stored_as_they_are(
    store: Store, rows: list[LedgerRow], chain: Chain
) -> None:
    verdicts = give(store, *(row.data for row in rows))

    assert verdicts == [StoreOutcome.STORED] * 10
    assert list(store.rows(chain)) == rows
    assert store.verify(chain) is None
    assert store.cursor(chain) == (10, rows[-1].sha256)


def test_a_row_that_comes_again_is_dropped(
    store: Store, rows: list[LedgerRow], chain: Chain
) -> None:
    give(store, *(row.data for row in rows[:5]))

    assert give(store, rows[2].data, rows[4].data) == [StoreOutcome.DUPLICATE] * 2
    assert len(list(store.rows(chain))) == 5


def test_a_row_too_early_is_not_stored(
    store: Store, rows: list[LedgerRow], chain: Chain
) -> None:
    give(store, rows[0].data)

    assert give(store, rows[2].data) == [StoreOutcome.AHEAD]
    assert store.cursor(chain)[0] == 1


def test_the_first_row_that_an_archive_sees_must_be_the_first_of_the_ledger(
    store: Store, rows: list[LedgerRow], chain: Chain
) -> None:
    assert give(store, rows[4].data) == [StoreOutcome.AHEAD]
    assert store.cursor(chain) == (0, FIRST_PREVIOUS)


def test_rows_that_the_device_no_longer_has_are_written_down_as_a_hole(
    store: Store, rows: list[LedgerRow], chain: Chain
) -> None:
    give(store, rows[0].data)
    store.note_oldest(state(chain, oldest=5))

    assert give(store, *(row.data for row in rows[4:])) == [StoreOutcome.STORED] * 6
    assert store.holes() == [(chain.device, chain.epoch, 2, 4)]
    assert store.verify(chain) is None  # a hole that is written down is no damage


def test_an_archive_that_is_not_there_is_not_verified(tmp_path: Path) -> None:
    with pytest.raises(ArchiveFailed, match="no such archive"):
        Store(tmp_path / "none.sqlite", must_exist=True)

    assert list(tmp_path.iterdir()) == []


def altered(row: LedgerRow) -> bytes:
    data = row.data.replace(b'"label":"RBC"', b'"label":"WBC"', 1)
    assert data != row.data
    return data


def test_an_altered_row_is_found_out_by_the_next_one(
    store: Store, rows: list[LedgerRow], chain: Chain
) -> None:
    """The device sees a foreign hash in the acknowledgement and sends the row again."""
    give(store, rows[0].data, altered(rows[1]))
    acknowledged = store.cursor(chain)
    assert acknowledged[1] != rows[1].sha256  # the device does not believe this

    assert give(store, rows[2].data) == [StoreOutcome.QUARANTINED]
    assert give(store, rows[1].data) == [StoreOutcome.STORED]
    assert give(store, *(r.data for r in rows[2:])) == [StoreOutcome.STORED] * 8
    assert list(store.rows(chain)) == rows


def test_a_false_copy_of_an_acknowledged_row_stops_nothing(
    store: Store, rows: list[LedgerRow], chain: Chain
) -> None:
    """The device never sends it again: only the row after it can put it right."""
    give(store, rows[0].data, rows[1].data)
    assert give(store, altered(rows[1])) == [StoreOutcome.STORED]
    assert give(store, rows[2].data, rows[3].data) == [StoreOutcome.STORED] * 2

    assert list(store.rows(chain)) == rows[:4]
    assert store.verify(chain) is None


def test_an_altered_row_after_a_hole_is_replaced_too(
    store: Store, rows: list[LedgerRow], chain: Chain
) -> None:
    store.note_oldest(state(chain, oldest=5))
    give(store, altered(rows[4]))

    assert give(store, rows[4].data) == [StoreOutcome.STORED]
    assert give(store, *(r.data for r in rows[5:])) == [StoreOutcome.STORED] * 5
    assert list(store.rows(chain)) == rows[4:]
    assert store.verify(chain) is None


def test_a_row_that_later_rows_vouch_for_is_never_replaced(
    store: Store, rows: list[LedgerRow], chain: Chain, tmp_path: Path
) -> None:
    give(store, *(row.data for row in rows))

    assert give(store, *[altered(rows[4])] * 3) == [StoreOutcome.DUPLICATE] * 3
    assert list(store.rows(chain)) == rows
    with sqlite3.connect(tmp_path / "archive.sqlite") as db:
        kept = db.execute("SELECT data, reason FROM quarantine").fetchall()
    db.close()
    assert [data for data, _ in kept] == [altered(rows[4])]  # once, however often
    assert "another row 5" in kept[0][1]


def test_one_device_cannot_write_as_another(
    store: Store, rows: list[LedgerRow], tmp_path: Path
) -> None:
    store.store_messages([message(rows[0].data, device="scope-02")])

    assert store.chains() == []
    with sqlite3.connect(tmp_path / "archive.sqlite") as db:
        (reason,) = db.execute("SELECT reason FROM quarantine").fetchone()
    db.close()
    assert "scope-01" in reason


HOSTILE: list[Callable[[bytes], bytes]] = [
    lambda data: b"",
    lambda data: b"[]",
    lambda data: data[:-1],
    lambda data: data.replace(b'"seq":1', b'"seq":0'),
    lambda data: data.replace(b'"seq":1', b'"seq":1e400'),
    lambda data: data.replace(b'"seq":1', b'"seq":9223372036854775808'),
    lambda data: data[:-1] + b',"x":' + b"[" * 100_000,
    lambda data: data.replace(b'"prev":"0', b'"prev":"x'),
    lambda data: b"\xff" + data,
]


@pytest.mark.parametrize("damage", HOSTILE)
def test_what_is_no_row_is_put_aside_and_the_next_row_still_comes_in(
    store: Store, rows: list[LedgerRow], chain: Chain, damage: Callable[[bytes], bytes]
) -> None:
    store.store_messages([message(damage(rows[0].data)), message(rows[0].data)])

    assert store.cursor(chain) == (1, rows[0].sha256)


def test_a_stored_row_that_is_altered_later_is_found(
    store: Store, rows: list[LedgerRow], chain: Chain, tmp_path: Path
) -> None:
    give(store, *(row.data for row in rows))
    with sqlite3.connect(tmp_path / "archive.sqlite") as db:
        data = altered(rows[6])
        sha256 = hashlib.sha256(data).hexdigest()
        db.execute("UPDATE rows SET data = ?, sha256 = ? WHERE seq = 7", (data, sha256))
    db.close()

    assert store.verify(chain) == 8  # the row after it names another hash


def test_two_ledgers_of_one_device_are_kept_apart(
    store: Store, rows: list[LedgerRow], chain: Chain, tmp_path: Path
) -> None:
    other = Ledger(tmp_path / "new", DEVICE)
    row = other.append(frame_result())
    other.close()

    give(store, rows[0].data, row.data, rows[1].data)

    assert len(store.chains()) == 2
    assert store.cursor(chain)[0] == 2


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.sqlite").write_bytes(
        b"not a database, but long enough to be read" * 50
    )

    with pytest.raises(ArchiveFailed):
        Store(tmp_path / "x.sqlite")


# -- the file --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["archive.sqlite", "archive.sqlite-wal"])
@pytest.mark.parametrize("is_replaced", [True, False])
def test_nothing_is_acknowledged_into_a_file_that_is_gone(
    tmp_path: Path, store: Store, rows: list[LedgerRow], name: str, is_replaced: bool
) -> None:
    give(store, rows[0].data)
    (tmp_path / name).rename(tmp_path / "moved")
    if is_replaced:
        shutil.copy(tmp_path / "moved", tmp_path / name)

    with pytest.raises(ArchiveFailed, match=r"archive\.sqlite: .*moved, replaced"):
        give(store, rows[1].data)


def test_an_archive_whose_file_is_gone_ends_within_two_seconds(
    tmp_path: Path, address: BrokerSettings
) -> None:
    """Also where no row comes that would have to be stored."""
    failed: list[Exception] = []

    def work() -> None:
        store = Store(tmp_path / "archive.sqlite")
        try:
            Archive(store, address, "archive").run(threading.Event())
        except ArchiveFailed as error:
            failed.append(error)

    archiving = threading.Thread(target=work, daemon=True)
    with closing(Link(address, "screen", [ARCHIVE_STATE])) as screen:
        archiving.start()
        states = states_until(screen, "online")
        (tmp_path / "archive.sqlite").unlink()
        archiving.join(2)
        states += states_until(screen, "offline")

    assert "moved, replaced" in str(failed[0])
    assert states[-1] == "offline"  # so that the devices raise `archive-away`
