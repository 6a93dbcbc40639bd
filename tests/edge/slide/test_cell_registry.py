from __future__ import annotations

import tracemalloc
from collections import Counter

import numpy as np
import pytest

from edge.slide.cell_registry import CellRegistry, Detections
from edge.slide.mosaic import MosaicPosition, PatchJoin
from tests.edge.slide.slides import LABELS, MARGIN_PX, SCALE, THUMBNAIL_PX, Ground


def place(x: int, y: int, patch: int = 0) -> MosaicPosition:
    return MosaicPosition(patch, x * SCALE, y * SCALE)


def seen(*cells: tuple[float, float, float, tuple[float, ...]]) -> Detections:
    """Detections of cells: x, y, width, probabilities."""
    return Detections(
        np.array([c[:2] for c in cells], np.float64).reshape(-1, 2),
        np.array([c[2] for c in cells], np.float64),
        np.log(np.array([c[3] for c in cells], np.float64).reshape(-1, 3)),
    )


RED, WHITE, UNSURE = (0.9, 0.05, 0.05), (0.05, 0.9, 0.05), (0.5, 0.45, 0.05)


def show(registry: CellRegistry, *detections: Detections) -> None:
    for one in detections:
        registry.add_frame(MosaicPosition(0, 0.0, 0.0), THUMBNAIL_PX, 10.0, one)


def test_cells_in_view_again_and_again_are_counted_once(ground: Ground) -> None:
    registry, shown = CellRegistry(LABELS, 0.5), set()
    for number, x in enumerate([0, 60, 130, 200, 280, 200, 100, 0] * 2):
        detections = ground.detections(x, 100, missed=0.05, seed=number)
        off = MosaicPosition(
            0, x * SCALE + 0.4, 100 * SCALE - 0.4
        )  # as registration errs
        registry.add_frame(off, THUMBNAIL_PX, MARGIN_PX, detections)
        shown |= set(ground.truth(x, 100, MARGIN_PX / SCALE).tolist())

    truth = Counter(LABELS[ground.kinds[n]] for n in shown)
    assert sum(truth.values()) > 100
    for label in LABELS:
        assert abs(registry.counts()[label] - truth[label]) <= 0.02 * truth[label] + 0.5


def test_a_cell_waits_at_the_border_until_it_is_seen_inside() -> None:
    registry = CellRegistry(LABELS, 0.5)
    show(registry, seen((9.0, 50.0, 9.0, RED)))
    assert registry.counts() == {}

    show(registry, seen((11.0, 50.0, 9.0, RED)))
    assert registry.counts() == {"RBC": 1}


def test_a_changed_mind_corrects_the_count() -> None:
    registry = CellRegistry(LABELS, 0.5)
    show(registry, seen((50, 50, 9, WHITE)))
    assert registry.counts() == {"WBC": 1}

    show(registry, seen((50, 50, 9, RED)), seen((50, 50, 9, RED)))

    assert registry.counts() == {"RBC": 1}


def test_a_cell_that_stays_unlikely_is_unidentified() -> None:
    registry = CellRegistry(LABELS, 0.7)
    show(registry, *[seen((50, 50, 9, UNSURE))] * 5)

    assert registry.counts() == {"unidentified": 1}


def test_a_chance_find_does_not_stay() -> None:
    registry = CellRegistry(LABELS, 0.5)
    cell, ghost = (50.0, 50.0, 9.0, RED), (80.0, 60.0, 9.0, WHITE)
    show(registry, seen(cell, ghost))
    assert registry.counts() == {"RBC": 1, "WBC": 1}

    show(registry, seen(cell), seen(cell))

    assert registry.counts() == {"RBC": 1}


def test_a_platelet_on_a_red_cell_is_another_cell() -> None:
    registry = CellRegistry(LABELS, 0.5)
    platelet = (0.05, 0.05, 0.9)
    show(registry, *[seen((50, 50, 9, RED), (51, 50, 3, platelet))] * 2)

    assert registry.counts() == {"RBC": 1, "Platelet": 1}


def test_what_is_no_cell_is_not_counted() -> None:
    registry = CellRegistry(("RBC", "WBC", "Plasma"), 0.5)
    show(registry, seen((50, 50, 9, (0.05, 0.05, 0.9))))

    assert registry.counts() == {}


def test_joined_patches_have_their_common_cells_once(ground: Ground) -> None:
    registry = CellRegistry(LABELS, 0.5)
    alone = CellRegistry(LABELS, 0.5)
    for x in (0, 100, 200):
        for one in (registry, alone):
            one.add_frame(place(x, 0), THUMBNAIL_PX, MARGIN_PX, ground.detections(x, 0))
    for x in (150, 250, 350):
        other = MosaicPosition(1, (x - 150) * SCALE, 0.0)
        detections = ground.detections(x, 0, seed=1)
        registry.add_frame(other, THUMBNAIL_PX, MARGIN_PX, detections)
        alone.add_frame(place(x, 0), THUMBNAIL_PX, MARGIN_PX, detections)
    assert registry.counts().total() > 1.3 * alone.counts().total()

    registry.join(PatchJoin(1, 0, 150 * SCALE, 0.0))

    assert registry.counts() == alone.counts()
    assert set(registry.cells["patch"].tolist()) == {0}


