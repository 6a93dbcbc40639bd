from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta, timezone

import msgspec
import numpy as np
import pytest

from edge.errors import ConfigurationInvalid
from edge.schema.results import Event
from edge.settings.timelapse import EventSettings
from edge.taxonomy import TASKS
from edge.timelapse.change_events import ChangeDetector, FrameTime, alarm_of

CLASSES = TASKS["change"]
START = datetime(2026, 1, 1, tzinfo=timezone.utc)
STEADY = (0.97, 0.01, 0.01, 0.01)


def saying(change: str, share: float) -> tuple[float, ...]:
    """Probabilities where `change` has this share and steady the rest."""
    row = np.zeros(4)
    row[CLASSES.index(change)] = share
    row[0] += 1 - share
    return tuple(row)


def watch(
    course: Iterable[tuple[float, ...]],
    changes: ChangeDetector | None = None,
    age: int = 100,
) -> list[Event]:
    """Follow one cell, number 7, through the frames of a course."""
    changes = changes or ChangeDetector(CLASSES, EventSettings())
    course = list(course)
    told: list[Event] = []
    for frame, row in enumerate(course):
        told += changes.add_frame(
            FrameTime(frame, START + timedelta(seconds=frame)),
            np.array([7]),
            np.array([row], np.float32),
            np.array([age + frame]),
            [(0, 0, 9, 9)],
        )
    return told


def test_an_event_is_told_once_it_is_sure_with_the_frame_that_showed_it_first() -> None:
    course = [STEADY] * 5 + [saying("lysis", 0.6)] + [saying("lysis", 0.99)] * 6

    (event,) = watch(course)

    assert (event.change, event.phase, event.track_id) == ("lysis", "confirmed", 7)
    assert event.onset == 5
    assert event.onset_utc == START + timedelta(seconds=5)
    assert event.frame == 7


def test_what_passes_is_never_told() -> None:
    blink = [STEADY] * 3 + [saying("lysis", 0.95)] * 2 + [STEADY] * 9
    doubt = [STEADY] * 3 + [saying("swelling", 0.7)] * 20

    assert watch(blink) == []
    assert watch(doubt) == []


def test_a_model_that_leans_to_a_change_is_believed_only_when_it_rises() -> None:
    leaning = [saying("activation", 0.8)] * 60
    wavering = [saying("activation", 0.88)] * 4 + leaning

    (event,) = watch([*leaning, *wavering, *[saying("activation", 0.99)] * 6])

    assert event.onset == 124


def test_a_change_too_slow_to_be_dated_is_never_told() -> None:
    odds = np.linspace(-4, 4, 200)

    assert watch(saying("swelling", float(1 / (1 + np.exp(-o)))) for o in odds) == []


def test_an_event_is_not_over_for_one_bad_frame_but_for_several() -> None:
    sure = [*[STEADY] * 3, *[saying("activation", 0.99)] * 5]
    one = watch([*sure, STEADY, *sure[3:]])
    several = watch([*sure, *[STEADY] * 4])

    assert [e.phase for e in one] == ["confirmed"]
    assert [e.phase for e in several] == ["confirmed", "ended"]
    assert several[1].id == several[0].id
    assert several[1].reason == "the cell is as before"


def test_lysis_takes_the_place_of_swelling_once_it_is_sure() -> None:
    swelling = [*[STEADY] * 3, *[saying("swelling", 0.95)] * 5]
    blink = watch([*swelling, saying("lysis", 0.9), *swelling[3:]])
    burst = watch([*swelling, *[saying("lysis", 0.99)] * 4])

    assert [e.change for e in blink] == ["swelling"]
    assert [(e.change, e.phase) for e in burst] == [
        ("swelling", "confirmed"),
        ("swelling", "ended"),
        ("lysis", "confirmed"),
    ]
    assert burst[1].reason == "lysis took its place"
    assert burst[2].onset == 8


def test_a_young_state_is_not_believed() -> None:
    course = [STEADY, *[saying("lysis", 0.99)] * 3]

    assert watch(course, age=1) == []
    assert len(watch(course, age=10)) == 1


def test_an_event_ends_with_its_track() -> None:
    changes = ChangeDetector(CLASSES, EventSettings())
    (begun,) = watch([STEADY, *[saying("lysis", 0.99)] * 3], changes)

    (ended,) = changes.end([5, 7, 9], "the cell is not seen any more")

    assert (ended.id, ended.phase) == (begun.id, "ended")
    assert ended.reason == "the cell is not seen any more"
    assert changes.end([7], "again") == []


def test_numbers_of_events_are_not_given_twice() -> None:
    changes = ChangeDetector(CLASSES, EventSettings(), first_id=4)
    sure, over = [saying("lysis", 0.99)] * 4, [STEADY] * 6

    told = watch([*over, *sure, *over, *sure], changes)

    assert [e.id for e in told] == [4, 4, 5]


def test_a_cell_that_moves_otherwise_is_an_event_too_except_where_nobody_can_tell() -> (
    None
):
    def told(row: tuple[float, float, float]) -> list[str]:
        changes = ChangeDetector(TASKS["timelapse"], EventSettings())
        events = []
        for frame in range(9):
            now = (0.9, 0.05, 0.05) if frame < 3 else row
            events += changes.add_frame(
                FrameTime(frame, START),
                np.array([1]),
                np.array([now], np.float32),
                np.array([50]),
                [(0, 0, 9, 9)],
            )
        return [e.change for e in events if e.phase == "confirmed"]

    assert told((0.01, 0.01, 0.98)) == []
    assert told((0.01, 0.98, 0.01)) == ["flipping"]


def test_lysis_is_a_red_alarm_and_an_end_is_none() -> None:
    (event,) = watch([STEADY, *[saying("lysis", 0.99)] * 3])
    ended = msgspec.structs.replace(event, phase="ended", reason="over")

    assert alarm_of(event) == (
        "red",
        "lysis of cell 7 since frame 1, 00:00:01 UTC, 99% sure",
    )
    assert alarm_of(msgspec.structs.replace(event, change="swelling"))[0] == "amber"  # type: ignore[index]
    assert alarm_of(ended) is None


def test_thresholds_out_of_order_are_refused() -> None:
    with pytest.raises((ValueError, ConfigurationInvalid), match="rising order"):
        EventSettings(begin_at=0.9, confirm_at=0.8)
    with pytest.raises(ValueError, match="nothing is ever confirmed"):
        EventSettings(confirm_frames=5, doubt_frames=4)
