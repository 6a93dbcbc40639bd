from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import numpy as np

from edge.acquisition.pausable_source import PausableSource
from edge.ledger.cursor import Cursor, write_cursor
from edge.ledger.writer import Ledger
from edge.monitoring.alarms import ALARM_KINDS, ENDS_AFTER_S, AlarmCondition, Latch
from edge.monitoring.metrics import disk_usage, temperature_c
from edge.schema.messages import ActiveAlarm
from tests.asking import START, Clock
from tests.conftest import exposure_of, frame_result

HOT = {"hot": AlarmCondition("amber", "86 °C")}
HOTTER = {"hot": AlarmCondition("red", "96 °C")}


def latch(clock: Clock, *active: ActiveAlarm) -> Latch:
    return Latch("run", active, monotonic=clock.monotonic, utc=clock.utc)


def test_an_alarm_begins_when_its_finding_has_lasted() -> None:
    clock = Clock()
    watched = latch(clock)
    assert watched.update(HOT) == []
    clock.move(ALARM_KINDS["hot"].after_s - 1)
    assert watched.update(HOT) == []
    clock.move(2)

    (alarm,) = watched.update(HOT)
    assert (alarm.severity, alarm.text, alarm.until) == ("amber", "86 °C", None)
    assert alarm.since == START
    assert alarm.advice == ALARM_KINDS["hot"].advice
    assert watched.update(HOT) == []  # once


def test_a_finding_that_comes_and_goes_is_no_alarm() -> None:
    clock = Clock()
    watched = latch(clock)
    for _ in range(20):
        assert watched.update(HOT) == []
        clock.move(6)
        assert watched.update({}) == []
        clock.move(6)


def test_an_alarm_that_turns_red_is_told_again_and_one_that_turns_amber_is_not() -> (
    None
):
    clock = Clock()
    watched = latch(clock)
    watched.update(HOT)
    clock.move(11)
    watched.update(HOT)

    (red,) = watched.update(HOTTER)
    assert (red.severity, red.since) == ("red", START)
    assert watched.update(HOT) == []


def test_an_alarm_ends_only_when_nothing_was_found_for_a_while() -> None:
    clock = Clock()
    watched = latch(clock)
    watched.update(HOT)
    clock.move(11)
    watched.update(HOT)
    clock.move(ENDS_AFTER_S - 1)
    assert watched.update({}) == []
    watched.update(HOT)
    clock.move(ENDS_AFTER_S + 1)

    (over,) = watched.update({})
    assert over.until == clock.now
    assert watched.active == []


def test_what_an_earlier_process_began_is_ended_by_the_next() -> None:
    clock = Clock()
    before = ActiveAlarm(severity="red", code="no-frames", text="x", since=START)
    others = ActiveAlarm(severity="red", code="archive-away", text="x", since=START)
    clock.move(100)
    watched = latch(clock, before, others)
    clock.move(ENDS_AFTER_S + 1)

    (over,) = watched.update({})
    assert (over.code, over.since) == ("no-frames", START)
    assert over.until == START + timedelta(seconds=111)


def test_the_hottest_zone_counts_and_broken_ones_do_not(tmp_path: Path) -> None:
    assert temperature_c(tmp_path) is None
    for number, text in enumerate(["41500\n", "52000\n", "", "nonsense", "-256000"]):
        (tmp_path / f"thermal_zone{number}").mkdir()
        (tmp_path / f"thermal_zone{number}" / "temp").write_text(text)

    assert temperature_c(tmp_path) == 52.0


def test_the_disk_is_measured_as_df_does(small_disk: Path) -> None:
    free, used = disk_usage(small_disk)
    (small_disk / "filler").write_bytes(b"x" * (6 << 20))
    less, more = disk_usage(small_disk)

    assert used == 0
    assert free - less == 6 << 20
    assert abs(more - 0.5) < 0.01


def test_room_that_deleted_rows_left_in_the_ledger_is_free(small_disk: Path) -> None:
    """Else the alarm of a full disk would go on when the archive has all rows."""
    ledger = Ledger(small_disk, "scope-01")
    rows = [ledger.append(frame_result(cells=300)) for _ in range(60)]
    before, _ = disk_usage(small_disk, ledger.spare_bytes)
    write_cursor(small_disk, Cursor(ledger.epoch, 60, rows[-1].sha256, 1))

    ledger.prune(keep=1)

    after, used = disk_usage(small_disk, ledger.spare_bytes)
    deleted = sum(len(row.data) for row in rows[:-1])
    assert after - before > 0.8 * deleted
    assert used < disk_usage(small_disk)[1]
    ledger.close()


class _Numbers:
    is_live = True

    def __init__(self) -> None:
        self.given = 0

    def read(self, timeout_s: float) -> object:
        self.given += 1
        return exposure_of(np.zeros((4, 4, 3), np.uint8), self.given)

    def close(self) -> None:
        pass


def test_pausing_twice_in_a_row_loses_no_frame_from_the_count() -> None:
    source = PausableSource(_Numbers())  # type: ignore[arg-type]
    gaps: list[tuple[int, int]] = []

    def read() -> None:
        item = source.read(0.1)
        if item is not None and hasattr(item, "missed"):
            gaps.append((item.first, item.missed or 0))

    for pattern in ("gppg", "ppg", "gpg", "gg"):
        for step in pattern:
            if step == "p":
                source.pause()
            else:
                source.resume()
            read()

    assert sum(missed for _, missed in gaps) == 5


def test_the_guide_to_mqtt_has_a_line_for_every_alarm() -> None:
    guide = Path(__file__).parents[3] / "docs" / "mqtt.md"
    table = re.findall(r"^\| `([a-z-]+)` \| (?:amber|red)", guide.read_text(), re.M)

    assert sorted(table) == sorted(ALARM_KINDS)
