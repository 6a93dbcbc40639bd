from __future__ import annotations

import numpy as np
import pytest

from edge.frames import Exposure
from edge.settings.sources import SimulatedSettings
from edge.simulation.cell_painting import LEUKOCYTES, STAINS
from edge.simulation.microscope import SimulatedMicroscope
from edge.simulation.smear import render_slide

PLAIN = SimulatedSettings(width_px=640, height_px=480, rate_hz=0, seed=3)


def changed(**changes: object) -> SimulatedMicroscope:
    fields = {f: getattr(PLAIN, f) for f in PLAIN.__struct_fields__}
    return SimulatedMicroscope(SimulatedSettings(**(fields | changes)))


def test_the_same_seed_gives_the_same_frame_and_another_seed_another() -> None:
    one, two = changed().render(7), changed().render(7)

    np.testing.assert_array_equal(one, two)
    assert (one != changed(seed=4).render(7)).mean() > 0.5


def test_noise_makes_every_frame_new(microscope: SimulatedMicroscope) -> None:
    still = changed(drift_um_per_s=0.0, hand_move_every_s=0.0, defocus_um=0.0)

    difference = still.render(0).astype(int) - still.render(1)

    assert 1.5 < difference.std() / np.sqrt(2) < 2.5  # `noise` is 2 counts


@pytest.mark.parametrize("stain", list(STAINS))
def test_truth_lies_where_the_picture_is_dark(stain: str) -> None:
    """Beer-Lambert: whatever holds dye lets less light through than the plasma."""
    bench = changed(stain=stain, vignetting=0.0, noise=0.0, defocus_um=0.0)
    frame = bench.render(0)
    covered = np.zeros(frame.shape[:2], bool)
    truth = bench.truth(0, least_visible=0.0)
    for cell in truth:
        x0, y0, x1, y1 = (int(v) for v in cell.box)
        covered[y0 : y1 + 1, x0 : x1 + 1] = True

    green = frame[..., 1].astype(float)
    plasma = green[~covered]
    assert plasma.std() < 4
    for cell in truth:
        x0, y0, x1, y1 = cell.box
        if min(x1 - x0, y1 - y0) > 12:
            patch = green[int(y0) : int(y1), int(x0) : int(x1)]
            assert np.percentile(patch, 25) < plasma.mean() - 8


def test_cells_have_their_natural_sizes() -> None:
    slide = render_slide(3000, 2000, pixel_size_um=0.1, seed=5)

    sizes: dict[str, list[float]] = {}
    for cell in slide.cells:
        size = np.sqrt(cell.width_px * cell.height_px) * slide.pixel_size_um
        sizes.setdefault(cell.kind, []).append(float(size))
    middle = {kind: float(np.median(values)) for kind, values in sizes.items()}
    assert set(middle) == {"erythrocyte", "platelet", *LEUKOCYTES}
    assert 7.0 < middle["erythrocyte"] < 8.2
    assert 1.8 < middle["platelet"] < 3.6
    assert 8.0 < middle["lymphocyte"] < 11.5
    assert 11.5 < middle["neutrophil"] < 14.5
    assert 13.5 < middle["monocyte"] < 18.5


def test_some_cells_touch_and_overlap() -> None:
    slide = render_slide(2000, 1500, pixel_size_um=0.1, cells_per_mm2=7500, seed=2)
    at = np.array([(c.x_px, c.y_px) for c in slide.cells if c.kind == "erythrocyte"])
    near = np.hypot(*(at[:, None] - at[None]).transpose(2, 0, 1))
    np.fill_diagonal(near, np.inf)

    overlapping = (near.min(axis=1) * slide.pixel_size_um < 7.0).mean()
    assert 0.1 < overlapping < 0.6


def test_a_still_stage_shows_the_same_cells_and_a_hand_move_others() -> None:
    bench = changed(drift_um_per_s=0.0, hand_move_every_s=1.0)

    def ids(sequence: int) -> set[int]:
        return {cell.id for cell in bench.truth(sequence)}

    assert ids(0) == ids(29)
    assert ids(0) != ids(60)


def test_drift_moves_the_truth_with_the_picture() -> None:
    bench = changed(drift_um_per_s=3.0, hand_move_every_s=0.0, noise=0.0)
    before = {c.id: c.box for c in bench.truth(0, least_visible=1.0)}
    after = {c.id: c.box for c in bench.truth(60, least_visible=1.0)}
    moved = [
        np.subtract(after[i], before[i]).reshape(2, 2).mean(axis=0)
        for i in before.keys() & after.keys()
    ]

    shift = np.mean(moved, axis=0)
    assert len(moved) > 2
    assert np.hypot(*shift) > 40
    np.testing.assert_allclose(moved, np.broadcast_to(shift, (len(moved), 2)), atol=0.6)
    x, y = (round(v) for v in shift)
    assert x < 0
    assert y < 0
    a, b = bench.render(0), bench.render(60)
    np.testing.assert_allclose(
        a[-y + 150 : 400, -x + 150 : 500].mean(axis=2),
        b[150 : 400 + y, 150 : 500 + x].mean(axis=2),
        atol=25,
    )


def test_vignetting_darkens_the_corners_and_the_lamp_sets_the_white() -> None:
    bench = changed(cells_per_mm2=0.0, vignetting=0.3, lamp=(0.9, 0.8, 0.7), noise=0.0)
    frame = bench.render(0).astype(float)

    centre, corner = frame[200:260, 300:360], frame[:20, :20]
    assert corner.mean() < 0.9 * centre.mean()
    red, green, blue = np.percentile(frame.reshape(-1, 3), 90, axis=0)
    assert red > green > blue
    assert 0.9 * 255 * 0.95 < red < 0.9 * 255 * 1.02


def test_a_lamp_that_ages_dims_and_reddens() -> None:
    bench = changed(lamp_drift_per_h=-0.5, hand_move_every_s=0.0, drift_um_per_s=0.0)
    new, old = bench.render(0).mean((0, 1)), bench.render(30 * 3600).mean((0, 1))

    assert old.sum() < 0.7 * new.sum()
    assert old[0] / old[2] > 1.1 * new[0] / new[2]


def test_defocus_takes_fine_detail_away() -> None:
    bench = changed(
        defocus_um=2.0, noise=0.0, drift_um_per_s=0.0, hand_move_every_s=0.0
    )

    def detail(sequence: int) -> float:
        return float(np.abs(np.diff(bench.render(sequence)[..., 1].astype(int))).mean())

    assert detail(0) > 1.5 * detail(
        int(17 / 4 * 30)
    )  # sharp, and furthest out of focus


def test_lost_frames_show_as_jumps_of_the_number() -> None:
    camera = changed(drop_share=0.3).connect()
    numbers = []
    for _ in range(50):
        item = camera.read(1.0)
        assert isinstance(item, Exposure)
        numbers.append(item.shot.sequence)

    lost = numbers[-1] + 1 - len(numbers)
    assert 5 < lost < 45
