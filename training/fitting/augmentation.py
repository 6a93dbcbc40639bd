"""Augment images: as other laboratories, other views and other moments would show them.

Colours change in optical density, where stain is additive: a 3x3 matrix mixes and
scales the dyes, an offset changes the lamp's white point, a smooth field its evenness.
How much they change is set by the differences between real microscopes. Random numbers
are torch's; the fitting loop seeds them at every step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from kornia.enhance import jpeg_codec_differentiable
from kornia.filters import gaussian_blur2d
from kornia.geometry import warp_affine
from torch import Tensor
from torch.nn import functional

_BLUR_TAPS = 9
_MIN_BLUR_PX = 0.05  # so small that it changes nothing
_BLURRED, _GRAINY, _UNEVEN, _COMPRESSED = 0.4, 0.4, 0.3, 0.2  # shares of images
_QUALITY = (30.0, 95.0)  # of JPEG


@dataclass(frozen=True, slots=True)
class Jitter:
    """Standard deviation of each change, in natural optical density where not stated.

    `mix`: of the dye matrix; `strength`: ln of the overall stain strength; `lamp`: of
    the white point per channel; `level`: of the exposure; `cast`: of an uneven lamp,
    corner to corner; `blur_px`: greatest sigma in pixels; `noise`: greatest standard
    deviation in grey levels; `is_compressed`: some images go through JPEG.
    """

    mix: float = 0.12
    strength: float = 0.28
    lamp: float = 0.12
    level: float = 0.10
    cast: float = 0.12
    blur_px: float = 1.3
    noise: float = 8.0
    is_compressed: bool = True


MOMENT = Jitter(  # changes between two frames of the same cell
    mix=0.0, strength=0.0, lamp=0.03, level=0.06, cast=0.0, blur_px=1.5, noise=6.0
)


ELSEWHERE = Jitter(mix=0.2, strength=0.4)  # changes between laboratories


@dataclass(frozen=True, slots=True)
class WindowJitter:
    """How windows are drawn from stock crops.

    The side of a window lies between `min_side` and `max_side`, over that of the stock
    crop; its centre is shifted by up to `shift`, over the window's side.
    """

    min_side: float
    max_side: float
    shift: float = 0.04


STOCK_CONTEXT = 3.0  # stock crops are cut once, wider than needed, then zoomed
BOXED = WindowJitter(1.0 / STOCK_CONTEXT, 1.0)
WHOLE = WindowJitter(0.8, 1.1)  # of images that show one cell, without a box


def jitter_colour(images: Tensor, jitter: Jitter, frames: int = 1) -> Tensor:
    """Change stain, lamp, focus and noise of each image.

    Parameters
    ----------
    images
        (N, 3, S, S) float32, 0 to 255.
    jitter
        How much.
    frames
        So many images in a row are of one cell and change alike.

    Returns
    -------
    Tensor
        (N, 3, S, S) float32, 0 to 255.
    """
    draw = _Draws(len(images) // frames, frames, images.device)
    light = _relight(images, jitter, draw)
    sigma = jitter.blur_px * torch.rand_like(light[:, 0, 0, :1])
    sigma = sigma * draw.some(_BLURRED)[:, 0, 0]
    sigma = sigma.clamp(min=_MIN_BLUR_PX).expand(-1, 2)
    light = gaussian_blur2d(light, (_BLUR_TAPS, _BLUR_TAPS), sigma, separable=True)
    grain = jitter.noise * torch.rand_like(light[:, :1, :1, :1]) * draw.some(_GRAINY)
    light = (light + grain * torch.randn_like(light)).clamp(0, 255)
    return _compress_some(light) if jitter.is_compressed else light


@dataclass(frozen=True, slots=True)
class _Draws:
    """Random numbers that are the same for all `frames` of each cell."""

    cells: int
    frames: int
    device: torch.device

    def normal(self, *shape: int) -> Tensor:
        """Draw normal numbers (cells * frames, *shape)."""
        drawn = torch.randn((self.cells, *shape), device=self.device)
        return drawn.repeat_interleave(self.frames, 0)

    def some(self, share: float) -> Tensor:
        """Return 1 for a random share of the cells, 0 for the others: (N, 1, 1, 1)."""
        drawn = torch.rand((self.cells, 1, 1, 1), device=self.device) < share
        return drawn.float().repeat_interleave(self.frames, 0)

    def uniform(self, low: float, high: float) -> Tensor:
        """Draw uniform numbers (cells * frames,)."""
        drawn = low + (high - low) * torch.rand(self.cells, device=self.device)
        return drawn.repeat_interleave(self.frames, 0)


def _relight(images: Tensor, jitter: Jitter, draw: _Draws) -> Tensor:
    """Change dyes and lamp of images (N, 3, S, S), 0 to 255.

    The Beer-Lambert law: in natural optical density dyes add up. A matrix (3, 3) mixes
    and scales them; the lamp adds an offset, which varies over the image.
    """
    size = images.shape[-1]
    density = -torch.log((images + 1) / 256)
    dyes = torch.eye(3, device=images.device) + jitter.mix * draw.normal(3, 3)
    dyes = dyes * torch.exp(jitter.strength * draw.normal(1, 1))
    density = (dyes @ density.flatten(2)).reshape(images.shape)
    lamp = jitter.lamp * draw.normal(3, 1, 1) + jitter.level * draw.normal(1, 1, 1)
    corners = jitter.cast * draw.normal(3, 2, 2) * draw.some(_UNEVEN) + lamp
    cast = functional.interpolate(corners, size=(size, size), mode="bilinear")
    return torch.exp(-(density + cast)) * 255


def _compress_some(images: Tensor) -> Tensor:
    """Send a share of the images (N, 3, S, S), 0 to 255, through JPEG."""
    chosen = torch.randperm(len(images))[: round(_COMPRESSED * len(images))]
    if len(chosen) == 0:
        return images
    low, high = _QUALITY
    quality = low + (high - low) * torch.rand(len(chosen), device=images.device)
    images[chosen] = 255 * jpeg_codec_differentiable(images[chosen] / 255, quality)
    return images


def draw_views(
    images: Tensor,
    view: WindowJitter,
    size_px: int,
    frames: int = 1,
    *,
    is_shaken: bool = False,
) -> Tensor:
    """Turn, flip, zoom, stretch and shift images, all in one interpolation.

    Parameters
    ----------
    images
        (N, 3, P, P) float32: stock crops, wider than what is drawn.
    view
        How much.
    size_px
        Side of what comes out.
    frames
        So many images in a row are of one cell and get the same view.
    is_shaken
        Each of them gets a small shift of its own.

    Returns
    -------
    Tensor
        (N, 3, size_px, size_px) float32.
    """
    uniform = _Draws(len(images) // frames, frames, images.device).uniform
    side = images.shape[-1] * torch.exp(
        uniform(*torch.tensor([view.min_side, view.max_side]).log().tolist())
    )
    stretch = torch.exp(uniform(-0.08, 0.08))
    flip = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    angle = uniform(0, 2 * torch.pi)
    x, y = size_px / side * stretch * flip, size_px / side / stretch
    cos, sin = torch.cos(angle), torch.sin(angle)
    turn = torch.stack([x * cos, -y * sin, x * sin, y * cos], 1).view(-1, 2, 2)
    common = torch.stack([uniform(-1, 1), uniform(-1, 1)], 1)
    if is_shaken:
        common = common + torch.rand_like(common) * 2 - 1
    centre = (images.shape[-1] - 1) / 2 + view.shift * side[:, None] * common
    start = (size_px - 1) / 2 - (turn @ centre[..., None])
    return warp_affine(
        images,
        torch.cat([turn, start], 2),
        (size_px, size_px),
        padding_mode="reflection",
    )