@pytest.mark.parametrize("along", [(160, 8000), (8000, 160)])
def test_long_ways_are_joined_in_little_memory(along: tuple[int, int]) -> None:
    random = np.random.default_rng(1)
    registry, far = CellRegistry(LABELS, 0.5), 10 * max(along)
    cells = random.uniform(0, along, (5000, 2))
    for patch in (0, 1):
        at = cells + random.normal(0, 0.02, cells.shape)
        detections = Detections(at, np.full(5000, 1.0), np.zeros((5000, 3)))
        registry.add_frame(
            MosaicPosition(patch, far * patch, 0.0), (8001, 8001), -1.0, detections
        )

    tracemalloc.start()
    registry.join(PatchJoin(1, 0, -far, 0.0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert len(registry.cells) == pytest.approx(5000, rel=0.01)
    assert peak < 60 << 20


def test_a_way_that_came_round_with_an_error_is_mended(ground: Ground) -> None:
    registry = CellRegistry(LABELS, 0.5)
    registry.add_frame(place(0, 0), THUMBNAIL_PX, MARGIN_PX, ground.detections(0, 0))
    once = registry.counts()
    drifted = MosaicPosition(0, 600.0, 0.0)  # by dead reckoning it is elsewhere
    registry.add_frame(
        drifted, THUMBNAIL_PX, MARGIN_PX, ground.detections(0, 0, seed=1)
    )
    assert registry.counts().total() == 2 * once.total()

    registry.close_loop(place(0, 0), THUMBNAIL_PX, (-600.0, 0.0))

    assert registry.counts() == once


@pytest.mark.parametrize("off_px", [8.0, 25.0, 70.0])
def test_an_error_smaller_than_the_frame_is_mended_too(
    ground: Ground, off_px: float
) -> None:
    registry = CellRegistry(LABELS, 0.5)
    for seed in range(3):
        registry.add_frame(
            place(0, 0), THUMBNAIL_PX, MARGIN_PX, ground.detections(0, 0, seed=seed)
        )
    once, known = registry.counts().total(), registry.cells["centre"].copy()
    drifted = MosaicPosition(0, off_px, 0.0)
    for seed in range(3, 6):
        registry.add_frame(
            drifted, THUMBNAIL_PX, MARGIN_PX, ground.detections(0, 0, seed=seed)
        )

    registry.close_loop(place(0, 0), THUMBNAIL_PX, (-off_px, 0.0))

    assert registry.counts().total() == pytest.approx(once, rel=0.1)
    apart = np.hypot(
        *(registry.cells["centre"][:, None] - known[None]).transpose(2, 0, 1)
    )
    assert np.median(apart.min(axis=1)) < 0.5


def test_a_cell_that_proves_to_be_another_was_seen_when_either_was() -> None:
    registry, cell = CellRegistry(LABELS, 0.5), seen((50, 50, 9, RED))
    registry.add_frame(MosaicPosition(0, 0.0, 0.0), THUMBNAIL_PX, 10.0, cell)
    registry.add_frame(MosaicPosition(1, 0.0, 0.0), THUMBNAIL_PX, 10.0, cell)

    registry.join(PatchJoin(1, 0, 0.0, 0.0))

    assert registry.cells["last_seen"].tolist() == [2]


def test_a_constellation_tells_the_place(ground: Ground) -> None:
    registry = CellRegistry(LABELS, 0.5)
    for x in (0, 200, 400, 600):
        registry.add_frame(
            place(x, 200), THUMBNAIL_PX, MARGIN_PX, ground.detections(x, 200)
        )

    places = registry.propose_positions(ground.detections(330, 240, missed=0.1, seed=2))

    best = min(np.hypot(p.x_px - 330 * SCALE, p.y_px - 240 * SCALE) for p in places)
    assert best < 1.5


def test_finalised_cells_stay_in_the_count(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounded, free = CellRegistry(LABELS, 0.5), CellRegistry(LABELS, 0.5)
    for x in range(0, 900, 150):
        free.add_frame(place(x, 0), THUMBNAIL_PX, MARGIN_PX, ground.detections(x, 0))
    monkeypatch.setattr("edge.slide.cell_registry.MAX_REGISTERED_CELLS", 120)
    monkeypatch.setattr("edge.slide.cell_registry._FINALISED_AT_ONCE", 30)
    for x in range(0, 900, 150):
        bounded.add_frame(place(x, 0), THUMBNAIL_PX, MARGIN_PX, ground.detections(x, 0))

    assert len(bounded.cells) < 0.8 * len(free.cells)
    assert bounded.counts().total() == pytest.approx(free.counts().total(), rel=0.05)
