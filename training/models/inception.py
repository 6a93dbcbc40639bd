"""Inception v3, at full or at reduced width.

Szegedy et al., "Rethinking the Inception Architecture for Computer Vision",
arXiv 1512.00567: factorised convolutions, grid reduction without a bottleneck, an
auxiliary classifier in training. Modules and parameters are named as in torchvision, so
that at width 1 its ImageNet weight files fit.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.choices import Norm
from training.models.layers import cross_entropy, replace_norms, scaled

Width = Callable[[int], int]  # from the paper's channels to ours
MIN_PX = 75  # smaller inputs would leave no last grid
_POOLED_GRID = 8  # from this size on, the auxiliary classifier pools its input
_AUXILIARY_WEIGHT = 0.3


class ConvNorm(nn.Module):
    """Convolution, batch normalisation, ReLU: (N, C, H, W) -> (N, outputs, H', W')."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, normalise, rectify."""
        return functional.relu(self.bn(self.conv(x)), inplace=True)


class InceptionA(nn.Module):
    """Figure 5 of the paper: 5x5 as two 3x3. Keeps the grid."""

    def __init__(self, inputs: int, pooled: int, w: Width) -> None:
        super().__init__()
        self.branch1x1 = ConvNorm(inputs, w(64), 1)
        self.branch5x5_1 = ConvNorm(inputs, w(48), 1)
        self.branch5x5_2 = ConvNorm(w(48), w(64), 5, padding=2)
        self.branch3x3dbl_1 = ConvNorm(inputs, w(64), 1)
        self.branch3x3dbl_2 = ConvNorm(w(64), w(96), 3, padding=1)
        self.branch3x3dbl_3 = ConvNorm(w(96), w(96), 3, padding=1)
        self.branch_pool = ConvNorm(inputs, w(pooled), 1)
        self.outputs = w(64) + w(64) + w(96) + w(pooled)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H, W)."""
        pool = functional.avg_pool2d(x, 3, 1, 1)
        return torch.cat(
            [
                self.branch1x1(x),
                self.branch5x5_2(self.branch5x5_1(x)),
                self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
                self.branch_pool(pool),
            ],
            1,
        )


class InceptionB(nn.Module):
    """Figure 10: halves the grid while widening."""

    def __init__(self, inputs: int, w: Width) -> None:
        super().__init__()
        self.branch3x3 = ConvNorm(inputs, w(384), 3, stride=2)
        self.branch3x3dbl_1 = ConvNorm(inputs, w(64), 1)
        self.branch3x3dbl_2 = ConvNorm(w(64), w(96), 3, padding=1)
        self.branch3x3dbl_3 = ConvNorm(w(96), w(96), 3, stride=2)
        self.outputs = w(384) + w(96) + inputs

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, (H - 1) // 2, (W - 1) // 2)."""
        return torch.cat(
            [
                self.branch3x3(x),
                self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
                functional.max_pool2d(x, 3, 2),
            ],
            1,
        )


class InceptionC(nn.Module):
    """Figure 6: 7x7 as 1x7 and 7x1. Keeps the grid."""

    def __init__(self, inputs: int, inner: int, w: Width) -> None:
        super().__init__()
        c, out = w(inner), w(192)
        self.branch1x1 = ConvNorm(inputs, out, 1)
        self.branch7x7_1 = ConvNorm(inputs, c, 1)
        self.branch7x7_2 = ConvNorm(c, c, (1, 7), padding=(0, 3))
        self.branch7x7_3 = ConvNorm(c, out, (7, 1), padding=(3, 0))
        self.branch7x7dbl_1 = ConvNorm(inputs, c, 1)
        self.branch7x7dbl_2 = ConvNorm(c, c, (7, 1), padding=(3, 0))
        self.branch7x7dbl_3 = ConvNorm(c, c, (1, 7), padding=(0, 3))
        self.branch7x7dbl_4 = ConvNorm(c, c, (7, 1), padding=(3, 0))
        self.branch7x7dbl_5 = ConvNorm(c, out, (1, 7), padding=(0, 3))
        self.branch_pool = ConvNorm(inputs, out, 1)
        self.outputs = 4 * out

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H, W)."""
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        pool = self.branch_pool(functional.avg_pool2d(x, 3, 1, 1))
        return torch.cat([self.branch1x1(x), seven, double, pool], 1)


class InceptionD(nn.Module):
    """Grid reduction before the last stage."""

    def __init__(self, inputs: int, w: Width) -> None:
        super().__init__()
        self.branch3x3_1 = ConvNorm(inputs, w(192), 1)
        self.branch3x3_2 = ConvNorm(w(192), w(320), 3, stride=2)
        self.branch7x7x3_1 = ConvNorm(inputs, w(192), 1)
        self.branch7x7x3_2 = ConvNorm(w(192), w(192), (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = ConvNorm(w(192), w(192), (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = ConvNorm(w(192), w(192), 3, stride=2)
        self.outputs = w(320) + w(192) + inputs

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, (H - 1) // 2, (W - 1) // 2)."""
        seven = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        return torch.cat(
            [
                self.branch3x3_2(self.branch3x3_1(x)),
                self.branch7x7x3_4(seven),
                functional.max_pool2d(x, 3, 2),
            ],
            1,
        )


