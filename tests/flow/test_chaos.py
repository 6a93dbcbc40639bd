"""The comparison of `tests.chaos` notices each way in which a row can go wrong."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from edge.ledger.rows import LedgerRow
from edge.ledger.writer import Ledger
from tests.chaos.report import Findings
from tests.chaos.witness import WitnessFile, compare, read_witness
from tests.conftest import frame_result

WHOLE = {"lost": 0, "altered": 0, "doubled": 0, "disordered": 0, "unwitnessed": 0}


def _row(seq: int, text: str = "") -> LedgerRow:
    data = b'{"seq":%d,"text":"%s"}' % (seq, text.encode())
    return LedgerRow(seq, data, hashlib.sha256(data).hexdigest())


ROWS = [_row(seq) for seq in range(1, 7)]


@pytest.mark.parametrize(
    ("archived", "expected"),
    [
        pytest.param(ROWS[:2] + ROWS[3:], {"lost": 1}, id="one in between is lost"),
        pytest.param(ROWS[:-1], {"lost": 1}, id="the last is lost"),
        pytest.param([], {"lost": 6}, id="all are lost"),
        pytest.param(
            [*ROWS[:5], _row(6, "other")], {"altered": 1}, id="altered, hash fits"
        ),
        pytest.param(
            [*ROWS[:5], replace(ROWS[5], sha256="0" * 64)],
            {"altered": 1},
            id="only the hash is altered",
        ),
        pytest.param([*ROWS, ROWS[5]], {"doubled": 1}, id="doubled"),
        pytest.param(
            [*ROWS[:2], ROWS[3], ROWS[2], *ROWS[4:]], {"disordered": 1}, id="disorder"
        ),
        pytest.param([*ROWS, _row(7)], {"unwitnessed": 1}, id="nobody wrote it"),
    ],
)
def test_what_is_wrong_is_counted(
    archived: list[LedgerRow], expected: dict[str, int]
) -> None:
    found = compare(ROWS, archived)

    assert {name: getattr(found, name) for name in WHOLE} == WHOLE | expected
    assert not found.is_whole(writer_kills=0)
    assert not Findings(comparison=found).is_whole


def test_what_is_whole_is_whole() -> None:
    assert compare(ROWS, ROWS).is_whole(writer_kills=0)
    assert Findings(comparison=compare(ROWS, ROWS)).is_whole
    assert not Findings(comparison=compare(ROWS, ROWS), holes=1).is_whole
    assert not compare(ROWS, ROWS, foreign=1).is_whole(writer_kills=0)


def test_a_kill_of_the_writer_explains_one_row_that_no_witness_saw() -> None:
    assert compare(ROWS[:3] + ROWS[4:], ROWS).is_whole(writer_kills=1)
    assert not compare(ROWS[:2] + ROWS[4:], ROWS).is_whole(writer_kills=1)


def test_the_witness_holds_the_bytes_of_the_ledger_over_a_kill(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger", "scope-01")
    rows = [ledger.append(frame_result(cells=n)) for n in range(3)]
    ledger.close()
    path = tmp_path / "witness"
    witness = WitnessFile(path)
    for row in rows[:2]:
        witness.add(row)
    witness.close()
    with path.open("ab") as file:
        file.write(b"3 abc")  # killed within a line

    witness = WitnessFile(path)
    witness.add(rows[2])
    witness.close()

    assert read_witness(path) == rows
