from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.engines import EngineFailed, RecurrentEngine
from edge.engines.opening import open_engine
from edge.frames import Exposure, RawFrame
from edge.pipeline.parts import Parts, read_parts
from edge.run.composition import open_follower
from edge.schema.results import Event, FrameResult
from edge.settings.models import SequenceSettings
from edge.settings.sources import SimulatedSettings
from edge.settings.timelapse import EventSettings, PauseSettings, TrackingSettings
from edge.simulation.microscope import SimulatedMicroscope
from edge.timelapse.change_events import FrameTime
from edge.timelapse.follower import Follower
from edge.timelapse.frame_intervals import FrameIntervals
from edge.timelapse.sequence_model import FollowedFrame, SequenceModel
from edge.timelapse.tracker import NO_TRACK, Links
from tests.conftest import shot
from tests.edge.timelapse.test_follower import seen

UM = 0.14
NO_TRACKS = np.zeros(0, np.int64)


@pytest.fixture(scope="module")
def recurrent() -> Parts:
    """The shipped bundles, the recurrent one among them."""
    return read_parts(sequence=SequenceSettings())


@pytest.fixture
def model(recurrent: Parts) -> Iterator[SequenceModel]:
    assert recurrent.sequence is not None
    opened = SequenceModel(
        recurrent.sequence,
        open_engine(recurrent.sequence),
        recurrent.profile,
        EventSettings(),
        max_cells=20,
        max_batch=128,
        memory_frames=8,
    )
    yield opened
    opened.close()


def view(
    number: int = 0, *, is_field: bool = False, is_late: bool = False
) -> FollowedFrame:
    pixels = np.full((240, 320, 3), 200, np.uint8)
    return FollowedFrame(RawFrame(shot(number), pixels), UM, is_field, is_late)


def links(
    *tracks: int, coasting: dict[int, tuple[float, float]] | None = None
) -> Links:
    away = coasting or {}
    return Links(
        np.array(tracks, np.int64),
        np.array(list(away), np.int64),
        np.array(list(away.values())).reshape(-1, 2) * UM,
        NO_TRACKS,
    )


def boxes(*sides: tuple[int, int, int]) -> NDArray[np.float32]:
    """Square boxes around (x, y), of a side."""
    return np.array(
        [[x - s / 2, y - s / 2, x + s / 2, y + s / 2] for x, y, s in sides], np.float32
    ).reshape(-1, 4)


def test_the_window_of_a_cell_stays_as_large_as_it_was_at_first(
    model: SequenceModel,
) -> None:
    _, before = model._windows(view(), boxes((160, 120, 50)), links(1))
    _, after = model._windows(view(), boxes((162, 120, 70)), links(1))

    assert before.tolist() == [[110, 70, 210, 170]]  # twice the cell
    assert after.tolist() == [[112, 70, 212, 170]]


def test_a_platelet_has_room_to_spread(model: SequenceModel) -> None:
    _, windows = model._windows(view(), boxes((160, 120, 18)), links(1))

    assert windows[0, 2] - windows[0, 0] == round(9.0 / UM)


def test_a_cell_not_found_is_looked_at_where_it_should_be(
    model: SequenceModel,
) -> None:
    model.add_frame(view(0), boxes((160, 120, 50)), links(4))
    tracks, windows = model._windows(
        view(1), boxes(), links(coasting={4: (150.0, 118.0)})
    )
    gone, _ = model._windows(view(1), boxes(), links(coasting={4: (10.0, 118.0)}))

    assert tracks.tolist() == [4]
    assert windows.tolist() == [[100, 68, 200, 168]]
    assert gone.tolist() == []  # the border of the frame cuts it


def test_of_a_cell_that_the_border_cuts_nothing_is_said(model: SequenceModel) -> None:
    predictions, _ = model.add_frame(
        view(),
        boxes((24, 120, 50), (160, 120, 50), (90, 90, 50)),
        links(1, 2, NO_TRACK),
    )

    assert list(predictions) == [2]


