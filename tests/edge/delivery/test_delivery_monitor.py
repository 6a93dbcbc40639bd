from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.delivery.delivery_monitor import DeliveryMonitor
from edge.ledger.reader import LedgerReader
from edge.ledger.writer import Ledger
from edge.monitoring.alarms import ALARM_KINDS, ENDS_AFTER_S
from edge.monitoring.metrics import Meter, write_metrics
from edge.schema.entries import Alarm
from tests.asking import START, Clock

SILENT = Alarm(
    severity="red",
    code="run-silent",
    text="no process examines frames",
    advice=ALARM_KINDS["run-silent"].advice,
    since=START,
)


class Device:
    """A ledger, and the delivery monitor of a publisher that has just started."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock = folder, Clock()
        self.ledger = Ledger(folder, "scope-01")
        self.reader = LedgerReader(folder)
        self.monitor = DeliveryMonitor(folder, self.reader, self.clock.monotonic)

    def update(self, unrecorded: int = 0) -> list[Alarm]:
        """Update the alarms after a second in which the run process works."""
        self.clock.move(1)
        metrics = Meter().read(self.folder, queue=0, is_paused=False)
        write_metrics(self.folder, metrics)
        return self.monitor.update_alarms(
            archive_is_online=True, unrecorded_requests=unrecorded
        )


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    device = Device(tmp_path)
    yield device
    device.reader.close()
    device.ledger.close()


def test_an_alarm_of_an_earlier_process_that_becomes_a_row_late_ends_too(
    device: Device,
) -> None:
    assert device.update() == []
    device.ledger.append(SILENT)  # it waited in the inbox until now

    changes = [alarm for _ in range(int(ENDS_AFTER_S) + 2) for alarm in device.update()]

    assert [(a.code, a.since) for a in changes] == [("run-silent", START)]
    assert changes[0].until is not None


def test_an_alarm_is_ended_once_while_its_end_is_on_its_way(device: Device) -> None:
    device.ledger.append(SILENT)

    changes = [alarm for _ in range(60) for alarm in device.update()]

    assert len(changes) == 1


def test_a_flood_is_over_when_no_more_is_refused_though_some_have_no_row(
    device: Device,
) -> None:
    (begun,) = [alarm for n in range(5) for alarm in device.update(unrecorded=10 * n)]
    (over,) = [alarm for _ in range(20) for alarm in device.update(unrecorded=40)]

    assert begun.code == over.code == "requests-flooded"
    assert begun.until is None
    assert over.until is not None
