from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.delivery.delivery_monitor import DeliveryMonitor
from edge.ledger.reader import LedgerReader
from edge.ledger.writer import Ledger
from edge.monitoring.alarms import ENDS_AFTER_S, KINDS
from edge.monitoring.metrics import Meter, write_metrics
from edge.schema.entries import Alarm
from tests.asking import START, Clock

SILENT = Alarm(
    severity="red",
    code="run-silent",
    text="no process examines frames",
    advice=KINDS["run-silent"].advice,
    since=START,
)


class Place:
    """A ledger, and the lookout of a publisher that has just started."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock = folder, Clock()
        self.ledger = Ledger(folder, "scope-01")
        self.reader = LedgerReader(folder)
        self.lookout = DeliveryMonitor(folder, self.reader, self.clock.monotonic)

    def look(self, unrecorded: int = 0) -> list[Alarm]:
        """Look around after a second in which the run process and all else is well."""
        self.clock.move(1)
        figures = Meter().read(self.folder, queue=0, is_paused=False)
        write_metrics(self.folder, figures)
        return self.lookout.look(archive_is_there=True, unrecorded=unrecorded)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.reader.close()
    place.ledger.close()


def test_an_alarm_of_an_earlier_process_that_becomes_a_row_late_ends_too(
    place: Place,
) -> None:
    assert place.look() == []
    place.ledger.append(SILENT)  # it waited in the inbox until now

    told = [alarm for _ in range(int(ENDS_AFTER_S) + 2) for alarm in place.look()]

    assert [(a.code, a.since) for a in told] == [("run-silent", START)]
    assert told[0].until is not None


def test_an_alarm_is_ended_once_while_its_end_is_on_its_way(place: Place) -> None:
    place.ledger.append(SILENT)

    told = [alarm for _ in range(60) for alarm in place.look()]

    assert len(told) == 1


def test_a_flood_is_over_when_no_more_is_refused_though_some_have_no_row(
    place: Place,
) -> None:
    (begun,) = [alarm for n in range(5) for alarm in place.look(unrecorded=10 * n)]
    (over,) = [alarm for _ in range(20) for alarm in place.look(unrecorded=40)]

    assert begun.code == over.code == "requests-flooded"
    assert begun.until is None
    assert over.until is not None
