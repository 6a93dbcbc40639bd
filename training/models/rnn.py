"""A convolutional network with a recurrent memory, for cells seen more than once.

Each frame of a cell goes through the same convolutions; a gated recurrent unit (Cho et
al., arXiv 1406.1078) or a long short-term memory (Hochreiter and Schmidhuber, 1997)
carries information from earlier frames. The device runs one step per frame, with the
state in and out, so the cost of a frame does not grow with its history.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from training.choices import Norm
from training.models.layers import cross_entropy, normalisation, scaled

_STAGES = (32, 64, 128, 128)

Cell = Literal["gru", "lstm"]


class RecurrentCNN(nn.Module):
    """Convolutions, one recurrent cell, one layer.

    Parameters
    ----------
    classes
        How many logits.
    width
        Share of the convolutions' channels.
    norm
        After each convolution.
    cell
        "gru" or "lstm".
    memory
        Units of the recurrent cell.
    dropout
        Share of the features that are set to zero in training.
    """

    half_parts = ("features",)  # rounding errors of the state would add up over hours

    def __init__(
        self,
        classes: int,
        *,
        width: float = 1.0,
        norm: Norm = "batch",
        cell: Cell = "gru",
        memory: int = 96,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for stage in _STAGES:
            outputs = scaled(stage, width)
            for _ in range(2):
                layers += [
                    nn.Conv2d(channels, outputs, 3, padding=1, bias=False),
                    normalisation(outputs, norm),
                    nn.ReLU(inplace=True),
                ]
                channels = outputs
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.memory = memory
        self.state_size = memory if cell == "gru" else 2 * memory
        kind = nn.GRUCell if cell == "gru" else nn.LSTMCell
        self.cell = kind(channels, memory)
        self.head = nn.Linear(memory + channels, classes)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One frame: (N, 3, S, S), state (N, D) -> logits (N, classes), next state.

        A cell that was not seen before has a state of zeros.
        """
        return self._step(self.features(x).mean((2, 3)), state)

    def _step(self, features: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, C), state (N, D) -> logits (N, classes), next state (N, D)."""
        features = self.dropout(features)
        if isinstance(self.cell, nn.GRUCell):
            output = state = self.cell(features, state)
        else:
            output, kept = self.cell(features, state.chunk(2, 1))
            state = torch.cat([output, kept], 1)
        return self.head(torch.cat([output, features], 1)), state

    def loss(self, x: Tensor, classes: Tensor) -> Tensor:
        """Cross entropy of (N, T, 3, S, S) with classes (N, T), -1 where none."""
        each = self.features(x.flatten(0, 1)).mean((2, 3))
        state = each.new_zeros(len(x), self.state_size)
        logits = []
        for frame in each.reshape(*x.shape[:2], -1).unbind(1):
            predicted, state = self._step(frame, state)
            logits.append(predicted)
        return cross_entropy(torch.stack(logits, 1).flatten(0, 1), classes.flatten())
