from __future__ import annotations

import hashlib
from collections import Counter

import cv2
import numpy as np
import pytest

from calibration.int8 import CropsRefused, choose_crops

SIDE = 24


def cells(count: int, seed: int = 0) -> np.ndarray:
    """Smooth blobs on a bright field: neighbours alike, as in any image."""
    random = np.random.default_rng(seed)
    crops = np.full((count, SIDE, SIDE, 3), 220, np.uint8)
    for crop in crops:
        centre = tuple(int(v) for v in random.integers(8, 16, 2))
        colour = tuple(int(v) for v in random.integers(40, 180, 3))
        cv2.circle(crop, centre, int(random.integers(4, 8)), colour, -1)
    return crops


def choose(
    crops: np.ndarray, labels: list[str], count: int
) -> tuple[np.ndarray, object]:
    where = [f"manifest.csv:{n}" for n in range(len(crops))]
    return choose_crops(crops, where, labels, ["lab"] * len(crops), count)


def test_each_class_gives_as_many_until_it_has_no_more() -> None:
    labels = ["RBC"] * 300 + ["WBC"] * 40 + ["Platelet"] * 10

    _, listed = choose(cells(350), labels, 100)

    number = Counter(crop.label for crop in listed.crops)
    assert number == {"Platelet": 10, "WBC": 40, "RBC": 50}


def test_the_same_cells_give_the_same_choice_in_any_order() -> None:
    crops, labels = cells(200), ["RBC", "WBC"] * 100
    order = np.random.default_rng(1).permutation(200)

    _, first = choose(crops, labels, 80)
    _, again = choose(crops[order], [labels[k] for k in order], 80)

    assert first.sha256 == again.sha256
    assert [c.sha256 for c in first.crops] == [c.sha256 for c in again.crops]


def test_the_list_says_where_each_crop_came_from_and_what_it_was() -> None:
    crops = cells(100)

    places, listed = choose(crops, ["RBC"] * 100, 64)

    assert len(set(places.tolist())) == 64
    for place, crop in zip(places, listed.crops, strict=True):
        assert crop.where == f"manifest.csv:{place}"
        assert crop.sha256 == hashlib.sha256(crops[place].tobytes()).hexdigest()


def test_one_crop_many_times_is_one_crop() -> None:
    crops = np.repeat(cells(1), 500, axis=0)

    with pytest.raises(CropsRefused, match="1 different crops, expected at least 64"):
        choose(crops, ["RBC"] * 500, 256)


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_random_numbers_are_refused(share: float) -> None:
    crops = cells(200)
    noisy = round(share * 200)
    random = np.random.default_rng(0)
    crops[:noisy] = random.integers(0, 255, (noisy, SIDE, SIDE, 3))

    with pytest.raises(CropsRefused, match="look like noise"):
        choose(crops, ["RBC"] * 200, 200)


def test_grain_and_an_empty_field_are_no_noise() -> None:
    crops = cells(200).astype(int)
    crops[:40] = 230
    grain = np.random.default_rng(0).normal(0, 4, crops.shape)
    crops = np.clip(crops + grain, 0, 255).astype(np.uint8)

    places, _ = choose(crops, ["RBC"] * 160 + ["Plasma"] * 40, 150)

    assert len(places) == 150


def test_a_choice_of_a_few_is_refused() -> None:
    with pytest.raises(CropsRefused, match="3 crops asked for"):
        choose(cells(100), ["RBC"] * 100, 3)
