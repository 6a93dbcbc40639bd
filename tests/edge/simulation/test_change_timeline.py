from __future__ import annotations

import numpy as np
import pytest

from edge.settings.sources import SimulatedSettings
from edge.simulation.microscope import SimulatedMicroscope

STILL = SimulatedSettings(
    width_px=320,
    height_px=240,
    pixel_size_um=0.14,
    rate_hz=1.0,
    drift_um_per_s=0,
    hand_move_every_s=0,
    defocus_um=0,
    noise=0,
    seed=2,
)
CHANGING = SimulatedSettings(
    **{f: getattr(STILL, f) for f in STILL.__struct_fields__}
    | {"changing": 1.0, "changing_within_h": 0.05, "change_takes_s": 20.0}
)
FRAMES = 220  # everything has happened by then


@pytest.fixture(scope="module")
def still() -> SimulatedMicroscope:
    return SimulatedMicroscope(STILL)


@pytest.fixture(scope="module")
def changing() -> SimulatedMicroscope:
    return SimulatedMicroscope(CHANGING)


def differs(changing: SimulatedMicroscope, still: SimulatedMicroscope, at: int) -> int:
    before, now = still.render(at).astype(int), changing.render(at).astype(int)
    return int(np.abs(now - before).max())


def test_nothing_happens_unless_asked_for(still: SimulatedMicroscope) -> None:
    assert still.changes() == ()
    np.testing.assert_array_equal(still.render(0), still.render(5000))


def test_before_the_first_onset_the_slide_is_the_same(
    still: SimulatedMicroscope, changing: SimulatedMicroscope
) -> None:
    first = min(change.onset_s for change in changing.changes())

    assert differs(changing, still, int(first)) == 0
    assert differs(changing, still, FRAMES) > 30


def test_each_cell_changes_from_its_onset_on_and_as_its_truth_says(
    still: SimulatedMicroscope, changing: SimulatedMicroscope
) -> None:
    places = {cell.id: cell for cell in changing.truth(0, least_visible=1.0)}
    seen: set[str] = set()
    for change in changing.changes():
        if change.cell not in places:
            continue
        x0, y0, x1, y1 = (round(v) for v in places[change.cell].box)
        onset = int(np.ceil(change.onset_s))
        before, after = changing.render(max(onset - 1, 0)), changing.render(FRAMES)
        ours = [image[y0:y1, x0:x1].astype(float) for image in (before, after)]
        if change.change == "lysis":
            assert ours[1].mean() > ours[0].mean() + 10  # the haemoglobin is gone
        else:
            assert np.abs(ours[1] - ours[0]).max() > 15
        seen.add(change.change)
    assert seen == {"swelling", "lysis", "activation"}


def test_swelling_comes_before_lysis(changing: SimulatedMicroscope) -> None:
    moments: dict[int, dict[str, float]] = {}
    for change in changing.changes():
        moments.setdefault(change.cell, {})[change.change] = change.onset_s
    both = [m for m in moments.values() if {"swelling", "lysis"} <= set(m)]

    assert both
    assert all(m["swelling"] < m["lysis"] for m in both)


def test_the_same_frame_is_the_same_whenever_it_is_drawn(
    changing: SimulatedMicroscope,
) -> None:
    late = changing.render(150)
    changing.render(10)

    np.testing.assert_array_equal(changing.render(150), late)
    again = SimulatedMicroscope(CHANGING)
    np.testing.assert_array_equal(again.render(150), late)
