from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge.artifacts.bundle import BundleRefused
from edge.engines import EngineFailed
from edge.errors import ConfigurationInvalid
from edge.frames import RawFrame
from edge.ledger.preview_file import PreviewWriter
from edge.ledger.reader import LedgerReader
from edge.ledger.writer import Ledger
from edge.pipeline.parts import Parts, read_parts
from edge.pipeline.pipeline import ExaminedFrame, Pipeline
from edge.run.composition import open_follower
from edge.run.service import RunCollaborators, Service
from edge.schema.codec import decode, encode, read_toml
from edge.schema.results import (
    Cell,
    Event,
    Filmstrip,
    Following,
    FrameResult,
    Point,
    Result,
    TrackPrediction,
)
from edge.schema.row_limits import (
    MAX_EVENTS,
    MAX_FILMSTRIPS,
    MAX_FOLLOWED_CELLS,
    MAX_ROW_BYTES,
)
from edge.settings.files import DeviceFile
from edge.settings.models import SequenceSettings
from edge.settings.run import RunSettings
from edge.settings.sources import SimulatedSettings
from edge.settings.timelapse import EventSettings, PauseSettings, TrackingSettings
from edge.simulation.microscope import SimulatedMicroscope
from edge.slide.differential import differentiate
from edge.taxonomy import TASKS
from edge.timelapse.follower import Follower
from edge.timelapse.frame_intervals import FrameIntervals
from edge.timelapse.resume_state import ResumeCells, ResumeState
from tests.conftest import frame_result, shot

TRACKING = TrackingSettings(confirm_after=1)
PIXELS = np.zeros((300, 400, 3), np.uint8)


def seen(
    boxes: list[tuple[int, int, int, int]], second: float, **changes: object
) -> ExaminedFrame:
    """A frame with cells in these boxes, 0.3 µm per pixel."""
    template = frame_result(1).cells[0]
    cells = tuple(
        msgspec.structs.replace(template, id=n, box=box) for n, box in enumerate(boxes)
    )
    fields: dict[str, object] = {
        "cells": cells,
        "monotonic_ns": int(second * 1e9),
        "width_px": 400,
        "height_px": 300,
        "pixel_size_um": 0.3,
        "locator": "l",
    }
    result = msgspec.structs.replace(frame_result(0), **(fields | changes))
    return ExaminedFrame(RawFrame(shot(int(second)), PIXELS), result)


def boxes(count: int = 12, shift: int = 0) -> list[tuple[int, int, int, int]]:
    random = np.random.default_rng(1)
    corners = random.integers(20, (300, 200), (count, 2)) + shift
    return [(x, y, x + 70, y + 70) for x, y in corners.tolist()]


def follower(**pauses: float) -> Follower:
    settings = PauseSettings(**({"reset_after_s": 60.0} | pauses))
    return Follower(
        TRACKING, FrameIntervals(settings.lost_after, settings.reset_after_s)
    )


def note(result: FrameResult) -> Following:
    assert result.following is not None
    return result.following


def test_cells_carry_the_numbers_of_their_tracks() -> None:
    following = follower()
    before = following.follow(seen(boxes(), 0))
    after = following.follow(seen(boxes(shift=9)[::-1], 1))

    numbers = [cell.track_id for cell in before.cells]
    assert len(set(numbers)) == 12
    assert [cell.track_id for cell in after.cells] == numbers[::-1]
    assert note(after).shift_um == pytest.approx((2.7, 2.7))
    assert "follow" in after.timings_ms


RUN = "20260101T000000Z-abcdef"


def left(
    tracks: list[int | None], frame: ExaminedFrame, **changes: object
) -> ResumeState:
    told = [n for n in tracks if n is not None]
    cells = ResumeCells(
        tracks=tuple(told),
        boxes=tuple(cell.box for cell in frame.result.cells),
        utc=frame.result.utc,
        monotonic_ns=frame.result.monotonic_ns,
    )
    fields: dict[str, object] = {"run": RUN, "next_track": 13, "cells": cells}
    return ResumeState(**(fields | changes))  # type: ignore[arg-type]


