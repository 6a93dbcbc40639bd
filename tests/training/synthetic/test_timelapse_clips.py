from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge.taxonomy import TASKS
from training.data.clips import Clips
from training.data.rows import DataInvalid
from training.synthetic.nuisance_drift import STILL, Drift
from training.synthetic.timelapse_clips import simulated_timelapse

NAMES = TASKS["change"]
Values = NDArray[np.float64]


def density_of(clips: Clips) -> Values:
    """Natural optical density (N, T, S, S) above the ground, all channels together."""
    density = -np.log((clips.pixels + 0.5) / 255.5)
    ground = np.median(density[:, :, :3], axis=(2, 3), keepdims=True)
    above: Values = (density - ground).sum(axis=-1)
    return above


def area_of(density: Values) -> Values:
    """Pixels that are at least half as dense as the densest of their frame."""
    densest = np.quantile(density, 0.98, axis=(2, 3), keepdims=True)
    area: Values = (density > densest / 2).sum(axis=(2, 3))
    return area


def ragged(density: Values) -> float:
    """Perimeter squared over area of the outline in one frame (S, S)."""
    mask = (density > 0.08).astype(np.uint8)
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    largest = max(outlines, key=cv2.contourArea)
    return float(cv2.arcLength(largest, True) ** 2 / cv2.contourArea(largest))


def of(clips: Clips, change: str) -> Clips:
    chosen = [i for i, row in enumerate(clips.rows) if row.label == change]
    rows = tuple(clips.rows[i] for i in chosen)
    return Clips(clips.pixels[chosen], clips.classes[chosen], rows)


def told_by(no: Values, yes: Values) -> float:
    """How often a `yes` is larger than a `no`: 0.5 tells nothing, 1.0 everything."""
    return float((yes[:, None] > no[None]).mean())


@pytest.fixture(scope="module")
def still() -> Clips:
    return simulated_timelapse(64, 14, 80, seed=1, drift=STILL)


@pytest.fixture(scope="module")
def moving() -> Clips:
    return simulated_timelapse(160, 12, 32, seed=2)


def test_clips_come_with_a_class_per_frame_and_a_row_each(moving: Clips) -> None:
    assert moving.pixels.shape == (160, 12, 32, 32, 3)
    assert moving.pixels.dtype == np.uint8
    assert moving.classes.shape == (160, 12)
    assert moving.classes.dtype == np.int64
    assert [row.label for row in moving.rows[:4]] == list(NAMES)
    assert len({row.group for row in moving.rows}) == 160
    assert {row.frames for row in moving.rows} == {12}
    assert {row.licence for row in moving.rows} == {"MIT"}


def test_the_same_seed_renders_the_same_clips_whatever_their_number(
    moving: Clips,
) -> None:
    few = simulated_timelapse(5, 12, 32, seed=2)

    np.testing.assert_array_equal(few.pixels, moving.pixels[:5])
    np.testing.assert_array_equal(few.classes, moving.classes[:5])
    assert few.rows == moving.rows[:5]
    other = simulated_timelapse(5, 12, 32, seed=3)
    assert (other.pixels != few.pixels).any(axis=(1, 2, 3, 4)).all()


def test_a_clip_is_steady_until_its_event_and_never_again(moving: Clips) -> None:
    allowed = {
        "steady": [{0}],
        "swelling": [{0, 1}],
        "lysis": [{0, 2}, {0, 1, 2}],
        "activation": [{0, 3}],
    }

    for classes, row in zip(moving.classes, moving.rows, strict=True):
        assert classes[0] == NAMES.index("steady")
        assert (np.diff(classes) >= 0).all()
        assert set(classes.tolist()) in allowed[row.label]
        assert classes[-1] == NAMES.index(row.label)


def test_about_half_of_all_frames_are_steady(moving: Clips) -> None:
    assert 0.4 < (moving.classes == 0).mean() < 0.6


@pytest.mark.parametrize("frames", [2, 3])
def test_even_the_shortest_clip_shows_its_event(frames: int) -> None:
    clips = simulated_timelapse(8, frames, 24, seed=0)

    assert clips.classes[:, -1].tolist() == [0, 1, 2, 3] * 2


def test_a_single_frame_is_refused() -> None:
    with pytest.raises(DataInvalid, match="1 frames shows no change; ask for 2"):
        simulated_timelapse(4, 1, 24, seed=0)


