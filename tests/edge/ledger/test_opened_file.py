"""A file that is no longer in its place must not be written to as if it were."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from edge.ledger.opened_file import OpenedFile
from edge.ledger.rows import LEDGER_FILE, LedgerMoved
from edge.ledger.writer import Ledger
from tests.asking import DEVICE
from tests.conftest import frame_result


def move(path: Path) -> None:
    path.rename(path.with_name("moved"))


def replace(path: Path) -> None:
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    copy.replace(path)


def delete(path: Path) -> None:
    path.unlink()


def delete_and_create(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)


CHANGES = [move, replace, delete, delete_and_create]


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_is_not_the_one_that_was_opened_is_noticed(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    with path.open("rb"):  # as long as it is open, its number is not given again
        opened = OpenedFile(path)
        assert opened.is_in_place
        path.write_bytes(b"more")  # another content is no other file
        assert opened.is_in_place

        change(path)

        assert not opened.is_in_place


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", [LEDGER_FILE, f"{LEDGER_FILE}-wal"])
def test_no_row_counts_as_kept_in_a_ledger_that_is_gone(
    tmp_path: Path, change: Callable[[Path], None], name: str
) -> None:
    with closing(Ledger(tmp_path, DEVICE)) as ledger:
        ledger.append(frame_result())
        change(tmp_path / name)

        with pytest.raises(LedgerMoved, match=LEDGER_FILE):
            ledger.append(frame_result())


def test_the_end_of_a_moved_ledger_leaves_the_new_one_alone(tmp_path: Path) -> None:
    """SQLite deletes its log, by its name, when the last user closes it."""
    folder, aside = tmp_path / "ledger", tmp_path / "aside"
    old = Ledger(folder, DEVICE)
    old.append(frame_result())
    folder.rename(aside)
    new = Ledger(folder, DEVICE)
    new.append(frame_result())

    with pytest.raises(LedgerMoved):
        old.append(frame_result())
    old.close()

    new.append(frame_result())
    new.close()
    with closing(sqlite3.connect(folder / LEDGER_FILE)) as db:
        assert db.execute("SELECT max(seq) FROM rows").fetchone() == (2,)
    with closing(Ledger(aside, DEVICE)) as again:  # what was moved is whole
        assert again.seq == 2