def test_another_process_goes_on_with_the_cells_of_the_last_frame() -> None:
    before = follower().follow(seen(boxes(), 0, run=RUN))
    numbers = [cell.track_id for cell in before.cells]
    settings = PauseSettings()
    after = Follower(
        TRACKING,
        FrameIntervals(settings.lost_after, settings.reset_after_s),
        resume=left(numbers, seen(boxes(), 0)),
    )

    again = after.follow(seen([*boxes(shift=9)[1:], (9, 9, 79, 79)], 40, run=RUN))

    assert [cell.track_id for cell in again.cells] == [*numbers[1:], 13]
    assert note(again).continuity == "reset"
    assert note(again).pause_s == 40
    assert (note(again).coasting, note(again).ended) == (1, ())


def test_cells_that_are_elsewhere_end_and_those_of_another_run_are_none() -> None:
    found = left([*range(1, 13)], seen(boxes(), 0))
    corners = np.random.default_rng(2).integers(0, (330, 230), (12, 2)).tolist()
    elsewhere = [(x, y, x + 70, y + 70) for x, y in corners]
    pace = FrameIntervals(1.8, 60.0)

    moved = Follower(TRACKING, pace, resume=found).follow(seen(elsewhere, 9, run=RUN))
    other = Follower(TRACKING, FrameIntervals(1.8, 60.0), resume=found).follow(
        seen(boxes(), 9, run="20260101T000000Z-ffffff")
    )

    assert set(note(moved).ended) == set(range(1, 13))
    assert note(moved).continuity == "new field"
    assert [cell.track_id for cell in moved.cells] == [*range(13, 25)]
    assert (note(other).continuity, note(other).ended) == ("first", ())
    assert [cell.track_id for cell in other.cells] == [*range(13, 25)]


def test_no_more_cells_are_taken_up_than_may_be_followed_now() -> None:
    parts = read_parts(sequence=SequenceSettings())
    fewer = TrackingSettings(confirm_after=1, most_tracks=3)
    following = open_follower(
        parts,
        fewer,
        PauseSettings(),
        EventSettings(),
        resume=left([*range(1, 13)], seen(boxes(), 0)),
    )

    result = [following.follow(seen(boxes(), second, run=RUN)) for second in (9, 10)]
    following.close()

    tracks = [
        [c.track_id for c in one.cells if c.track_id is not None] for one in result
    ]
    assert tracks == [[1, 2, 3], [1, 2, 3]]
    assert note(result[0]).not_followed == 9


def test_lost_frames_are_told_by_time_and_a_long_pause_begins_anew() -> None:
    following = follower()
    at = [0, 10, 20, 30, 60, 70, 80, 600, 610]

    result = [note(following.follow(seen(boxes(), second))) for second in at]

    assert [s.continuity for s in result] == [
        "first",
        *["continuous"] * 3,
        "discontinuous",
        *["continuous"] * 2,
        "reset",
        "continuous",
    ]
    assert result[7].pause_s == 520
    assert result[7].ended == ()  # they are the same cells still


def test_a_planned_change_of_the_interval_is_no_loss_and_a_missed_point_is() -> None:
    following = follower(reset_after_s=500.0)
    at = [0, 10, 20, 30, 90, 150, 210, 330, 390]
    expected = [None, 10, 10, 10, 60, 60, 60, 60, 60]  # 270 was missed
    utc = shot().utc

    result = [
        note(
            following.follow(
                seen(
                    boxes(),
                    second,
                    point=Point(index=n, due=utc, late_ms=0, expected_s=planned_s),
                )
            )
        )
        for n, (second, planned_s) in enumerate(zip(at, expected, strict=True))
    ]

    assert [s.continuity for s in result] == [
        "first",
        *["continuous"] * 6,
        "discontinuous",
        "continuous",
    ]


def test_another_field_is_said_and_ends_all_tracks() -> None:
    following = follower()
    random = np.random.default_rng(3)
    for second in range(3):
        before = following.follow(seen(boxes(), second))
    corners = random.integers(20, (300, 200), (12, 2)).tolist()

    after = following.follow(seen([(x, y, x + 30, y + 30) for x, y in corners], 3))

    assert note(after).continuity == "new field"
    assert set(note(after).ended) == {cell.track_id for cell in before.cells}