def test_a_cell_that_comes_in_is_measured_once_all_of_it_is_there(
    model: SequenceModel,
) -> None:
    """The box of what is cut ends up to six pixels before the border does."""
    cut = np.array([[130, 212, 190, 234]], np.float32)  # of 240
    predictions, _ = model.add_frame(view(0), cut, links(1))
    tracks, windows = model._windows(view(1), boxes((160, 195, 60)), links(1))

    assert predictions == {}
    assert tracks.tolist() == [1]
    assert windows.tolist() == [[100, 135, 220, 255]]


def test_a_course_says_how_long_and_whether_without_a_break(
    model: SequenceModel,
) -> None:
    both, one = boxes((80, 120, 50), (200, 120, 50)), boxes((80, 120, 50))
    model.add_frame(view(0), both, links(1, 2))
    model.add_frame(view(1), one, links(1))
    back, _ = model.add_frame(view(2), both, links(1, 2))
    late, _ = model.add_frame(view(3, is_late=True), both, links(1, 2))

    assert [(c.frames, c.is_discontinuous) for c in back.values()] == [
        (3, False),
        (2, True),
    ]
    assert all(course.is_discontinuous for course in late.values())
    for course in late.values():
        assert sum(course.probabilities) == pytest.approx(1, abs=1e-3)


def test_tracks_that_are_over_are_forgotten(model: SequenceModel) -> None:
    for number in range(200):
        place = boxes((160, 120, 50))
        model.add_frame(view(number), place, links(number))
        model.end([number], "over")

    assert model.remembered == 0
    assert model._window_px == model._last_step == {}


def test_while_nothing_happens_memory_goes_back_only_so_far(
    model: SequenceModel,
) -> None:
    ages = []
    for number in range(40):
        predictions, _ = model.add_frame(view(number), boxes((160, 120, 50)), links(1))
        ages.append(predictions[1].frames)

    assert ages[:8] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert min(ages[8:]) >= 4  # the other memory speaks, and is no child
    assert max(ages) == 8
    assert model.remembered <= 2


def run(recurrent: Parts, source: SimulatedSettings, frames: int) -> list[FrameResult]:
    """Examine and follow; the camera waits, so that the clock does not matter."""
    camera = SimulatedMicroscope(source, sleep=lambda _s: None)
    pipeline = recurrent.open_pipeline()
    follower = open_follower(
        recurrent, TrackingSettings(), PauseSettings(), EventSettings()
    )
    result = []
    for number in range(frames):
        taken = replace(
            shot(number, source.pixel_size_um),
            monotonic_ns=round(number / source.rate_hz * 1e9),
        )
        raw = RawFrame(taken, camera.render(number))
        seen = pipeline.examine(Exposure(taken, lambda raw=raw: raw))  # type: ignore[misc]
        result.append(follower.follow(seen))
    follower.close()
    pipeline.close()
    return result


STILL = SimulatedSettings(
    width_px=340,
    height_px=260,
    pixel_size_um=UM,
    rate_hz=0.1,
    drift_um_per_s=0.002,
    hand_move_every_s=0,
    seed=11,
)


def test_cells_that_burst_are_told_with_their_onset(recurrent: Parts) -> None:
    source = SimulatedSettings(
        **{f: getattr(STILL, f) for f in STILL.__struct_fields__}
        | {"changing": 0.9, "changing_within_h": 0.08, "change_takes_s": 50.0}
    )
    microscope = SimulatedMicroscope(source)

    result = run(recurrent, source, 36)

    told = [e for s in result for e in s.events if e.phase == "confirmed"]
    whole = {c.id: c.box for c in microscope.truth(15) if is_inside(c.box, source)}
    bursts = [
        (whole[c.cell], int(np.ceil(c.onset_s / 10)))
        for c in microscope.changes()
        if c.change == "lysis" and c.cell in whole and 80 < c.onset_s < 280
    ]
    assert len(bursts) >= 3
    assert all(e.strip and e.strip.frames[-1] == e.frame for e in told[:3])  # type: ignore[union-attr]
    found = [any(is_of(e, box, at) for e in told) for box, at in bursts]
    assert sum(found) >= 0.75 * len(found)


