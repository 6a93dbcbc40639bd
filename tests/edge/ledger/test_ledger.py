from __future__ import annotations

import doctest
import hashlib
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

import edge.ledger
from edge import clock
from edge.archive.backup import back_up
from edge.ledger.cursor import Cursor, LedgerBusy, write_cursor
from edge.ledger.reader import LedgerReader
from edge.ledger.rows import (
    LedgerDamaged,
    LedgerFull,
    LedgerOutdated,
    LedgerRow,
    RowRefused,
    first_broken,
)
from edge.ledger.writer import Ledger
from edge.schema.codec import decode
from edge.schema.results import FIRST_PREVIOUS, Result
from edge.schema.row_limits import MAX_CELLS, MAX_ROW_BYTES
from tests.conftest import frame_result


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path, "scope-01")
    yield opened
    opened.close()


def rows(folder: Path) -> list[LedgerRow]:
    reader = LedgerReader(folder)
    found = reader.rows(0, 10_000)
    reader.close()
    return found


def test_the_worked_example_of_the_ledger_holds() -> None:
    result = doctest.testmod(edge.ledger)

    assert result.attempted > 5
    assert result.failed == 0


def test_rows_form_a_chain_from_one_on(ledger: Ledger, tmp_path: Path) -> None:
    for _ in range(5):
        ledger.append(frame_result())

    stored = rows(tmp_path)
    results = [decode(row.data, Result) for row in stored]
    assert [r.seq for r in results] == [1, 2, 3, 4, 5]
    assert [r.prev for r in results] == [FIRST_PREVIOUS] + [
        r.sha256 for r in stored[:-1]
    ]
    assert {r.device for r in results} == {"scope-01"}
    assert first_broken(stored) is None


def test_the_chain_goes_on_after_a_restart(tmp_path: Path) -> None:
    for _ in range(3):
        ledger = Ledger(tmp_path, "scope-01")
        ledger.append(frame_result())
        ledger.close()

    stored = rows(tmp_path)
    assert [row.seq for row in stored] == [1, 2, 3]
    assert first_broken(stored) is None
    assert len({decode(row.data, Result).epoch for row in stored}) == 1


def test_every_commit_reaches_the_disk(ledger: Ledger) -> None:
    level = ledger._db.execute("PRAGMA synchronous").fetchone()[0]
    mode = ledger._db.execute("PRAGMA journal_mode").fetchone()[0]

    assert (level, mode) == (2, "wal")  # 2 is FULL


def test_a_killed_writer_loses_no_committed_row(tmp_path: Path) -> None:
    program = textwrap.dedent(
        f"""
        import sys
        from pathlib import Path
        from edge.ledger.writer import Ledger
        from tests.conftest import frame_result
        ledger = Ledger(Path({str(tmp_path)!r}), "scope-01")
        while True:
            print(ledger.append(frame_result()).seq, flush=True)
        """
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=Path.cwd()
    )
    assert writer.stdout is not None
    for _ in range(50):
        result = int(writer.stdout.readline())
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()

    ledger = Ledger(tmp_path, "scope-01")
    assert ledger.seq >= result
    ledger.close()
    assert first_broken(rows(tmp_path)) is None


def test_two_processes_cannot_write_one_ledger(ledger: Ledger, tmp_path: Path) -> None:
    with pytest.raises(LedgerBusy, match=str(os.getpid())):
        Ledger(tmp_path, "scope-01")


def test_the_ledger_of_another_device_is_refused(tmp_path: Path) -> None:
    Ledger(tmp_path, "scope-01").close()

    with pytest.raises(LedgerDamaged, match="scope-01"):
        Ledger(tmp_path, "scope-02")


def test_a_result_too_large_for_a_broker_is_refused_before_it_is_a_row(
    ledger: Ledger, tmp_path: Path
) -> None:
    ledger.append(frame_result())

    with pytest.raises(RowRefused, match=str(MAX_ROW_BYTES)):
        ledger.append(frame_result(cells=2000))

    assert len(rows(tmp_path)) == 1
    assert ledger.append(frame_result()).seq == 2


