"""VGG16, at full or at reduced width.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
Recognition", arXiv 1409.1556, configuration D: thirteen 3x3 convolutions in five
stages. Modules and parameters are named as in torchvision's `vgg16` and `vgg16_bn`, so
that at width 1 their ImageNet weight files fit.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from training.choices import Norm
from training.models.layers import cross_entropy, normalisation, scaled

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
REDUCTION = 32  # the input over the last grid
_HIDDEN = 4096

Head = Literal["classic", "pooled"]


class VGG16(nn.Module):
    """VGG16.

    Parameters
    ----------
    classes
        How many logits.
    width
        Share of the channels.
    norm
        After each convolution; "none" as published, "batch" as in `vgg16_bn`.
    head
        "classic": two hidden layers on the whole last grid, as published. "pooled": the
        mean of that grid and one layer; fewer weights, any input size.
    size_px
        Side of the input, a multiple of 32; the classic head is made for it, 224 as
        published. There is no adaptive pooling: engines do not take it at every size.
    dropout
        Share of the head's units that are set to zero in training.
    """

    def __init__(
        self,
        classes: int,
        *,
        width: float = 1.0,
        norm: Norm = "batch",
        head: Head = "pooled",
        size_px: int = 224,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for stage in STAGES:
            for outputs in (scaled(c, width) for c in stage):
                layers.append(nn.Conv2d(channels, outputs, 3, padding=1))
                if norm != "none":
                    layers.append(normalisation(outputs, norm))
                layers.append(nn.ReLU(inplace=True))
                channels = outputs
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.pools = head == "pooled"
        if self.pools:
            self.classifier = nn.Sequential(
                nn.Dropout(dropout), nn.Linear(channels, classes)
            )
        else:
            hidden = scaled(_HIDDEN, width)
            self.classifier = nn.Sequential(
                nn.Linear(channels * (size_px // REDUCTION) ** 2, hidden),
                nn.ReLU(inplace=True),
                nn.Dropout(dropout),
                nn.Linear(hidden, hidden),
                nn.ReLU(inplace=True),
                nn.Dropout(dropout),
                nn.Linear(hidden, classes),
            )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, S, S) standardised -> logits (N, classes)."""
        x = self.features(x)
        x = x.mean((2, 3)) if self.pools else x.flatten(1)
        logits: Tensor = self.classifier(x)
        return logits

    def loss(self, x: Tensor, classes: Tensor) -> Tensor:
        """Cross entropy of (N, 3, S, S) with its classes (N,)."""
        return cross_entropy(self(x), classes)
