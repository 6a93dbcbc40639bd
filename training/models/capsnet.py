"""A capsule network with dynamic routing.

Sabour, Frosst and Hinton, "Dynamic Routing Between Capsules", arXiv 1710.09829. A
capsule is a vector: its direction describes how something looks, its length how likely
it is there. There are more convolutions in front than the paper's single one, since
cells are more complex than digits.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.choices import Norm
from training.models.layers import normalisation, scaled

REDUCTION = 16  # the input over the grid of primary capsules
_STAGES = (32, 64, 128)
_PRIMARY, _PRIMARY_SIZE, _CLASS_SIZE = 16, 8, 16
_ITERATIONS = 3
_PRESENT, _ABSENT, _ABSENT_WEIGHT = 0.9, 0.1, 0.5  # margins, section 3 of the paper
_RECONSTRUCTION_WEIGHT = 0.0005  # of the sum of squares, section 4.1
_RECONSTRUCTED_PX = 16
_SHARPNESS = 10.0  # logits per length: lengths lie between 0 and 1


def squash(vectors: Tensor) -> Tensor:
    """Shorten vectors to a length below 1 and keep their direction (equation 1).

    Parameters
    ----------
    vectors
        (..., D) of any precision; computed and returned in float32, since squares of
        short vectors vanish in half precision.
    """
    vectors = vectors.float()
    square = (vectors * vectors).sum(-1, keepdim=True)
    return vectors * (square / (1 + square) / torch.sqrt(square + 1e-9))


def length(vectors: Tensor) -> Tensor:
    """Lengths (...) of vectors (..., D), with a gradient also at zero."""
    return torch.sqrt((vectors * vectors).sum(-1) + 1e-9)


def route(votes: Tensor, iterations: int = _ITERATIONS) -> Tensor:
    """Routing by agreement (procedure 1 of the paper), in float32.

    Parameters
    ----------
    votes
        (N, P, K, D): the prediction of each of P primary capsules for the capsule of
        each of K classes.
    iterations
        How often the coupling is adapted; gradients flow through the last iteration.

    Returns
    -------
    Tensor
        (N, K, D) class capsules.
    """
    votes = votes.float()
    fixed = votes.detach()
    agreement = torch.zeros_like(fixed[..., :1])
    for _ in range(iterations - 1):
        coupling = functional.softmax(agreement, dim=2)
        capsules = squash((coupling * fixed).sum(1))
        agreement = agreement + (fixed * capsules[:, None]).sum(-1, keepdim=True)
    return squash((functional.softmax(agreement, dim=2) * votes).sum(1))


class CapsNet(nn.Module):
    """Convolutions, primary capsules, class capsules, and a decoder for training.

    Parameters
    ----------
    classes
        How many class capsules.
    width
        Share of the convolutions' channels.
    norm
        After each convolution.
    size_px
        Side of the input, a multiple of 16.
    """

    half_parts = "features", "primary"  # squash and routing need float32

    def __init__(
        self,
        classes: int,
        *,
        width: float = 1.0,
        norm: Norm = "batch",
        size_px: int = 64,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for stage in _STAGES:
            outputs = scaled(stage, width)
            for stride in (2, 1):
                layers += [
                    nn.Conv2d(channels, outputs, 3, stride, padding=1, bias=False),
                    normalisation(outputs, norm),
                    nn.ReLU(inplace=True),
                ]
                channels = outputs
        self.features = nn.Sequential(*layers)
        self.primary = nn.Conv2d(
            channels, _PRIMARY * _PRIMARY_SIZE, 3, stride=2, padding=1
        )
        count = _PRIMARY * (size_px // REDUCTION) ** 2
        self.transform = nn.Parameter(
            0.1 * torch.randn(count, classes, _CLASS_SIZE, _PRIMARY_SIZE)
        )
        self.decoder = nn.Sequential(
            nn.Linear(classes * _CLASS_SIZE, 256),
            nn.ReLU(inplace=True),
            nn.Linear(256, 512),
            nn.ReLU(inplace=True),
            nn.Linear(512, 3 * _RECONSTRUCTED_PX**2),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, S, S) standardised -> logits (N, classes): lengths, scaled."""
        return _SHARPNESS * length(self.capsules(x))

    def capsules(self, x: Tensor) -> Tensor:
        """(N, 3, S, S) standardised -> class capsules (N, classes, 16) float32."""
        grid = self.primary(self.features(x)).float()
        primary = squash(
            grid.reshape(-1, _PRIMARY, _PRIMARY_SIZE, *grid.shape[2:])
            .permute(0, 1, 3, 4, 2)
            .flatten(1, 3)
        )
        with torch.autocast(x.device.type, enabled=False):
            votes = (self.transform[None] @ primary[:, :, None, :, None]).squeeze(-1)
            return route(votes)

    def reconstruct(self, capsules: Tensor, classes: Tensor) -> Tensor:
        """Decode the capsule of the true class to (N, 3, 16, 16) standardised."""
        mask = functional.one_hot(classes, capsules.shape[1]).to(capsules.dtype)
        pixels: Tensor = self.decoder((capsules * mask[..., None]).flatten(1))
        return pixels.reshape(-1, 3, _RECONSTRUCTED_PX, _RECONSTRUCTED_PX)

    def loss(self, x: Tensor, classes: Tensor) -> Tensor:
        """Margin loss (equation 4) and the error of the reconstruction."""
        capsules = self.capsules(x)
        reduced = functional.adaptive_avg_pool2d(x, _RECONSTRUCTED_PX)
        error = (self.reconstruct(capsules, classes) - reduced).square()
        kept = error.sum((1, 2, 3)).mean()
        return margin_loss(length(capsules), classes) + _RECONSTRUCTION_WEIGHT * kept


def margin_loss(lengths: Tensor, classes: Tensor) -> Tensor:
    """Mean margin loss of capsule lengths (N, K) with classes (N,)."""
    present = functional.one_hot(classes, lengths.shape[1]).to(lengths.dtype)
    missed = functional.relu(_PRESENT - lengths).square()
    invented = functional.relu(lengths - _ABSENT).square()
    loss = present * missed + _ABSENT_WEIGHT * (1 - present) * invented
    return loss.sum(1).mean()