def test_another_run_ends_all_tracks_with_its_first_frame_that_is_followed() -> None:
    following = follower()
    first, second = "20260101T000000Z-000001", "20260101T000900Z-000002"
    runs = [None, first, first, None, second, second, second]

    result = [
        following.follow(
            seen(boxes(), n, run=run, status="rejected" if n == 4 else "ok")
        )
        for n, run in enumerate(runs)
    ]

    followed = [s for s in result if s.following is not None]
    assert [note(s).continuity for s in followed] == [
        "first",  # of no run, like one that was in hand when its run ended
        *["continuous"] * 3,
        "new run",
        "continuous",
    ]
    before, after = ({c.track_id for c in followed[n].cells} for n in (3, 4))
    assert set(note(followed[4]).ended) == before == set(range(1, 13))
    assert after == set(range(13, 25))
    assert note(followed[4]).next_track == 25


def test_a_rejected_frame_is_passed_over_and_makes_the_next_discontinuous() -> None:
    following = follower()
    for second in (0, 1, 2):
        following.follow(seen(boxes(), second))

    rejected = following.follow(seen([], 3, status="rejected", reason="dark"))
    after = following.follow(seen(boxes(), 4))

    assert rejected.following is None
    assert note(after).continuity == "discontinuous"


def test_nothing_is_followed_before_the_scale_is_known() -> None:
    result = follower().follow(seen(boxes(), 0, pixel_size_um=None))

    assert result.following is None
    assert result.cells[0].track_id is None


def test_a_scale_that_proves_to_be_another_is_taken_over() -> None:
    following = follower()
    scales = [0.6, 0.28, None, 0.3, 0.3]

    result = [
        following.follow(seen(boxes(shift=4 * n), n, pixel_size_um=um))
        for n, um in enumerate(scales)
    ]

    numbers = [[cell.track_id for cell in s.cells] for s in result]
    assert numbers == [numbers[0]] * len(result)
    assert note(result[-1]).shift_um == pytest.approx((1.2, 1.2))


def test_a_track_does_not_begin_on_plasma() -> None:
    frame = seen(boxes(2), 0)
    plasma = msgspec.structs.replace(frame.result.cells[0], label="Plasma")
    mixed = msgspec.structs.replace(frame.result, cells=(plasma, frame.result.cells[1]))

    result = follower().follow(ExaminedFrame(frame.raw, mixed))

    assert [cell.track_id is None for cell in result.cells] == [True, False]


@pytest.mark.parametrize(
    ("count", "strips"), [(MAX_FOLLOWED_CELLS, 0), (300, MAX_FILMSTRIPS)]
)
def test_the_fullest_row_fits_what_brokers_take(count: int, strips: int) -> None:
    cells = tuple(
        Cell(
            id=n,
            track_id=1_000_000 + n,
            box=(1800, 1100, 1900, 1199),
            label="RBC",
            ontology="CL:0000232",
            confidence=0.9999,
            probabilities=dict.fromkeys(["RBC", "WBC", "Platelet", "Plasma"], 0.2512),
            abstained=False,
            course=TrackPrediction(
                label="activation",
                probabilities=(0.2512, 0.2512, 0.2512, 0.2512),
                frames=123_456,
            ),
        )
        for n in range(count)
    )
    event = Event(
        id=1_000_000,
        track_id=1_000_000,
        change="activation",
        phase="ended",
        onset=1_000_000,
        onset_utc=frame_result().utc,
        frame=1_000_000,
        frames=1000,
        confidence=0.1234,
        box=(1800, 1100, 1900, 1199),
        reason="states are new after a pause of 100000 s",
    )
    labels = TASKS["wbc_subtype"]
    counts = Counter(dict.fromkeys(labels, 12_345))
    differential = differentiate(counts, labels, 0.1, 12)
    strip = Filmstrip(frames=tuple(range(10**6, 10**6 + 12)), jpeg=bytes(16384))
    shown = msgspec.structs.replace(event, strip=strip)
    following = Following(
        continuity="discontinuous",
        tracks=MAX_FOLLOWED_CELLS,
        ended=tuple(range(1_000_000, 1_000_000 + MAX_FOLLOWED_CELLS)),
        model="rnn-change@0123456789ab",
        classes=("steady", "swelling", "lysis", "activation"),
    )

    result = msgspec.structs.replace(
        frame_result(0),
        cells=cells,
        differential=differential,
        events=(shown,) * strips + (event,) * (MAX_EVENTS - strips),
        following=following,
    )

    assert len(encode(result)) < MAX_ROW_BYTES


