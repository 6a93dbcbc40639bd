from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from edge.settings.timelapse import TrackingSettings
from edge.timelapse.assignment import assign, estimate_shift
from edge.timelapse.tracker import NO_TRACK, FoundCells, Links, Tracker

FRAME_UM = (340.0, 255.0)
Places = NDArray[np.float64]


def strewn(count: int, seed: int = 0, frame: tuple[float, float] = FRAME_UM) -> Places:
    """Cells that do not lie upon each other."""
    random = np.random.default_rng(seed)
    places: Places = np.empty((0, 2))
    while len(places) < count:
        at = random.uniform((5, 5), np.array(frame) - 5)
        if len(places) == 0 or np.hypot(*(places - at).T).min() > 5:
            places = np.vstack([places, at])
    return places


def found(places: Places) -> FoundCells:
    return FoundCells(places, np.full(len(places), 7.5), np.ones(len(places), bool))


def follow(tracker: Tracker, places: Places, **told: object) -> Links:
    return tracker.follow(found(places), 1, FRAME_UM, **told)  # type: ignore[arg-type]


def test_the_assignment_is_the_cheapest_of_all() -> None:
    random = np.random.default_rng(1)
    for _ in range(20):
        before, now = random.uniform(0, 20, (2, 30, 2))
        sizes, sizes_now = random.uniform(4, 9, (2, 30))
        gates = random.uniform(2, 5, 30)

        chosen = assign(before, sizes, gates, now, sizes_now)

        apart = ((now[None] - before[:, None]) ** 2).sum(2) / gates[:, None] ** 2
        price = apart + 0.25 * np.minimum(np.log2(sizes_now / sizes[:, None]) ** 2, 4)
        price[apart > 1] = 1e6
        dense = np.hstack([price, np.where(np.eye(30) > 0, 1.25, 1e6)])
        rows, columns = linear_sum_assignment(dense)
        ours = sum(dense[t, c if c >= 0 else 30 + t] for t, c in enumerate(chosen))
        assert ours == pytest.approx(dense[rows, columns].sum())
        linked = chosen[chosen >= 0]
        assert len(set(linked.tolist())) == len(linked)


@pytest.mark.parametrize("shift", [(0.4, -1.0), (23.0, 31.0), (-48.0, 12.5)])
def test_cells_tell_how_far_the_field_moved(shift: tuple[float, float]) -> None:
    random = np.random.default_rng(2)
    wide = strewn(900, 3, (500, 400))
    before = wide[((wide > 60) & (wide < (400, 315))).all(1)]
    now = wide + shift + random.normal(0, 0.2, wide.shape)
    now = now[((now > 60) & (now < (400, 315))).all(1) & (random.random(900) < 0.8)]

    result = estimate_shift(before, now, 3.0, 60.0, np.zeros(2))

    assert result is not None
    np.testing.assert_allclose(result, shift, atol=0.15)


def test_six_hundred_cells_keep_their_numbers_while_the_stage_drifts() -> None:
    random = np.random.default_rng(4)
    cells = strewn(600, 5)
    own = random.uniform(-1.5, 1.5, cells.shape) * (random.random((600, 1)) < 0.2)
    tracker = Tracker(TrackingSettings())
    first: dict[int, int] = {}
    changed = named = 0
    for frame in range(30):
        at = cells + own * 0.5 * frame + random.normal(0, 0.15, cells.shape)
        at += np.array([0.9, -0.7]) * frame
        inside = ((at > 0) & (at < FRAME_UM)).all(1) & (random.random(600) > 0.05)
        here = np.flatnonzero(inside)

        links = follow(tracker, at[here])

        for cell, track in zip(here.tolist(), links.tracks.tolist(), strict=True):
            if track != NO_TRACK:
                named += 1
                changed += first.setdefault(cell, track) != track
    assert named > 12_000
    assert changed / named < 0.03


def test_a_cell_that_hides_for_some_frames_keeps_its_number() -> None:
    cells = strewn(80)
    tracker = Tracker(TrackingSettings(coast_frames=4))
    for _ in range(3):
        before = follow(tracker, cells)
    for _ in range(4):
        hidden = follow(tracker, cells[1:])
    again = follow(tracker, cells)

    assert before.tracks[0] in hidden.coasting
    np.testing.assert_array_equal(again.tracks, before.tracks)


