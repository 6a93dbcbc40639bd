from __future__ import annotations

from itertools import pairwise

import msgspec
import numpy as np
import pytest

from edge.artifacts.profile import Profile, ProfileRecord
from edge.frames import Counts
from edge.pipeline.images.tiles import Tile, merge, profile_of, tiles_of
from edge.schema.results import Cell
from edge.stages.colour_correction import correct, prepare


def cell(box: tuple[int, int, int, int]) -> Cell:
    return Cell(
        id=0,
        box=box,
        label="RBC",
        ontology=None,
        confidence=0.9,
        probabilities={"RBC": 0.9},
        abstained=False,
    )


@pytest.mark.parametrize("frame", [(1000, 700), (640, 640), (100, 2000), (641, 1279)])
def test_tiles_cover_the_image_and_overlap(frame: tuple[int, int]) -> None:
    tiles = tiles_of(frame, 640, 96)

    covered = np.zeros(frame[::-1], int)
    for tile in tiles:
        covered[tile.y0 : tile.y1, tile.x0 : tile.x1] += 1
        assert (tile.x1 - tile.x0, tile.y1 - tile.y0) == tuple(
            min(640, side) for side in frame
        )
    assert covered.min() == 1
    rights = sorted({(tile.x0, tile.x1) for tile in tiles})
    for (_, right), (left, _) in pairwise(rights):
        assert right - left >= 96


def test_a_cell_at_a_seam_is_counted_once() -> None:
    frame = (1000, 400)
    left, right = tiles_of(frame, 600, 100)[:2]
    assert (left.x0, right.x0) == (0, 400)
    seen_twice = (520, 100, 560, 140)

    merged = merge(
        [
            (left, (cell((10, 10, 50, 50)), cell(seen_twice), cell((580, 5, 600, 40)))),
            (right, (cell((121, 101, 161, 141)), cell((180, 5, 215, 40)))),
        ],
        frame,
        reduction=1.0,
    )

    # The piece that the left tile cuts is the right tile's whole cell.
    assert [c.box for c in merged] == [
        (10, 10, 50, 50),
        (521, 101, 561, 141),
        (580, 5, 615, 40),
    ]
    assert [c.id for c in merged] == [0, 1, 2]


def test_neighbours_in_one_tile_stay_apart() -> None:
    tile = Tile(0, 0, 600, 400)
    close = (cell((100, 100, 140, 140)), cell((110, 110, 150, 150)))

    assert len(merge([(tile, close)], (600, 400), reduction=1.0)) == 2


def test_a_cell_at_the_border_of_the_image_is_kept() -> None:
    tile = Tile(0, 0, 600, 400)

    assert len(merge([(tile, (cell((0, 0, 20, 20)),))], (600, 400), 1.0)) == 1


def test_a_tile_is_corrected_like_that_part_of_the_frame() -> None:
    random = np.random.default_rng(1)
    frame: Counts = random.integers(60, 250, (480, 640, 3), dtype=np.uint8)
    y, x = np.mgrid[:48, :64]
    light = 1 - 0.3 * ((x / 64 - 0.4) ** 2 + (y / 48 - 0.6) ** 2)
    flat = np.repeat(light[..., None], 3, axis=2).astype(np.float32)
    record = ProfileRecord(width_px=640, height_px=480)
    profile = Profile(record, flat, "id")
    whole = correct(frame, prepare(profile, 640, 480, frame.dtype))

    for tile in tiles_of((640, 480), 300, 60):
        part = frame[tile.y0 : tile.y1, tile.x0 : tile.x1]
        own = profile_of(tile, profile, (640, 480))
        own.check(part.shape[1], part.shape[0], None)
        colours = prepare(own, part.shape[1], part.shape[0], part.dtype)
        there = whole[tile.y0 : tile.y1, tile.x0 : tile.x1]
        difference = correct(part, colours).astype(int) - there.astype(int)
        assert np.abs(difference).max() <= 1
        assert own.calibration_id == "id"
    assert msgspec.structs.asdict(profile.record)["width_px"] == 640