def is_inside(
    box: tuple[float, float, float, float], source: SimulatedSettings
) -> bool:
    return (
        min(box[:2]) > 15
        and box[2] < source.width_px - 15
        and box[3] < source.height_px - 15
    )


def is_of(event: Event, box: tuple[float, float, float, float], frame: int) -> bool:
    x = (event.box[0] + event.box[2] - box[0] - box[2]) / 2
    y = (event.box[1] + event.box[3] - box[1] - box[3]) / 2
    is_there = event.change == "lysis" and np.hypot(x, y) < 25
    return is_there and abs(event.onset - frame) <= 2


def test_a_whole_field_is_one_track_and_keeps_its_memory() -> None:
    parts = read_parts(sequence=SequenceSettings(), finds_cells=False)

    result = run(parts, STILL, 6)

    numbers = [cell.track_id for s in result for cell in s.cells]
    assert numbers == [None, 1, 1, 1, 1, 1]  # a number once it was found twice
    course = result[-1].cells[0].course
    assert course
    assert course.frames == 5  # type: ignore[union-attr]


def test_what_goes_on_ends_with_the_run(recurrent: Parts) -> None:
    following = open_follower(
        recurrent, TrackingSettings(confirm_after=1), PauseSettings(), EventSettings()
    )
    model, cell = following._model, [(100, 100, 150, 150)]
    assert model is not None
    following.follow(seen(cell, 0, run="20260101T000000Z-000001"))
    for frame in range(9):  # cell 1 bursts
        share = 0.97 if frame > 4 else 0.01
        row = np.array([[1 - share - 0.02, 0.01, share, 0.01]], np.float32)
        model._detector.add_frame(
            FrameTime(frame, shot(frame).utc),
            np.array([1]),
            row,
            np.array([50 + frame]),
            [(0, 0, 9, 9)],
        )
    assert model._detector.is_open(1)

    after = following.follow(seen(cell, 1, run="20260101T000900Z-000002"))

    assert [(e.track_id, e.phase, e.reason) for e in after.events] == [
        (1, "ended", "another run was started")
    ]
    assert after.cells[0].track_id == 2
    course = after.cells[0].course
    assert course
    assert course.frames == 1  # type: ignore[union-attr]
    assert model.remembered == 2  # both memories of the one cell that there is
    following.close()


class Breaking:
    """A recurrent engine that fails while it is broken."""

    def __init__(self, engine: RecurrentEngine) -> None:
        self._engine, self.is_broken = engine, False

    def __getattr__(self, name: str) -> Any:
        if self.is_broken:
            raise EngineFailed("the GPU stopped answering")
        return getattr(self._engine, name)


def test_what_goes_on_ends_where_the_model_failed(recurrent: Parts) -> None:
    assert recurrent.sequence is not None
    engine = Breaking(open_engine(recurrent.sequence))
    model = SequenceModel(
        recurrent.sequence,
        engine,  # type: ignore[arg-type]
        recurrent.profile,
        EventSettings(),
        max_cells=20,
        max_batch=128,
    )
    following = Follower(
        TrackingSettings(confirm_after=1), FrameIntervals(1.8, 60.0), model
    )
    following.follow(seen([(100, 100, 150, 150)], 0))
    for frame in range(9):  # cell 1 bursts
        share = 0.97 if frame > 4 else 0.01
        row = np.array([[1 - share - 0.02, 0.01, share, 0.01]], np.float32)
        moment = FrameTime(frame, shot(frame).utc)
        model._detector.add_frame(
            moment, np.array([1]), row, np.array([50 + frame]), [(0, 0, 9, 9)]
        )
    assert model._detector.is_open(1)

    engine.is_broken = True
    with pytest.raises(EngineFailed):
        following.follow(seen([(100, 100, 150, 150)], 1))
    engine.is_broken = False
    after = following.follow(seen([(100, 100, 150, 150)], 2))

    assert [(e.phase, e.reason) for e in after.events] == [
        ("ended", "states are new after a failure of the model")
    ]
    course = after.cells[0].course
    assert course
    assert course.frames == 1  # type: ignore[union-attr]
    following.close()