def test_without_drift_a_steady_cell_stays_to_the_last_bit(still: Clips) -> None:
    film = of(still, "steady").pixels

    np.testing.assert_array_equal(film, np.broadcast_to(film[:, :1], film.shape))


def test_without_drift_nothing_changes_before_the_onset(still: Clips) -> None:
    onset = (still.classes != 0).argmax(axis=1)

    for film, first in zip(still.pixels, onset, strict=True):
        assert (film[:first] == film[0]).all()
        if first:
            assert (film[first] != film[0]).any()


def test_a_swelling_cell_grows_and_keeps_its_haemoglobin(still: Clips) -> None:
    density = density_of(of(still, "swelling"))
    amount, area = density.sum(axis=(2, 3)), area_of(density)

    np.testing.assert_allclose(amount / amount[:, :1], 1, atol=0.06)
    assert (area[:, -1] > 1.15 * area[:, 0]).all()


def test_a_lysed_cell_leaves_a_faint_ghost(still: Clips) -> None:
    lysis = of(still, "lysis")
    burst = (lysis.classes == NAMES.index("lysis")).argmax(axis=1)
    density = density_of(lysis)
    amount = density.sum(axis=(2, 3))
    over = burst + 4 <= amount.shape[1]  # a burst takes up to four frames

    left = amount[:, -1] / amount[:, 0]
    assert over.sum() > 8
    assert (left[over] < 0.3).all()
    assert (left[over] > 0.02).all()


def test_an_activated_cell_becomes_ragged_and_is_not_lost(still: Clips) -> None:
    density = density_of(of(still, "activation"))

    before, after = (
        np.array([ragged(frame) for frame in density[:, t]]) for t in (0, -1)
    )
    assert np.median(after / before) > 1.3
    assert (after > 1.02 * before).all()
    amount = density.sum(axis=(2, 3))
    np.testing.assert_allclose(amount / amount[:, :1], 1, atol=0.15)


def test_one_frame_does_not_tell_a_swollen_cell_but_two_do() -> None:
    clips = simulated_timelapse(320, 8, 32, seed=4, drift=STILL)
    area = area_of(density_of(clips))
    steady = np.array([row.label == "steady" for row in clips.rows])
    swollen = np.array([row.label == "swelling" for row in clips.rows])

    from_one = told_by(area[steady, -1], area[swollen, -1])
    growth = area[:, -1] / area[:, 0]
    assert from_one < 0.85
    assert told_by(growth[steady], growth[swollen]) > 0.98


def test_some_steady_cells_are_ghosts_from_the_first_frame_on() -> None:
    clips = of(simulated_timelapse(320, 2, 32, seed=5, drift=STILL), "steady")
    density = density_of(clips)[:, 0]

    densest = np.quantile(density, 0.98, axis=(1, 2))
    assert 0.01 < (densest < 0.2).mean() < 0.3


@pytest.mark.parametrize(
    ("drift", "least"),
    [
        (replace(STILL, step_px=0.5, drift_px=1.5), 0.5),
        (replace(STILL, turn_deg=3), 0.05),
        (replace(STILL, focus_px=2), 0.2),
        (replace(STILL, lamp=0.02), 1.0),
        (replace(STILL, noise=6), 0.3),
    ],
)
def test_each_drift_moves_steady_clips_as_well(drift: Drift, least: float) -> None:
    film = of(simulated_timelapse(40, 8, 32, seed=6, drift=drift), "steady").pixels

    change = np.abs(film[:, 1:].astype(float) - film[:, :1]).mean(axis=(1, 2, 3, 4))
    assert np.median(change) > least


def test_a_cell_stays_in_view(moving: Clips) -> None:
    far = simulated_timelapse(
        40, 60, 48, seed=7, drift=replace(STILL, step_px=0.5, drift_px=1.5)
    )
    density = np.clip(density_of(far), 0, None)
    axis = np.arange(48) - 23.5

    weight = density.sum(axis=(2, 3))
    x = (density.sum(axis=2) * axis).sum(axis=-1) / weight
    y = (density.sum(axis=3) * axis).sum(axis=-1) / weight
    assert np.hypot(x, y).max() < 48 / 4
    assert np.abs(np.diff(x, axis=1)).max() < 5  # no jump to the other side
