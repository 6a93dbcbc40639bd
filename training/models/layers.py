"""Layers that several families share: normalisation, and the usual loss."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from training.choices import Norm

_GROUP = 8  # channels that are normalised together
_SMOOTHING = 0.05  # of labels


def normalisation(channels: int, norm: Norm, eps: float = 1e-5) -> nn.Module:
    """Return the layer that normalises (N, channels, H, W), or passes it on.

    Batch normalisation (Ioffe and Szegedy, arXiv 1502.03167) folds into the
    convolution before it, but keeps the statistics of the laboratories it was fitted
    to; group normalisation (Wu and He, arXiv 1803.08494) uses each image alone.
    """
    if norm == "batch":
        return nn.BatchNorm2d(channels, eps=eps)
    if norm == "group":
        return nn.GroupNorm(max(1, channels // _GROUP), channels, eps=eps)
    return nn.Identity()


def replace_norms(network: nn.Module, norm: Norm) -> None:
    """Put another normalisation where `network` has batch normalisation, in place."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d) and norm != "batch":
                other = normalisation(child.num_features, norm, child.eps)
                setattr(module, name, other)


def cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """Mean cross entropy of (N, K) logits with smoothed labels; class -1 is ignored.

    Smoothing: Szegedy et al., arXiv 1512.00567, section 7.
    """
    return functional.cross_entropy(
        logits.float(), classes, label_smoothing=_SMOOTHING, ignore_index=-1
    )


def scaled(channels: int, width: float) -> int:
    """Return a share `width` of `channels`, in multiples of 8, at least 8.

    Eight channels fill a vector register.
    """
    return channels if width == 1 else max(8, round(channels * width / 8) * 8)
