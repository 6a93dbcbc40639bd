"""Make a laboratory out of an image: other stain, other lamp, other focus.

Colour changes happen in optical density, where stain is additive: a 3x3 matrix mixes
and scales the dyes, an offset changes the lamp's white point, a smooth field its
evenness. How far they go is set by what was seen between real microscopes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Jitter:
    """Standard deviations of each change, natural optical density unless said.

    `mix`: of the dye matrix; `strength`: ln of the overall stain strength; `lamp`: of
    the white point per channel; `level`: of the exposure; `cast`: of an uneven lamp,
    corner to corner; `blur_px`: greatest sigma; `noise`: greatest, in grey levels.
    """

    mix: float = 0.12
    strength: float = 0.28
    lamp: float = 0.12
    level: float = 0.10
    cast: float = 0.12
    blur_px: float = 1.3
    noise: float = 8.0


def jitter_colour(images: Tensor, jitter: Jitter, random: torch.Generator) -> Tensor:
    """Change stain, lamp, focus and noise of each image.

    Parameters
    ----------
    images
        (N, 3, S, S) float32, 0 to 255.
    jitter
        How far.
    random
        Source of chance.

    Returns
    -------
    Tensor
        (N, 3, S, S) float32, 0 to 255.
    """
    n, size = len(images), images.shape[-1]

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    density = -torch.log((images + 1) / 256)
    dyes = torch.eye(3) + jitter.mix * normal(n, 3, 3)
    dyes = dyes * torch.exp(jitter.strength * normal(n, 1, 1))
    density = torch.einsum("nij,njhw->nihw", dyes, density)
    lamp = jitter.lamp * normal(n, 3, 1, 1) + jitter.level * normal(n, 1, 1, 1)
    uneven = torch.rand((n, 1, 1, 1), generator=random) < 0.3
    corners = jitter.cast * normal(n, 3, 2, 2) * uneven
    cast = functional.interpolate(corners, size=(size, size), mode="bilinear")
    light = torch.exp(-(density + lamp + cast)) * 255
    light = _blur_some(light, jitter.blur_px, random)
    grain = jitter.noise * torch.rand((n, 1, 1, 1), generator=random)
    some = (torch.rand((n, 1, 1, 1), generator=random) < 0.4).float()
    return (light + some * grain * normal(*light.shape)).clamp(0, 255)


def _blur_some(images: Tensor, most_px: float, random: torch.Generator) -> Tensor:
    """Blur two images in five by a Gaussian of their own width."""
    n, reach = len(images), 4
    some = torch.rand((n, 1), generator=random) < 0.4
    sigma = most_px * torch.rand((n, 1), generator=random) * some
    sigma = sigma.clamp(min=0.05)  # changes nothing
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    taps = (taps / taps.sum(1, keepdim=True)).repeat_interleave(3, 0)
    flat = images.reshape(1, n * 3, *images.shape[2:])
    flat = functional.pad(flat, (reach,) * 4, mode="reflect")
    flat = functional.conv2d(flat, taps[:, None, None, :], groups=n * 3)
    flat = functional.conv2d(flat, taps[:, None, :, None], groups=n * 3)
    return flat.reshape(images.shape)
