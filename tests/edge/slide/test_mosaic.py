from __future__ import annotations

import itertools

import numpy as np
import pytest

from edge.slide.mosaic import Mosaic, MosaicPosition
from tests.edge.slide.slides import SCALE, Ground


def way(*stops: tuple[int, int], step_px: int = 120) -> list[tuple[int, int]]:
    """Corners on straight lines from stop to stop."""
    corners = [stops[0]]
    for before, after in itertools.pairwise(stops):
        length = np.hypot(after[0] - before[0], after[1] - before[1])
        for part in np.linspace(0, 1, max(2, int(length / step_px) + 1))[1:]:
            x, y = np.array(before) * (1 - part) + np.array(after) * part
            corners.append((round(x), round(y)))
    return corners


def off_px(positions: list[MosaicPosition], corners: list[tuple[int, int]]) -> float:
    """How far (view px) positions are from where they should be beside the first."""
    at = np.array([(p.x_px, p.y_px) for p in positions])
    true = np.array(corners) * SCALE
    return float(np.hypot(*(at - at[0] - true + true[0]).T).max())


def test_errors_do_not_add_up_along_a_way_with_returns(ground: Ground) -> None:
    corners = way((0, 0), (900, 0), (900, 580), (0, 580), (0, 0))
    mosaic = Mosaic()

    positions = [mosaic.place_frame(ground.view(*at)).position for at in corners]
    keys = len(mosaic.key_frames)
    positions += [
        mosaic.place_frame(ground.view(*at, seed=1)).position for at in corners[::-2]
    ]

    assert mosaic.patches == 1
    assert off_px(positions, corners + corners[::-2]) < 0.6
    assert len(mosaic.key_frames) == keys  # what is known needs no new key


def test_after_a_sudden_move_a_known_place_is_known_again(ground: Ground) -> None:
    corners = [*way((0, 0), (900, 100)), (30, 20), (850, 120)]
    mosaic = Mosaic()

    positions = [mosaic.place_frame(ground.view(*at)).position for at in corners]

    assert mosaic.patches == 1
    assert off_px(positions, corners) < 0.6


def test_after_a_sudden_move_to_new_ground_a_patch_begins_and_is_joined(
    ground: Ground,
) -> None:
    corners = way((0, 0), (240, 0)) + way((900, 500), (240, 0))
    mosaic, joins, patches = Mosaic(), [], []
    for at in corners:
        placement = mosaic.place_frame(ground.view(*at))
        joins += placement.joins
        patches.append(placement.position.patch)

    assert 1 in patches
    assert patches[-1] == 0
    (join,) = joins
    assert (join.patch, join.into) == (1, 0)
    assert (join.x_px, join.y_px) == pytest.approx((900 * SCALE, 500 * SCALE), abs=0.6)
    assert mosaic.patches == 1


def test_of_too_many_positions_the_one_longest_unvisited_is_forgotten(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.slide.mosaic.MAX_KEY_FRAMES", 3)
    mosaic = Mosaic()
    for x in range(0, 960, 230):
        mosaic.place_frame(ground.view(x, 0))

    assert len(mosaic.key_frames) == 3
    assert min(position.x_px for position, _ in mosaic.key_frames) > 0


def test_a_camera_of_another_size_begins_a_patch(ground: Ground) -> None:
    mosaic = Mosaic()
    view = ground.view(0, 0)
    mosaic.place_frame(view)

    placement = mosaic.place_frame(view[:80, :120])

    assert placement.position.patch == 1