@pytest.mark.parametrize("value", [float("nan"), -1.0])
def test_a_result_that_json_cannot_carry_is_refused(
    ledger: Ledger, tmp_path: Path, value: float
) -> None:
    with pytest.raises(RowRefused):
        ledger.append(frame_result(timings_ms={"infer": value}))

    assert rows(tmp_path) == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE rows SET data = CAST(replace(data, 'RBC', '') AS BLOB) WHERE seq = 3",
        "DELETE FROM rows WHERE seq = 3",
        "UPDATE rows SET sha256 = 'x' WHERE seq = 5",
    ],
)
def test_an_altered_ledger_is_not_written_to(tmp_path: Path, statement: str) -> None:
    ledger = Ledger(tmp_path, "scope-01")
    for _ in range(5):
        ledger.append(frame_result())
    ledger.close()
    with sqlite3.connect(tmp_path / "ledger.sqlite") as db:
        db.execute(statement)
    db.close()

    with pytest.raises(LedgerDamaged, match="does not follow"):
        Ledger(tmp_path, "scope-01")


def test_only_what_the_archive_has_is_pruned(ledger: Ledger, tmp_path: Path) -> None:
    stored = [ledger.append(frame_result()) for _ in range(10)]

    assert ledger.prune(keep=2) == 0  # nothing acknowledged
    write_cursor(tmp_path, Cursor(ledger.epoch, 6, "f" * 64, 1))
    assert ledger.prune(keep=2) == 0  # another hash: not our row
    write_cursor(tmp_path, Cursor("other", 6, stored[5].sha256, 1))
    assert ledger.prune(keep=2) == 0  # another ledger
    write_cursor(tmp_path, Cursor(ledger.epoch, 6, stored[5].sha256, 1))
    assert ledger.prune(keep=2) == 6
    assert [row.seq for row in rows(tmp_path)] == [7, 8, 9, 10]
    write_cursor(tmp_path, Cursor(ledger.epoch, 10, stored[9].sha256, 1))
    assert ledger.prune(keep=2) == 2
    assert ledger.append(frame_result()).seq == 11


@pytest.mark.parametrize("rows_after", [0, 2, 3])
def test_an_old_copy_of_a_ledger_is_refused(tmp_path: Path, rows_after: int) -> None:
    """Where it was copied at row 3 and the archive has 5: written on or not."""
    folder = tmp_path / "ledger"
    with closing(Ledger(folder, "scope-01")) as ledger:
        for _ in range(3):
            ledger.append(frame_result())
        copy = back_up(folder / "ledger.sqlite", tmp_path / "copy.sqlite")
        last = [ledger.append(frame_result()) for _ in range(2)][-1]
    assert copy == "ledger of 3 rows, all intact"
    for file in folder.glob("ledger.sqlite*"):
        file.unlink()
    shutil.copy(tmp_path / "copy.sqlite", folder / "ledger.sqlite")
    with closing(Ledger(folder, "scope-01")) as ledger:  # no cursor: nobody can tell
        for _ in range(rows_after):
            ledger.append(frame_result(utc=clock.utc_now()))
    write_cursor(folder, Cursor(ledger.epoch, 5, last.sha256, 1))

    for _ in range(2):  # to start again does not help
        with pytest.raises(LedgerOutdated, match="acknowledged row 5") as refused:
            Ledger(folder, "scope-01")

    assert refused.value.exit_code == 78
    assert "start with a new one" in str(refused.value)
    folder.rename(tmp_path / "lost")  # what it says to do helps
    Ledger(folder, "scope-01").close()


