from __future__ import annotations

from pathlib import Path

import pytest

from edge.ledger.cursor import LedgerBusy
from edge.ledger.reader import LedgerReader
from edge.ledger.rows import LedgerDamaged, first_broken
from edge.ledger.writer import Ledger
from edge.pipeline.empty_results import STOPPED
from edge.run.crash_record import failure_of, record_failure
from edge.schema.codec import decode
from edge.schema.results import Result
from tests.conftest import frame_result

HUNG = {"SERVICE_RESULT": "watchdog", "EXIT_CODE": "killed", "EXIT_STATUS": "ABRT"}


def _ledger(folder: Path, **last: object) -> Path:
    ledger = Ledger(folder / "ledger", "scope-01")
    ledger.append(frame_result())
    if last:
        ledger.append(frame_result(**last))
    ledger.close()
    return folder / "ledger"


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        (HUNG, "it hung (systemd: watchdog, killed ABRT)"),
        (
            {"SERVICE_RESULT": "signal", "EXIT_CODE": "killed", "EXIT_STATUS": "KILL"},
            "it was killed (systemd: signal, killed KILL)",
        ),
        (
            {
                "SERVICE_RESULT": "exit-code",
                "EXIT_CODE": "exited",
                "EXIT_STATUS": "78",
            },
            "it gave up (systemd: exit-code, exited 78)",
        ),
        ({"SERVICE_RESULT": "resources"}, "it could not be started"),
        ({"SERVICE_RESULT": "of-tomorrow"}, "it failed (systemd: of-tomorrow"),
    ],
)
def test_what_systemd_knows_becomes_a_reason(
    environment: dict[str, str], says: str
) -> None:
    failure = failure_of(environment)

    assert failure is not None
    assert failure.startswith(STOPPED)
    assert says in failure


@pytest.mark.parametrize("environment", [{}, {"SERVICE_RESULT": "success"}])
def test_a_service_that_ended_in_order_failed_in_nothing(
    environment: dict[str, str],
) -> None:
    assert failure_of(environment) is None


def test_a_death_becomes_the_next_row_of_the_chain(tmp_path: Path) -> None:
    folder = _ledger(tmp_path)

    row = record_failure(folder, failure_of(HUNG) or "")

    reader = LedgerReader(folder)
    rows = reader.rows(0, 10)
    reader.close()
    assert row == rows[-1]
    assert first_broken(rows) is None
    result = decode(rows[-1].data, Result)
    assert (result.status, result.seq) == ("gap", 2)
    assert "it hung" in (result.reason or "")


def test_who_fails_at_every_start_says_so_once(tmp_path: Path) -> None:
    folder = _ledger(tmp_path)

    rows = [record_failure(folder, failure_of(HUNG) or "") for _ in range(3)]

    assert [row is not None for row in rows] == [True, False, False]


def test_what_the_process_said_itself_is_not_said_again(tmp_path: Path) -> None:
    folder = _ledger(tmp_path, status="gap", reason="acquisition stopped: disk full")

    assert record_failure(folder, failure_of(HUNG) or "") is None


def test_a_ledger_at_work_is_left_alone(tmp_path: Path) -> None:
    folder = _ledger(tmp_path)
    running = Ledger(folder, "scope-01")

    with pytest.raises(LedgerBusy):
        record_failure(folder, "")
    running.close()


def test_without_a_ledger_none_is_made(tmp_path: Path) -> None:
    with pytest.raises(LedgerDamaged):
        record_failure(tmp_path / "none", "")
    assert not (tmp_path / "none").exists()