class InceptionE(nn.Module):
    """Figure 7: expanded filter bank on the coarsest grid."""

    def __init__(self, inputs: int, w: Width) -> None:
        super().__init__()
        self.branch1x1 = ConvNorm(inputs, w(320), 1)
        self.branch3x3_1 = ConvNorm(inputs, w(384), 1)
        self.branch3x3_2a = ConvNorm(w(384), w(384), (1, 3), padding=(0, 1))
        self.branch3x3_2b = ConvNorm(w(384), w(384), (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = ConvNorm(inputs, w(448), 1)
        self.branch3x3dbl_2 = ConvNorm(w(448), w(384), 3, padding=1)
        self.branch3x3dbl_3a = ConvNorm(w(384), w(384), (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = ConvNorm(w(384), w(384), (3, 1), padding=(1, 0))
        self.branch_pool = ConvNorm(inputs, w(192), 1)
        self.outputs = w(320) + 4 * w(384) + w(192)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H, W)."""
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        return torch.cat(
            [
                self.branch1x1(x),
                self.branch3x3_2a(three),
                self.branch3x3_2b(three),
                self.branch3x3dbl_3a(double),
                self.branch3x3dbl_3b(double),
                self.branch_pool(functional.avg_pool2d(x, 3, 1, 1)),
            ],
            1,
        )


class InceptionAux(nn.Module):
    """The auxiliary classifier on the 7x7 stage; only training uses it."""

    def __init__(self, inputs: int, classes: int, w: Width) -> None:
        super().__init__()
        self.conv0 = ConvNorm(inputs, w(128), 1)
        self.conv1 = ConvNorm(w(128), w(768), 5, padding=2)
        self.fc = nn.Linear(w(768), classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> logits (N, classes)."""
        if x.shape[-1] >= _POOLED_GRID:
            x = functional.avg_pool2d(x, 5, 3)
        logits: Tensor = self.fc(self.conv1(self.conv0(x)).mean((2, 3)))
        return logits


class Inception(nn.Module):
    """Inception v3.

    Parameters
    ----------
    classes
        Number of outputs.
    width
        Share of the paper's channels; 1 is Inception v3 itself.
    norm
        "batch" as published, or "group".
    dropout
        Before the last layer.
    """

    def __init__(
        self,
        classes: int,
        *,
        width: float = 1.0,
        norm: Norm = "batch",
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        w = partial(scaled, width=width)
        self.Conv2d_1a_3x3 = ConvNorm(3, w(32), 3, stride=2)
        self.Conv2d_2a_3x3 = ConvNorm(w(32), w(32), 3)
        self.Conv2d_2b_3x3 = ConvNorm(w(32), w(64), 3, padding=1)
        self.Conv2d_3b_1x1 = ConvNorm(w(64), w(80), 1)
        self.Conv2d_4a_3x3 = ConvNorm(w(80), w(192), 3)
        self.Mixed_5b = InceptionA(w(192), 32, w)
        self.Mixed_5c = InceptionA(self.Mixed_5b.outputs, 64, w)
        self.Mixed_5d = InceptionA(self.Mixed_5c.outputs, 64, w)
        self.Mixed_6a = InceptionB(self.Mixed_5d.outputs, w)
        self.Mixed_6b = InceptionC(self.Mixed_6a.outputs, 128, w)
        self.Mixed_6c = InceptionC(self.Mixed_6b.outputs, 160, w)
        self.Mixed_6d = InceptionC(self.Mixed_6c.outputs, 160, w)
        self.Mixed_6e = InceptionC(self.Mixed_6d.outputs, 192, w)
        self.AuxLogits = InceptionAux(self.Mixed_6e.outputs, classes, w)
        self.Mixed_7a = InceptionD(self.Mixed_6e.outputs, w)
        self.Mixed_7b = InceptionE(self.Mixed_7a.outputs, w)
        self.Mixed_7c = InceptionE(self.Mixed_7b.outputs, w)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(self.Mixed_7c.outputs, classes)

        replace_norms(self, norm)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, S, S) standardised -> logits (N, classes)."""
        return self._classify(self._middle(x))

    def loss(self, x: Tensor, classes: Tensor) -> Tensor:
        """Cross entropy of (N, 3, S, S) with classes (N,), of both classifiers."""
        middle = self._middle(x)
        return cross_entropy(
            self._classify(middle), classes
        ) + _AUXILIARY_WEIGHT * cross_entropy(self.AuxLogits(middle), classes)

    def _middle(self, x: Tensor) -> Tensor:
        """(N, 3, S, S) -> the last 7x7 stage, the input of the auxiliary classifier."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(functional.max_pool2d(x, 3, 2)))
        x = functional.max_pool2d(x, 3, 2)
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))
        return self.Mixed_6e(self.Mixed_6d(x))  # type: ignore[no-any-return]

    def _classify(self, x: Tensor) -> Tensor:
        """(N, C, H, W) of the last 7x7 stage -> logits (N, classes)."""
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        logits: Tensor = self.fc(self.dropout(x.mean((2, 3))))
        return logits