def test_a_cell_missing_too_long_is_over_and_its_number_is_not_given_again() -> None:
    cells = strewn(80)
    tracker = Tracker(TrackingSettings(coast_frames=2, confirm_after=1))
    before = follow(tracker, cells)
    ended = [follow(tracker, cells[1:]).ended.tolist() for _ in range(3)]
    again = follow(tracker, cells)

    assert ended == [[], [], [before.tracks[0]]]
    assert again.tracks[0] > before.tracks.max()


def test_a_cell_is_told_only_once_it_was_found_often_enough() -> None:
    tracker = Tracker(TrackingSettings(confirm_after=3))
    cells = strewn(50)

    told = [(follow(tracker, cells).tracks != NO_TRACK).sum() for _ in range(4)]

    assert told == [0, 0, 50, 50]


def test_frames_that_show_nothing_end_no_track() -> None:
    tracker = Tracker(TrackingSettings())
    cells = strewn(100)
    for _ in range(3):
        before = follow(tracker, cells)
    dark = follow(tracker, np.zeros((0, 2)))
    poor = follow(tracker, cells[:12])
    again = follow(tracker, cells)

    assert not dark.is_new_field
    assert not poor.is_new_field
    np.testing.assert_array_equal(again.tracks, before.tracks)


def test_another_field_ends_all_tracks() -> None:
    tracker = Tracker(TrackingSettings())
    for _ in range(3):
        before = follow(tracker, strewn(300, 1))

    after = follow(tracker, strewn(300, 2))

    assert after.is_new_field
    assert after.shift_um is None
    assert set(after.ended.tolist()) == set(before.tracks.tolist())


def test_the_shift_that_is_said_holds_what_speeds_foresaw() -> None:
    tracker = Tracker(TrackingSettings(confirm_after=1))
    few, step = strewn(3), np.array([2.0, -1.0])
    for frame in range(8):  # too few to tell a shift: each has a speed of its own
        alone = follow(tracker, few + frame * step)
    cells = np.vstack([few, strewn(2, 7)])

    follow(tracker, cells + 8 * step)
    result = follow(tracker, cells + 9 * step).shift_um

    assert alone.shift_um is None
    assert result is not None
    assert result.tolist() == pytest.approx(step.tolist(), abs=0.1)


def test_who_knows_the_stage_says_so() -> None:
    tracker = Tracker(TrackingSettings(confirm_after=1))
    cells = strewn(3)
    before = follow(tracker, cells)
    moved = follow(tracker, cells + 20, shift_um=(20.0, 20.0))
    away = follow(tracker, cells + 20, is_new_field=True)

    np.testing.assert_array_equal(moved.tracks, before.tracks)
    assert away.is_new_field
    assert set(away.ended.tolist()) == set(before.tracks.tolist())


def test_beyond_the_most_tracks_the_longest_missing_make_room_then_none_begin() -> None:
    tracker = Tracker(
        TrackingSettings(most_tracks=10, confirm_after=1, coast_frames=50)
    )
    cells = strewn(40)
    before = follow(tracker, cells[:10])
    follow(tracker, cells[1:10])
    full = follow(tracker, np.vstack([cells[2:10], cells[20:25]]))

    assert full.ended.tolist() == before.tracks[:2].tolist()
    assert (full.dropped, full.not_followed) == (2, 3)
    assert tracker.live == 10


def test_after_a_long_pause_speeds_are_forgotten() -> None:
    tracker = Tracker(TrackingSettings(confirm_after=1))
    cells = strewn(60)
    drifting = np.zeros_like(cells)
    drifting[0] = 1.0
    for frame in range(6):
        before = follow(tracker, cells + frame * drifting)
    at = cells + 5 * drifting

    after = tracker.follow(found(at), None, FRAME_UM)

    np.testing.assert_array_equal(after.tracks, before.tracks)


def test_a_run_that_goes_on_gives_no_number_twice() -> None:
    first = Tracker(TrackingSettings(confirm_after=1))
    follow(first, strewn(20))
    second = Tracker(TrackingSettings(confirm_after=1), first_id=first.next_id)

    assert follow(second, strewn(20)).tracks.min() == first.next_id
