"""The locator: a small fully convolutional network that finds cells.

"Objects as points" (Zhou et al., arXiv 1904.07850): a map per class with a peak at each
cell's centre, and the distances to the four sides of its box (FCOS, arXiv 1904.01355).
Channel numbers are multiples of 16, a vector register of eight- or four-byte lanes, and
the grid is an eighth of the frame where most of the work is done: so it takes
a few milliseconds per frame on one core.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

STRIDE_PX = 4
SIDE_PX = 8.0  # sides are predicted as exp(x) times this


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution, batch normalisation, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut: keeps the shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _conv(channels, channels)
        self.second = _conv(channels, channels)[:2]

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return functional.relu(x + self.second(self.first(x)), inplace=True)


class Locator(nn.Module):
    """Centres and sides of cells.

    Parameters
    ----------
    classes
        Number of maps.
    widths
        Channels at a half, a quarter and an eighth of the frame.
    """

    def __init__(
        self, classes: int, widths: tuple[int, int, int] = (16, 16, 48)
    ) -> None:
        super().__init__()
        half, quarter, eighth = widths
        self.classes = classes
        self.stem = _conv(3, half, 2)
        self.quarter = nn.Sequential(_conv(half, quarter, 2), Residual(quarter))
        self.eighth = nn.Sequential(
            _conv(quarter, eighth, 2), Residual(eighth), Residual(eighth)
        )
        self.lateral = nn.Conv2d(eighth, quarter, 1)
        self.fuse = _conv(quarter, quarter)
        self.head = nn.Conv2d(quarter, classes + 4, 1)
        rare = torch.cat([torch.full((classes,), -3.0), torch.zeros(4)])
        self.head.bias = nn.Parameter(rare)  # at most positions there is no cell

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Find cells.

        Parameters
        ----------
        x
            (N, 3, H, W) standardised; H and W are multiples of 8.

        Returns
        -------
        centres, sides
            (N, classes, H/4, W/4) logits, and (N, 4, H/4, W/4) pixels to left, top,
            right and bottom.
        """
        quarter = self.quarter(self.stem(x))
        context = self.lateral(self.eighth(quarter))
        context = functional.interpolate(context, scale_factor=2.0, mode="nearest")
        out = self.head(self.fuse(quarter + context))
        sides = torch.exp(out[:, self.classes :].clamp(-4, 4)) * SIDE_PX
        return out[:, : self.classes], sides


def centre_loss(logits: Tensor, heat: Tensor, weight: Tensor) -> Tensor:
    """Penalty-reduced focal loss of CornerNet (arXiv 1808.01244), per centre.

    Parameters
    ----------
    logits, heat, weight
        (N, K, h, w); `heat` is 1 at centres and falls off around them; `weight` is 0
        where cells are not labelled.
    """
    p = torch.sigmoid(logits).clamp(1e-4, 1 - 1e-4)
    centre = (heat > 0.999).float()
    missed = centre * (1 - p) ** 2 * torch.log(p)
    false = (1 - centre) * (1 - heat) ** 4 * p**2 * torch.log(1 - p)
    return -((missed + false) * weight).sum() / centre.sum().clamp(min=1)


def side_loss(sides: Tensor, true_sides: Tensor, near: Tensor) -> Tensor:
    """1 - generalised IoU (arXiv 1902.09630), averaged where `near` a centre.

    Parameters
    ----------
    sides, true_sides
        (N, 4, h, w) pixels to left, top, right and bottom.
    near
        (N, h, w) bool.
    """
    p, t = sides.permute(1, 0, 2, 3)[:, near], true_sides.permute(1, 0, 2, 3)[:, near]
    if p.shape[1] == 0:
        return sides.sum() * 0
    inner, outer = torch.minimum(p, t), torch.maximum(p, t)
    overlap = (inner[0] + inner[2]) * (inner[1] + inner[3])
    union = (p[0] + p[2]) * (p[1] + p[3]) + (t[0] + t[2]) * (t[1] + t[3]) - overlap
    hull = (outer[0] + outer[2]) * (outer[1] + outer[3])
    return (1 - overlap / union + (hull - union) / hull).mean()
