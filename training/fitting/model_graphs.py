"""Model graphs: everything between corrected 8-bit pixels and what the device reads.

The same module is evaluated here and exported, so training and device always agree.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from edge.engines import Outputs


class Standardise(nn.Module):
    """(N, H, W, 3) uint8 RGB -> (N, 3, H, W) float32, zero mean and unit variance."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.mean = nn.Buffer(torch.tensor(mean).view(1, 3, 1, 1))
        self.std = nn.Buffer(torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Cast and standardise; TensorRT takes uint8 only at the graph's input."""
        return self.planes(image.float().permute(0, 3, 1, 2))

    def pixels(self, planes: Tensor) -> Tensor:
        """Undo `planes`: (N, 3, H, W) standardised -> (N, H, W, 3) uint8."""
        image = 255 * (planes * self.std + self.mean)
        return image.clamp(0, 255).byte().permute(0, 2, 3, 1)

    def planes(self, image: Tensor) -> Tensor:
        """Standardise (N, 3, H, W) float32, 0 to 255, as augmentation returns them."""
        return (image / 255 - self.mean) / self.std


class ClassifierGraph(nn.Module):
    """Crops to `logits` and calibrated `probabilities`, both (N, K) float32."""

    names: tuple[str, ...] = ("logits", "probabilities")

    def __init__(self, standardise: Standardise, network: nn.Module) -> None:
        super().__init__()
        self.standardise, self.network = standardise, network
        self.temperature = nn.Buffer(torch.tensor(1.0))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(N, S, S, 3) uint8 RGB -> logits, probabilities."""
        logits = self.network(self.standardise(image))
        return logits, functional.softmax(logits / self.temperature, dim=1)


class SequenceGraph(ClassifierGraph):
    """One step of a recurrent model: it takes crops and the state of each cell."""

    names = ("logits", "probabilities", "next_state")

    @property
    def state_size(self) -> int:
        """Numbers that are carried from frame to frame, per cell."""
        return int(self.network.state_size)  # type: ignore[arg-type]

    def forward(  # type: ignore[override]
        self, image: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(N, S, S, 3) uint8 RGB, (N, D) -> logits, probabilities, next state."""
        logits, next_state = self.network(self.standardise(image), state)
        return logits, functional.softmax(logits / self.temperature, dim=1), next_state


class LocatorGraph(nn.Module):
    """A reduced frame to `likely` (1, h, w, K) and `sides` (1, h, w, 4)."""

    names = ("likely", "sides")

    def __init__(self, standardise: Standardise, network: nn.Module) -> None:
        super().__init__()
        self.standardise, self.network = standardise, network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(N, H, W, 3) uint8 RGB, H and W multiples of 16 -> likely, sides."""
        centres, sides = self.network(self.standardise(image))
        likely = torch.sigmoid(centres)
        return likely.permute(0, 2, 3, 1), sides.permute(0, 2, 3, 1)


class TorchEngine:
    """A torch graph as an engine, so that training evaluates by the device's code."""

    def __init__(self, graph: ClassifierGraph | LocatorGraph) -> None:
        self._graph = graph

    @torch.inference_mode()
    def infer(
        self, batch: NDArray[np.uint8], state: NDArray[np.float32] | None = None
    ) -> Outputs:
        """Run the graph; see `edge.engines.Engine.infer`."""
        device = next(self._graph.parameters()).device
        inputs = [torch.from_numpy(np.ascontiguousarray(batch)).to(device)]
        if state is not None:
            inputs.append(torch.from_numpy(state).to(device))
        outputs = self._graph.eval()(*inputs)
        named = zip(self._graph.names, outputs, strict=True)
        tensors = {name: values.cpu().numpy() for name, values in named}
        return Outputs(tensors, tensors.pop("next_state", None))

    def close(self) -> None:
        """Nothing to release."""
