from __future__ import annotations

import numpy as np
import pytest
from torchstain.numpy.normalizers import (
    NumpyMacenkoNormalizer,
    NumpyReinhardNormalizer,
)

from calibration.choices import METHODS
from calibration.stains import (
    Method,
    StainsRefused,
    gather,
    is_stained,
    macenko_stains,
    normalise,
    vahadane_stains,
)
from edge.simulation.microscope import SimulatedMicroscope
from tests.conftest import SMALL

WHITE = np.array([245.0, 243.0, 240.0])
AZURE = np.array([0.62, 0.72, 0.30]) / np.linalg.norm([0.62, 0.72, 0.30])
EOSIN = np.array([0.12, 0.90, 0.42]) / np.linalg.norm([0.12, 0.90, 0.42])


def two_stains(seed: int = 0) -> np.ndarray:
    """Densities (N, 3) of pixels that mostly hold one stain or the other."""
    random = np.random.default_rng(seed)
    amounts = random.gamma(2.0, 0.15, (20_000, 2)) + 0.05
    one = random.integers(0, 2, 20_000)
    amounts[np.arange(20_000), one] *= random.uniform(0, 0.15, 20_000)
    noise = random.normal(0, 0.004, (20_000, 3))
    return amounts @ np.stack([AZURE, EOSIN]) + noise


@pytest.mark.parametrize("find", [macenko_stains, vahadane_stains])
def test_the_stains_that_were_mixed_are_found(find: object) -> None:
    stains = find(two_stains())  # type: ignore[operator]

    assert stains[:, 0] @ AZURE > 0.995
    assert stains[:, 1] @ EOSIN > 0.995


def painted(scale: float, least: float = 0.0) -> np.ndarray:
    """An image (100, 200, 3) of both stains, and unstained glass below."""
    density = np.maximum(two_stains(1), least).reshape(100, 200, 3) * scale
    density[90:] = 0.0
    return np.clip(np.rint(WHITE * 10**-density), 0, 255).astype(np.uint8)


def test_macenkos_stains_are_those_of_torchstain() -> None:
    image = painted(1.0)
    theirs = NumpyMacenkoNormalizer()
    theirs.fit(image, Io=244, alpha=1, beta=0.15)

    ours = macenko_stains(gather([image], np.full(3, 244.0)).density)

    for mine, other in zip(ours.T, np.asarray(theirs.HERef).T, strict=True):
        assert mine @ other > 0.999


def test_reinhards_colours_are_those_of_torchstain() -> None:
    source, target = painted(0.8, least=0.1)[:90], painted(1.0, least=0.1)[:90]
    theirs = NumpyReinhardNormalizer()
    theirs.fit(target)
    other = theirs.normalize(source)

    assert is_stained(source, WHITE).all()  # theirs knows no mask
    ours = normalise(
        source, "reinhard", gather([source], WHITE), gather([target], WHITE)
    )

    apart = np.abs(ours.astype(int) - other.astype(int))
    assert np.median(apart) <= 2  # theirs is in 8-bit Lab
    assert np.percentile(apart, 99) <= 8


@pytest.mark.parametrize("method", METHODS)
def test_a_pale_slide_comes_to_look_like_the_reference(method: Method) -> None:
    pale, dark = painted(0.7, least=0.1), painted(1.0, least=0.1)
    slide, reference = gather([pale], WHITE), gather([dark], WHITE)

    after = normalise(pale, method, slide, reference)

    stained = is_stained(pale, WHITE)
    wanted = dark[stained].astype(float)
    assert (
        np.abs(after[stained] - wanted).mean()
        < 0.3 * np.abs(pale[stained] - wanted).mean()
    )
    np.testing.assert_array_equal(after[~stained], pale[~stained])


@pytest.mark.parametrize("method", METHODS)
def test_a_slide_keeps_its_look_beside_itself(method: Method) -> None:
    image = SimulatedMicroscope(SMALL).render(0)
    slide = gather([image], WHITE)

    after = normalise(image, method, slide, slide)

    assert np.abs(after.astype(int) - image).max() <= 2


def test_images_without_cells_are_refused() -> None:
    with pytest.raises(StainsRefused, match="0 stained pixels on 2 images"):
        gather([np.full((50, 50, 3), 240, np.uint8)] * 2, WHITE)


def test_an_image_without_stain_is_left_as_it_is() -> None:
    empty, slide = np.full((20, 20, 3), 240, np.uint8), gather([painted(1.0)], WHITE)

    np.testing.assert_array_equal(normalise(empty, "macenko", slide, slide), empty)