def test_a_cursor_that_is_behind_or_of_another_ledger_is_no_fault(
    ledger: Ledger, tmp_path: Path
) -> None:
    stored = [ledger.append(frame_result()) for _ in range(10)]
    write_cursor(tmp_path, Cursor(ledger.epoch, 9, stored[8].sha256, 1))
    assert ledger.prune(keep=1) == 9
    ledger.close()
    for cursor in (
        Cursor(ledger.epoch, 10, stored[9].sha256, 1),  # all of it
        Cursor(ledger.epoch, 4, stored[3].sha256, 1),  # a row that was pruned
        Cursor(ledger.epoch, 0, FIRST_PREVIOUS, 1),
        Cursor("another", 99, "f" * 64, 1),
    ):
        write_cursor(tmp_path, cursor)
        Ledger(tmp_path, "scope-01").close()


def test_a_full_disk_is_said_and_what_was_committed_stays(small_disk: Path) -> None:
    ledger = Ledger(small_disk, "scope-01")
    with pytest.raises(LedgerFull, match="disk is full"):
        _append_for_ever(ledger)
    last = ledger.seq

    assert ledger.make_room() == 0  # nothing is acknowledged: only the reserve goes
    assert ledger.append(frame_result(cells=1)).seq == last + 1

    ledger.close()
    stored = rows(small_disk)
    assert stored[-1].seq == last + 1
    assert first_broken(stored) is None


def test_on_a_full_disk_acknowledged_rows_make_room(small_disk: Path) -> None:
    ledger = Ledger(small_disk, "scope-01")
    stored = [ledger.append(frame_result(cells=300)) for _ in range(20)]
    cursor = Cursor(ledger.epoch, 15, stored[14].sha256, 1)
    write_cursor(small_disk, cursor)
    with pytest.raises(LedgerFull):
        _append_for_ever(ledger)

    assert ledger.make_room() == 15
    for _ in range(14):
        ledger.append(frame_result(cells=300))

    ledger.close()
    kept = rows(small_disk)
    assert kept[0].seq == 16
    assert first_broken(kept) is None


@pytest.mark.parametrize("name", ["file", "full"])
def test_a_folder_that_cannot_be_made_is_said_in_one_line(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).touch()

    with pytest.raises(LedgerDamaged, match="folder's permissions"):
        Ledger(tmp_path / name / "ledger", "scope-01")


def test_a_path_may_hold_any_character(tmp_path: Path) -> None:
    folder = tmp_path / "slide #7 100%?"
    ledger = Ledger(folder, "scope-01")
    ledger.append(frame_result())

    assert len(rows(folder)) == 1
    ledger.close()


def test_a_row_that_is_no_row_is_where_the_chain_breaks() -> None:
    nonsense = LedgerRow(3, b"{", hashlib.sha256(b"{").hexdigest())

    assert first_broken([nonsense]) == 3


def test_as_many_cells_as_may_be_said_of_a_frame_fit_a_row(ledger: Ledger) -> None:
    most = frame_result(cells=MAX_CELLS)
    shares = dict.fromkeys(("Neutrophil", "Lymphocyte", "Monocyte"), 0.1234)
    cells = tuple(
        msgspec.structs.replace(
            cell,
            box=(1800, 1100, 1900, 1199),
            label="unidentified",
            confidence=0.1234,
            probabilities=shares | {"Plasma": 0.1234},
        )
        for cell in most.cells
    )

    assert ledger.append(msgspec.structs.replace(most, cells=cells)).seq == 1


def _append_for_ever(ledger: Ledger) -> None:
    while True:
        ledger.append(frame_result(cells=300))


def test_a_ledger_does_not_start_on_a_full_disk(small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(b"x" * (9 << 20))

    with pytest.raises(LedgerFull):
        Ledger(small_disk / "ledger", "scope-01")


def test_who_shares_the_folder_by_a_group_may_write_the_index(tmp_path: Path) -> None:
    """SQLite makes its log and index with the rights of the ledger's own file."""
    before = os.umask(0o007)
    try:
        ledger = Ledger(tmp_path, "scope-01")
        ledger.append(frame_result())
    finally:
        os.umask(before)

    for name in ("ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o660, name
    ledger.close()
