"""Train a classifier of single cells, whatever its family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from edge.engines import Engine
from training.augment import Jitter, jitter_colour
from training.data import Crops, Row, cut_task_crops, join
from training.fit import Fitted, Plan, fit
from training.graphs import ClassifierGraph, Standardise, TorchEngine
from training.simulated import simulated_crops

STOCK_PX, STOCK_CONTEXT = 128, 1.8  # crops are cut once, wider than needed, then zoomed
_LEAST_CONTEXT = 0.95
_AUXILIARY_WEIGHT = 0.3
_SMOOTHING = 0.05


@dataclass(frozen=True, slots=True)
class CropSpec:
    """What the device will cut: `size_px`, and `context` of the box."""

    size_px: int
    context: float


def train_classifier(
    network: nn.Module,
    train: Sequence[tuple[Row, int]],
    held: Crops,
    spec: CropSpec,
    plan: Plan,
    *,
    slides: int = 0,
    batch: int = 64,
) -> Fitted[ClassifierGraph]:
    """Fit a network to labelled cells.

    Parameters
    ----------
    network
        (N, 3, S, S) standardised -> logits, in training with auxiliary logits.
    train
        Rows with their class, to fit to.
    held
        Crops of `val`, to choose the best epoch by.
    spec
        How the device cuts its crops; `held` is cut like that.
    plan
        How long.
    slides
        Simulated slides whose cells are added, for task `cells4`.
    batch
        Crops per step.
    """
    torch.manual_seed(plan.seed)
    stock = cut_task_crops(train, STOCK_PX, STOCK_CONTEXT)
    if slides:
        stock = join(stock, simulated_crops(slides, STOCK_PX, STOCK_CONTEXT))
    weights = torch.from_numpy(_weights(stock))
    images = torch.from_numpy(stock.pixels)
    classes = torch.from_numpy(stock.classes)
    graph = ClassifierGraph(standardise(stock), network)

    def loss(graph: ClassifierGraph, random: torch.Generator) -> Tensor:
        drawn = torch.multinomial(weights, batch, replacement=True, generator=random)
        seen = images[drawn].permute(0, 3, 1, 2).float()
        seen = jitter_colour(_warp(seen, spec, random), Jitter(), random)
        logits = graph.network(graph.standardise.planes(seen))
        if isinstance(logits, tuple):
            main, auxiliary = logits
            return _loss(main, classes[drawn]) + _AUXILIARY_WEIGHT * _loss(
                auxiliary, classes[drawn]
            )
        return _loss(logits, classes[drawn])

    def score(graph: ClassifierGraph) -> tuple[float, str]:
        return summarise(predict(TorchEngine(graph), held.pixels), held)

    return fit(graph, loss, score, plan)


def standardise(crops: Crops) -> Standardise:
    """Standardisation by the channel means and deviations of these crops."""
    sample = crops.pixels[:: max(1, len(crops.pixels) // 2000)].reshape(-1, 3) / 255
    mean, std = sample.mean(axis=0).tolist(), sample.std(axis=0).tolist()
    return Standardise(tuple(mean), tuple(std))


def predict(engine: Engine, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits (N, K) of crops (N, S, S, 3) uint8."""
    parts = [
        engine.infer(pixels[start : start + 256]).tensors["logits"]
        for start in range(0, len(pixels), 256)
    ]
    return np.concatenate(parts)


def summarise(logits: NDArray[np.float32], crops: Crops) -> tuple[float, str]:
    """Balanced accuracy, averaged over domains, and a line that shows each domain."""
    right = logits.argmax(axis=1) == crops.classes
    domains = np.array([row.domain for row in crops.rows])
    balanced = {}
    for domain in sorted(set(domains)):
        here = domains == domain
        recalls = [
            right[here & (crops.classes == k)].mean()
            for k in np.unique(crops.classes[here])
        ]
        balanced[domain] = float(np.mean(recalls))
    line = "  ".join(f"{name} {value:.4f}" for name, value in balanced.items())
    return float(np.mean(list(balanced.values()))), f"balanced accuracy: {line}"


def _weights(crops: Crops) -> NDArray[np.float64]:
    """Draw rare pairs of class and domain more often, by the square root of rarity."""
    pairs = [
        (int(k), row.domain) for k, row in zip(crops.classes, crops.rows, strict=True)
    ]
    number = {pair: pairs.count(pair) for pair in set(pairs)}
    return np.array([number[pair] ** -0.5 for pair in pairs])


def _loss(logits: Tensor, classes: Tensor) -> Tensor:
    return functional.cross_entropy(logits, classes, label_smoothing=_SMOOTHING)


def _warp(images: Tensor, spec: CropSpec, random: torch.Generator) -> Tensor:
    """Turn, flip, zoom, stretch and shift stock crops, in one interpolation.

    Parameters
    ----------
    images
        (N, 3, STOCK_PX, STOCK_PX) float32.
    spec
        Size of what comes out.
    random
        Source of chance.

    Returns
    -------
    Tensor
        (N, 3, size, size) float32, windows of 0.95 to 1.8 times the cell.
    """
    n = len(images)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, generator=random)

    zoom = torch.exp(uniform(float(np.log(_LEAST_CONTEXT / STOCK_CONTEXT)), 0.0))
    stretch = torch.exp(uniform(-0.08, 0.08))
    flip = torch.where(torch.rand(n, generator=random) < 0.5, -1.0, 1.0)
    angle = uniform(0, 2 * np.pi)
    cos, sin = torch.cos(angle), torch.sin(angle)
    x, y = zoom * stretch * flip, zoom / stretch
    shift = 0.08 * zoom
    rows = [
        torch.stack([x * cos, -y * sin, shift * uniform(-1, 1)], 1),
        torch.stack([x * sin, y * cos, shift * uniform(-1, 1)], 1),
    ]
    shape = [n, 3, spec.size_px, spec.size_px]
    grid = functional.affine_grid(torch.stack(rows, 1), shape, align_corners=False)
    return functional.grid_sample(
        images, grid, padding_mode="reflection", align_corners=False
    )
