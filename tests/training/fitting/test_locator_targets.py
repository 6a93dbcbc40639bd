from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edge.artifacts.bundle import LocationSpec
from edge.engines import Outputs
from edge.stages.detection import find_regions
from training.data.layouts.manifest import read_manifest
from training.data.rows import read_fields
from training.fitting.locator_targets import FILL, PATCH_PX, draw_batch
from training.metrics.box_matching import match
from training.models.locator import STRIDE_PX, Locator, centre_loss, side_loss

CLASSES = ("RBC", "WBC", "Platelet")


@pytest.fixture(scope="module")
def fields(manifest: Path):  # type: ignore[no-untyped-def]  # noqa: ANN201
    return read_fields(read_manifest(manifest), CLASSES)


def test_the_targets_decode_to_the_boxes_they_were_made_of(fields, random) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """What the locator shall say, read as the device reads it, is the truth."""
    field = next(f for f in fields if f.is_complete)
    batch = draw_batch([field] * 8, 3, 24.0, 8, random)
    spec = LocationSpec(
        diameter_px=24,
        stride_px=4,
        thresholds=(0.9,) * 3,
        overlap=0.6,
        fill=FILL,
        trust=1.0,
    )
    sizes = []
    for number in range(8):
        heat, sides = batch.heat[number].numpy(), batch.sides[number].numpy()
        peaks = np.where(heat > 0.999, heat, 0).transpose(1, 2, 0)[None]
        engine = _FixedOutputs(peaks.astype(np.float32), sides.transpose(1, 2, 0)[None])
        image = batch.images[number].permute(1, 2, 0).numpy().astype(np.uint8)
        regions = find_regions(image, engine, spec, (PATCH_PX, PATCH_PX))
        red = regions.kinds == 0
        boxes = regions.boxes[red]
        sizes += np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)).tolist()
        assert len(regions.boxes) > 3
    assert np.median(sizes) == pytest.approx(24, rel=0.3)


class _FixedOutputs:
    def __init__(self, likely: np.ndarray, sides: np.ndarray) -> None:
        self._tensors = {"likely": likely, "sides": sides}

    def infer(self, batch: np.ndarray, state: np.ndarray | None = None) -> Outputs:
        return Outputs(self._tensors)

    def close(self) -> None:
        pass


def test_every_labelled_cell_has_a_centre_and_sides_around_it(fields, random) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    batch = draw_batch(fields, 3, 24.0, 16, random)

    assert batch.images.shape == (16, 3, PATCH_PX, PATCH_PX)
    assert batch.heat.shape == batch.weight.shape == (16, 3, 32, 32)
    assert ((batch.heat == 1).sum() > 40).item()
    inside = batch.sides.permute(1, 0, 2, 3)[:, batch.near]
    assert (inside > 0).all()
    assert inside.max() < PATCH_PX


def test_unlabelled_red_cells_are_neither_right_nor_wrong(fields, random) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    partly = [f for f in fields if not f.is_complete]
    batch = draw_batch(partly, 3, 24.0, 8, random)

    red, white = batch.weight[:, 0], batch.weight[:, 1]
    assert red.mean() < 0.3
    assert (red[batch.heat[:, 0] == 1] == 1).all()  # what is labelled counts
    assert white.mean() > 0.3


def test_nothing_is_learnt_from_beyond_the_field(fields, random) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    batch = draw_batch(fields, 3, 12.0, 8, random)  # small: patches do not fill up

    fill = torch.tensor(FILL, dtype=torch.float32).view(1, 3, 1, 1)
    blank = (batch.images == fill).all(dim=1)[:, ::STRIDE_PX, ::STRIDE_PX]
    assert blank.float().mean() > 0.2
    assert (batch.weight[:, 1][blank] == 0).float().mean() > 0.95


def test_the_centre_loss_is_least_at_the_truth() -> None:
    heat = torch.zeros(1, 1, 8, 8)
    heat[0, 0, 3, 4] = 1
    weight = torch.ones_like(heat)
    right = torch.where(heat == 1, 8.0, -8.0)
    wrong = torch.where(heat == 1, -8.0, -8.0)
    shifted = torch.roll(right, 3, dims=3)

    at_truth = centre_loss(right, heat, weight)
    assert at_truth < 0.01
    assert centre_loss(wrong, heat, weight) > 4
    assert centre_loss(shifted, heat, weight) > 4
    assert centre_loss(shifted, heat, weight * 0) == 0


@pytest.mark.parametrize(
    ("sides", "loss"),
    [((5, 5, 5, 5), 0.0), ((10, 10, 10, 10), 0.75), ((2.5, 2.5, 2.5, 2.5), 0.75)],
)
def test_the_side_loss_is_one_less_the_overlap(
    sides: tuple[float, ...], loss: float
) -> None:
    wanted = torch.full((1, 4, 1, 1), 5.0)
    near = torch.ones(1, 1, 1, dtype=torch.bool)

    value = side_loss(torch.tensor(sides).view(1, 4, 1, 1), wanted, near)

    assert value.item() == pytest.approx(loss, abs=1e-5)


def test_the_locator_keeps_the_geometry_of_its_frame() -> None:
    centres, sides = Locator(3).eval()(torch.zeros(2, 3, 64, 96))

    assert centres.shape == (2, 3, 16, 24)
    assert sides.shape == (2, 4, 16, 24)
    assert (sides > 0).all()


def test_boxes_match_once_and_best_first() -> None:
    true = np.array([[0, 0, 10, 10], [20, 0, 30, 10]], np.float32)
    found = np.array(
        [[0, 0, 10, 10], [1, 0, 11, 10], [24, 0, 40, 10], [20, 1, 30, 11]], np.float32
    )

    matched, tally = match(found, true)

    assert matched.tolist() == [0, -1, -1, 1]
    assert (tally.right, tally.wrong, tally.missed) == (2, 2, 0)
    assert (tally.precision, tally.recall, tally.f1) == (0.5, 1.0, pytest.approx(2 / 3))
