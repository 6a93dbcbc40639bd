from __future__ import annotations

import numpy as np
import pytest

from edge.stages.colour_statistics import read_colours
from edge.stages.detection import Regions

LABELS = ("RBC", "WBC", "Platelet")
PLASMA, RED, CYTOPLASM, NUCLEUS = (
    (216, 217, 215),
    (190, 150, 160),
    (180,) * 3,
    (90,) * 3,
)


def smear(cells: int = 6) -> tuple[np.ndarray, Regions]:
    """A reduced field with red cells in a row and one white cell below them."""
    field = np.full((80, 160, 3), PLASMA, np.uint8)
    at_y, at_x = np.mgrid[0:80, 0:160]
    boxes, kinds = [], []
    for n in range(cells):
        x = 14 + 22 * n
        field[np.hypot(at_x - x, at_y - 16) <= 8] = RED
        boxes.append((x - 8, 8, x + 9, 25))
        kinds.append(0)
    field[np.hypot(at_x - 60, at_y - 55) <= 14] = CYTOPLASM
    field[np.hypot(at_x - 60, at_y - 55) <= 9] = NUCLEUS
    boxes.append((46, 41, 75, 70))
    kinds.append(1)
    place = np.array(boxes, np.float32) * 4  # the full frame is four times as large
    count = len(boxes)
    return field, Regions(
        place,
        np.ones(count, np.float32),
        np.array(kinds, np.intp),
        np.zeros((count, 3), np.float32),
    )


def test_plasma_red_cells_and_nuclei_are_told_apart() -> None:
    field, regions = smear()

    seen = read_colours(field, regions, LABELS, (640, 320))

    assert seen.background is not None
    np.testing.assert_allclose(seen.background, PLASMA)
    assert seen.background_share > 0.5
    np.testing.assert_allclose(seen.red_cells, [RED] * 6)
    np.testing.assert_allclose(seen.nuclei, [NUCLEUS])


def test_a_cell_keeps_its_colour_while_the_field_around_it_empties() -> None:
    field, regions = smear()
    emptied, _ = smear(cells=1)
    one = Regions(*(getattr(regions, n)[[0, 6]] for n in Regions.__slots__))

    full = read_colours(field, regions, LABELS, (640, 320))
    alone = read_colours(emptied, one, LABELS, (640, 320))

    np.testing.assert_array_equal(full.red_cells[0], alone.red_cells[0])
    np.testing.assert_array_equal(full.nuclei, alone.nuclei)


def test_cells_that_the_border_cuts_have_no_say() -> None:
    field, regions = smear()
    cut = regions.boxes.copy()
    cut[0, 0] = 0

    moved = Regions(cut, regions.scores, regions.kinds, regions.evidence)
    seen = read_colours(field, moved, LABELS, (640, 320))

    assert len(seen.red_cells) == 5


def test_where_cells_cover_everything_there_is_no_background() -> None:
    field, regions = smear()
    all_of_it = regions.boxes.copy()
    all_of_it[0] = (0, 0, 640, 320)

    covered = Regions(all_of_it, regions.scores, regions.kinds, regions.evidence)
    seen = read_colours(field, covered, LABELS, (640, 320))

    assert seen.background is None
    assert seen.background_share == pytest.approx(0.0, abs=0.02)


def test_an_empty_field_has_a_background_alone() -> None:
    nothing = Regions(
        np.zeros((0, 4), np.float32),
        np.zeros(0, np.float32),
        np.zeros(0, np.intp),
        np.zeros((0, 3), np.float32),
    )
    field = np.full((60, 80, 3), PLASMA, np.uint8)

    seen = read_colours(field, nothing, LABELS, (320, 240))

    assert seen.background_share == 1.0
    assert seen.red_cells.shape == seen.nuclei.shape == (0, 3)
