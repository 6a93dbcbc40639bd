from __future__ import annotations

import numpy as np
import pytest
import torch

from training.augment import Jitter, jitter_colour

STILL = Jitter(mix=0, strength=0, lamp=0, level=0, cast=0, blur_px=0, noise=0)


@pytest.fixture
def images() -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randint(20, 235, (32, 3, 24, 24), generator=random).float()


def jitter(images: torch.Tensor, how: Jitter, seed: int = 1) -> torch.Tensor:
    return jitter_colour(images, how, torch.Generator().manual_seed(seed))


def test_without_any_change_the_image_stays(images: torch.Tensor) -> None:
    np.testing.assert_allclose(jitter(images, STILL), images, atol=1.1)


def test_the_same_chance_gives_the_same_change(images: torch.Tensor) -> None:
    assert torch.equal(jitter(images, Jitter()), jitter(images, Jitter()))
    assert not torch.equal(jitter(images, Jitter()), jitter(images, Jitter(), seed=2))


def test_what_comes_out_is_still_an_image(images: torch.Tensor) -> None:
    extreme = Jitter(mix=1, strength=1, lamp=1, level=1, cast=1, noise=100)

    changed = jitter(images, extreme)

    assert changed.shape == images.shape
    assert changed.min() >= 0
    assert changed.max() <= 255
    assert torch.isfinite(changed).all()


def test_a_lamp_shifts_optical_density_by_the_same_amount_everywhere(
    images: torch.Tensor,
) -> None:
    """Beer-Lambert: another white point adds to the density of every pixel alike."""
    lamp = Jitter(**{**_fields(STILL), "lamp": 0.1})

    changed = jitter(images.clamp(60, 180), lamp)

    shift = -torch.log((changed + 1) / 256) + torch.log(
        (images.clamp(60, 180) + 1) / 256
    )
    assert shift.std(dim=(2, 3)).max() < 0.02
    assert shift.mean(dim=(2, 3)).std() > 0.05


def test_stain_strength_scales_optical_density(images: torch.Tensor) -> None:
    strength = Jitter(**{**_fields(STILL), "strength": 0.3})

    changed = jitter(images.clamp(80, 200), strength)

    before = -torch.log((images.clamp(80, 200) + 1) / 256)
    ratio = -torch.log((changed + 1) / 256) / before
    assert ratio.std(dim=(1, 2, 3)).max() < 0.05
    assert ratio.mean(dim=(1, 2, 3)).std() > 0.1


def test_some_images_lose_detail_and_some_do_not(images: torch.Tensor) -> None:
    blurred = jitter(images, Jitter(**{**_fields(STILL), "blur_px": 3.0}))

    kept = blurred.std(dim=(1, 2, 3)) / images.std(dim=(1, 2, 3))
    assert 0.2 < (kept < 0.8).float().mean() < 0.6


def _fields(how: Jitter) -> dict[str, float]:
    return {name: getattr(how, name) for name in how.__slots__}
