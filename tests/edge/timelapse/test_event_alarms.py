from __future__ import annotations

import msgspec

from edge.monitoring.alarms import ENDS_AFTER_S, Latch
from edge.schema.entries import Alarm
from edge.schema.messages import ActiveAlarm
from edge.schema.results import Event
from edge.timelapse.event_alarms import MAX_KINDS, EventAlarms, code_of
from tests.asking import START, Clock

LYSIS = Event(
    id=1,
    track_id=7,
    change="lysis",
    phase="confirmed",
    onset=12,
    onset_utc=START,
    frame=15,
    frames=4,
    confidence=0.97,
    box=(0, 0, 9, 9),
)


def event(track: int, **changes: object) -> Event:
    return msgspec.structs.replace(LYSIS, id=track, track_id=track, **changes)


class Watch:
    """Events on one side, alarms on the other."""

    def __init__(
        self, quiet_s: float = 60, active: tuple[ActiveAlarm, ...] = ()
    ) -> None:
        self.clock = Clock()
        self.stirs = EventAlarms(quiet_s, active, monotonic=self.clock.monotonic)
        self.latch = Latch(
            "run", active, monotonic=self.clock.monotonic, utc=self.clock.utc
        )

    def look(self, *events: Event, after_s: float = 1.0) -> list[Alarm]:
        self.clock.move(after_s)
        self.stirs.take(events)
        return self.latch.update(self.stirs.conditions())


def test_however_many_cells_burst_there_is_one_alarm_with_their_number() -> None:
    watch = Watch()
    told = [alarm for n in range(7, 507) for alarm in watch.look(event(n))]
    end: list[Alarm] = []
    for _ in range(100):
        end += watch.look()

    assert [(a.code, a.severity, a.until) for a in told] == [
        ("event-lysis", "red", None)
    ] * 3
    assert told[0].text.startswith("lysis of cell 7 since frame 12")
    assert "10 cells so far, the last one 16" in told[1].text
    assert "100 cells so far, the last one 106" in told[2].text
    (over,) = end
    assert over.until is not None
    assert "cell 7" in over.text
    assert "500 cells so far, the last one 506" in over.text


def test_it_is_over_after_the_quiet_time_and_not_before() -> None:
    watch = Watch(quiet_s=60)
    watch.look(event(1))
    for _ in range(8):
        assert watch.look(event(2), after_s=50) == []

    assert watch.look(after_s=59) == []
    ended = watch.look(after_s=1) + watch.look(after_s=ENDS_AFTER_S + 1)
    assert [a.until is not None for a in ended] == [True]
    (again,) = watch.look(event(3))
    assert again.until is None
    assert "so far" not in again.text


def test_each_kind_of_change_has_its_own_alarm() -> None:
    watch = Watch()

    told = watch.look(event(1), event(2, change="swelling"))

    assert [(a.code, a.severity) for a in told] == [
        ("event-lysis", "red"),
        ("event-swelling", "amber"),
    ]


def test_what_ends_is_no_alarm_and_nothing_is_where_nobody_wants_it() -> None:
    assert Watch().look(event(1, phase="ended", reason="over")) == []
    assert Watch(quiet_s=0).look(event(1)) == []


def test_an_alarm_of_an_earlier_process_ends_after_the_quiet_time() -> None:
    left = ActiveAlarm(
        severity="red", code="event-lysis", text="lysis of cell 7", since=START
    )
    watch = Watch(60, (left,))

    assert watch.look(after_s=50) == []
    assert watch.look(event(90), after_s=5) == []  # it goes on
    ended = watch.look(after_s=61) + watch.look(after_s=ENDS_AFTER_S + 1)
    (over,) = [a for a in ended if a.until is not None]
    assert over.since == START
    assert "cell 90" in over.text


def test_a_model_of_many_classes_cannot_fill_the_memory_or_break_a_code() -> None:
    watch = Watch()
    told = watch.look(*(event(n, change=f"Zustand {n} ü") for n in range(99)))

    assert len(told) == MAX_KINDS
    assert told[3].code == "event-zustand-3--"
    assert len(code_of("x" * 99)) == 32
