from __future__ import annotations

import numpy as np
import pytest
import torch

from training.fitting.augmentation import (
    Jitter,
    WindowJitter,
    draw_views,
    jitter_colour,
)

STILL = Jitter(
    mix=0,
    strength=0,
    lamp=0,
    level=0,
    cast=0,
    blur_px=0,
    noise=0,
    is_compressed=False,
)


@pytest.fixture
def images() -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randint(20, 235, (32, 3, 24, 24), generator=random).float()


def jitter(images: torch.Tensor, how: Jitter, seed: int = 1) -> torch.Tensor:
    torch.manual_seed(seed)
    return jitter_colour(images, how)


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


def test_a_fifth_of_the_images_goes_through_jpeg(images: torch.Tensor) -> None:
    changed = jitter(images, Jitter(**{**_fields(STILL), "is_compressed": True}))

    far = (changed - images).abs().amax(dim=(1, 2, 3)) > 5
    assert far.sum() == round(0.2 * len(images))


def test_frames_of_one_cell_change_alike(images: torch.Tensor) -> None:
    same = images[:1].expand(8, -1, -1, -1)

    changed = jitter_colour(
        same, Jitter(**{**_fields(Jitter()), "noise": 0, "is_compressed": False}), 4
    )

    torch.testing.assert_close(changed[0], changed[3])
    torch.testing.assert_close(changed[4], changed[7])
    assert (changed[0] - changed[4]).abs().max() > 5


def test_a_view_that_changes_nothing_but_the_size_is_the_middle() -> None:
    """A window of half the stock's side, unturned up to symmetry, shows its middle."""
    stock = torch.zeros(64, 3, 40, 40)
    stock[:, :, 10:30, 10:30] = 200

    seen = draw_views(stock, WindowJitter(0.5, 0.5, 0.0), 20)

    assert seen.shape == (64, 3, 20, 20)
    assert seen[:, :, 7:13, 7:13].min() > 190  # in the square whatever the angle
    assert seen.mean() > 150


def test_cells_are_turned_by_any_angle_and_mirrored() -> None:
    stock = torch.zeros(400, 3, 40, 40)
    stock[:, :, 18:22, 28:34] = 255  # a spot to the right of the middle
    stock[:, :, 10:14, 26:30] = 128  # and a fainter one above it

    seen = draw_views(stock, WindowJitter(1.0, 1.0, 0.0), 40)[:, 0]

    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij")

    def angle(part: torch.Tensor) -> torch.Tensor:
        weight = part.sum((1, 2))
        return torch.atan2(
            (part * (y - 19.5)).sum((1, 2)) / weight,
            (part * (x - 19.5)).sum((1, 2)) / weight,
        )

    bright = angle(seen * (seen > 200))
    faint = angle(seen * ((seen > 90) & (seen < 140)))
    counts = torch.histc(bright, 8, -torch.pi, torch.pi)
    assert counts.min() > 20  # of 50 each
    turn = torch.remainder(faint - bright + torch.pi, 2 * torch.pi) - torch.pi
    assert 0.3 < (turn > 0).float().mean() < 0.7


def test_frames_of_one_cell_are_seen_alike_and_shaken_where_asked() -> None:
    stock = torch.rand(1, 3, 40, 40).expand(6, -1, -1, -1) * 255

    steady = draw_views(stock, WindowJitter(0.6, 1.0), 20, frames=6)
    shaken = draw_views(stock, WindowJitter(0.6, 1.0), 20, frames=6, is_shaken=True)

    torch.testing.assert_close(steady[0], steady[5])
    assert (shaken[0] - shaken[5]).abs().max() > 5


def _fields(how: Jitter) -> dict[str, float]:
    return {name: getattr(how, name) for name in how.__slots__}