def test_a_crowded_field_says_how_many_cells_are_left_out() -> None:
    many = [(x, y, x + 2, y + 2) for x in range(0, 390, 10) for y in range(0, 290, 10)]

    result = follower().follow(seen(many, 0))

    assert len(result.cells) == MAX_FOLLOWED_CELLS
    assert sum(result.counts.values()) == MAX_FOLLOWED_CELLS
    assert result.status == "degraded"
    assert f"{len(many)} cells" in (result.reason or "")


def test_a_still_image_carries_nothing_of_all_this() -> None:
    assert b"course" not in encode(frame_result(1))
    assert decode(encode(seen(boxes(1), 0).result), FrameResult).following is None


def test_the_sequence_needs_tracking_and_a_recurrent_model(
    tmp_path: Path, parts: Parts
) -> None:
    file = tmp_path / "device.toml"
    file.write_text(
        'device = "a"\n[source]\nkind = "simulated"\n[ledger]\nfolder = "l"\n'
        '[sequence]\nbundle = "b"\n'
    )
    with pytest.raises(ConfigurationInvalid, match=r"add \[tracking\]"):
        read_toml(file, DeviceFile)
    with pytest.raises(BundleRefused, match="expected a recurrent model"):
        read_parts(sequence=SequenceSettings(bundle=parts.classifier.folder))


class Slow:
    """A pipeline whose even frames take longer, so that results come out of order."""

    def __init__(self, pipeline: Pipeline, failing: int) -> None:
        self._pipeline, self._failing = pipeline, failing

    def examine(self, exposure: object) -> ExaminedFrame:
        result = self._pipeline.examine(exposure)  # type: ignore[arg-type]
        if result.raw.shot.sequence == self._failing:
            raise EngineFailed("this frame does not fit")
        threading.Event().wait(0.05 * (result.raw.shot.sequence % 2 == 0))
        return result

    def close(self) -> None:
        self._pipeline.close()


def run(
    folder: Path, parts: Parts, open_follower: Callable[[], Follower]
) -> list[Result]:
    source = SimulatedSettings(
        width_px=480,
        height_px=360,
        pixel_size_um=0.14,
        rate_hz=0,
        drift_um_per_s=20,
        hand_move_every_s=0,
        seed=5,
    )
    ledger = Ledger(folder, "scope-01")
    service = Service(
        SimulatedMicroscope(source).connect(),
        lambda: Slow(parts.open_pipeline(), failing=5),  # type: ignore[arg-type,return-value]
        ledger,
        PreviewWriter(folder, 0),
        RunSettings(workers=2),
        keep_rows=1000,
        collaborators=RunCollaborators(open_follower=open_follower),
    )
    try:
        service.run(threading.Event(), frames=10)
    finally:
        ledger.close()
    reader = LedgerReader(folder)
    rows = [decode(row.data, Result) for row in reader.rows(0, 100)]
    reader.close()
    return rows


def test_the_run_process_follows_cells_in_order_although_frames_run_in_parallel(
    tmp_path: Path, parts: Parts
) -> None:
    rows = run(
        tmp_path / "ledger",
        parts,
        lambda: open_follower(parts, TRACKING, PauseSettings(), EventSettings()),
    )

    assert [row.frame.first for row in rows] == list(range(10))
    assert rows[5].status == "rejected"
    followed = [row for row in rows if row.following is not None]
    assert len(followed) == 9
    first = {c.track_id for c in rows[0].cells} - {None}
    last = {c.track_id for c in rows[9].cells} - {None}
    assert len(first & last) > 0.7 * len(first)
    shifts = [note(row).shift_um for row in rows[1:5]]
    moved = [np.hypot(*shift) for shift in shifts if shift is not None]
    assert len(moved) == 4
    assert 0.5 < np.median(moved) < 1.0  # 0.7 µm per frame


def test_a_follower_that_cannot_be_opened_ends_the_run(
    tmp_path: Path, parts: Parts
) -> None:
    def broken() -> Follower:
        raise EngineFailed("the sequence engine is stale; build it")

    with pytest.raises(EngineFailed, match="stale"):
        run(tmp_path / "ledger", parts, broken)


def test_a_shift_that_would_fill_the_memory_is_refused() -> None:
    assert TrackingSettings(most_step_um=0.12, most_shift_um=60.0).most_step_um == 0.12
    with pytest.raises(ValueError, match="at most 500 times most_step_um"):
        TrackingSettings(most_step_um=0.1, most_shift_um=60.0)
