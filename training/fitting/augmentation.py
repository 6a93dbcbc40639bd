"""Make another laboratory, another view and another moment out of an image.

Colour changes happen in optical density, where stain is additive: a 3x3 matrix mixes
and scales the dyes, an offset changes the lamp's white point, a smooth field its
evenness. How far they go is set by what was seen between real microscopes. Chance is
torch's own; the fitting loop seeds it at every step.
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
_MIN_BLUR_PX = 0.05  # changes nothing
_BLURRED, _GRAINY, _UNEVEN, _COMPRESSED = 0.4, 0.4, 0.3, 0.2  # shares of images
_QUALITY = (30.0, 95.0)  # of JPEG


@dataclass(frozen=True, slots=True)
class Jitter:
    """Standard deviations of each change, natural optical density unless said.

    `mix`: of the dye matrix; `strength`: ln of the overall stain strength; `lamp`: of
    the white point per channel; `level`: of the exposure; `cast`: of an uneven lamp,
    corner to corner; `blur_px`: greatest sigma; `noise`: greatest, in grey levels;
    `is_compressed`: some go through JPEG.
    """

    mix: float = 0.12
    strength: float = 0.28
    lamp: float = 0.12
    level: float = 0.10
    cast: float = 0.12
    blur_px: float = 1.3
    noise: float = 8.0
    is_compressed: bool = True


MOMENT = Jitter(  # what changes between two looks at the same cell
    mix=0.0, strength=0.0, lamp=0.03, level=0.06, cast=0.0, blur_px=1.5, noise=6.0
)


ELSEWHERE = Jitter(mix=0.2, strength=0.4)  # what changes from laboratory to laboratory


@dataclass(frozen=True, slots=True)
class WindowJitter:
    """How windows are drawn: side over that of the stock crop, and shift of the centre.

    `shift` is a share of the window's side.
    """

    least: float
    most: float
    shift: float = 0.04


STOCK_CONTEXT = 3.0  # crops are cut once, wider than needed, then zoomed
BOXED = WindowJitter(1.0 / STOCK_CONTEXT, 1.0)
WHOLE = WindowJitter(0.8, 1.1)  # of images that show one cell, without a box


def jitter_colour(images: Tensor, jitter: Jitter, frames: int = 1) -> Tensor:
    """Change stain, lamp, focus and noise of each image.

    Parameters
    ----------
    images
        (N, 3, S, S) float32, 0 to 255.
    jitter
        How far.
    frames
        So many images in a row are of one cell and change alike.

    Returns
    -------
    Tensor
        (N, 3, S, S) float32, 0 to 255.
    """
    cells, size, device = len(images) // frames, images.shape[-1], images.device

    def normal(*shape: int) -> Tensor:
        drawn = torch.randn((cells, *shape), device=device)
        return drawn.repeat_interleave(frames, 0)

    def some(share: float) -> Tensor:
        drawn = torch.rand((cells, 1, 1, 1), device=device) < share
        return drawn.float().repeat_interleave(frames, 0)

    density = -torch.log((images + 1) / 256)
    dyes = torch.eye(3, device=device) + jitter.mix * normal(3, 3)
    dyes = dyes * torch.exp(jitter.strength * normal(1, 1))
    density = (dyes @ density.flatten(2)).reshape(images.shape)
    lamp = jitter.lamp * normal(3, 1, 1) + jitter.level * normal(1, 1, 1)
    corners = jitter.cast * normal(3, 2, 2) * some(_UNEVEN) + lamp
    cast = functional.interpolate(corners, size=(size, size), mode="bilinear")
    light = torch.exp(-(density + cast)) * 255
    sigma = (
        jitter.blur_px * torch.rand_like(light[:, 0, 0, :1]) * some(_BLURRED)[:, 0, 0]
    )
    sigma = sigma.clamp(min=_MIN_BLUR_PX).expand(-1, 2)
    light = gaussian_blur2d(light, (_BLUR_TAPS, _BLUR_TAPS), sigma, separable=True)
    grain = jitter.noise * torch.rand_like(light[:, :1, :1, :1]) * some(_GRAINY)
    light = (light + grain * torch.randn_like(light)).clamp(0, 255)
    return _compress_some(light) if jitter.is_compressed else light


def _compress_some(images: Tensor) -> Tensor:
    """Send a share of the images through JPEG."""
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
    """Turn, flip, zoom, stretch and shift, all in one interpolation.

    Parameters
    ----------
    images
        (N, 3, P, P) float32: stock crops, wider than what is drawn.
    view
        How far.
    size_px
        Side of what comes out.
    frames
        So many images in a row are of one cell and are seen alike.
    is_shaken
        Each of them has a small shift of its own.

    Returns
    -------
    Tensor
        (N, 3, size_px, size_px) float32.
    """
    cells, device = len(images) // frames, images.device

    def uniform(low: float, high: float) -> Tensor:
        drawn = low + (high - low) * torch.rand(cells, device=device)
        return drawn.repeat_interleave(frames, 0)

    side = images.shape[-1] * torch.exp(
        uniform(*torch.tensor([view.least, view.most]).log().tolist())
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
