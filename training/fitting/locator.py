"""Train the locator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge.artifacts.bundle import LocationSpec, Metric
from edge.stages.detection import find_regions, reduce
from training.data.rows import Field
from training.fitting.augmentation import Jitter, jitter_colour
from training.fitting.device import SINGLE_CPU, TrainingDevice
from training.fitting.locator_targets import FILL, MEAN, draw_batch
from training.fitting.loop import FitPlan, Fitted, fit
from training.fitting.model_graphs import LocatorGraph, Standardise, TorchEngine
from training.metrics.bootstrap import with_interval
from training.metrics.box_matching import Tally, match
from training.models.locator import STRIDE_PX, Locator, centre_loss, side_loss

CLASSES = ("RBC", "WBC", "Platelet")
_STD = (0.20, 0.22, 0.18)  # RGB of blood smears, 0 to 1
SPEC = LocationSpec(
    diameter_px=24.0,
    stride_px=STRIDE_PX,
    thresholds=(0.45, 0.30, 0.45),
    overlap=0.55,
    fill=FILL,
    trust=1.0,
)


def new_graph() -> LocatorGraph:
    """Return an untrained locator."""
    return LocatorGraph(Standardise(MEAN, _STD), Locator(len(CLASSES)))


def train_locator(
    fields: Sequence[Field],
    val: Sequence[Field],
    plan: FitPlan,
    *,
    device: TrainingDevice = SINGLE_CPU,
    folder: Path | None = None,
    purpose: str = "",
) -> Fitted[LocatorGraph]:
    """Fit a locator to labelled fields.

    Parameters
    ----------
    fields, val
        Fields to fit to, and to choose the best epoch by.
    plan, device, folder, purpose
        See `training.fitting.loop.fit`.

    Raises
    ------
    FitDiverged, CheckpointRefused
        See `training.fitting.loop.fit`.
    """
    torch.manual_seed(plan.seed)

    def draw(seed: int) -> tuple[Tensor, ...]:
        random = np.random.default_rng(seed)
        size = plan.batch // device.world
        batch = draw_batch(fields, len(CLASSES), SPEC.diameter_px, size, random)
        images = jitter_colour(batch.images.to(device.torch_device), Jitter())
        return images, batch.heat, batch.weight, batch.sides, batch.near

    def loss(graph: LocatorGraph, images: Tensor, *truth: Tensor) -> Tensor:
        heat, weight, true_sides, near = truth
        centres, sides = graph.network(graph.standardise.planes(images))
        centre_error = centre_loss(centres, heat, weight)
        return centre_error + 2 * side_loss(sides, true_sides, near)

    def score(graph: LocatorGraph) -> tuple[float, str]:
        return summarise(evaluate(graph, val))

    return fit(
        new_graph(),
        draw,
        loss,
        score,
        plan,
        device=device,
        folder=folder,
        purpose=purpose,
    )


def evaluate(
    graph: LocatorGraph, fields: Sequence[Field], spec: LocationSpec = SPEC
) -> dict[tuple[str, str], Tally]:
    """Count cells that the device would find, per domain and class, at the true scale.

    Red cells of fields that are not completely labelled are left out.
    """
    engine = TorchEngine(graph)
    tallies: dict[tuple[str, str], Tally] = {}
    for field in fields:
        small = reduce(field.pixels, spec.diameter_px / field.diameter_px)
        frame_px = (field.pixels.shape[1], field.pixels.shape[0])
        found = find_regions(small, engine, spec, frame_px)
        for index, name in enumerate(CLASSES):
            if index == 0 and not field.is_complete:
                continue
            _, tally = match(
                found.boxes[found.kinds == index], field.boxes[field.classes == index]
            )
            key = (field.domain, name)
            tallies[key] = tallies.get(key, Tally()) + tally
    return tallies


def summarise(tallies: dict[tuple[str, str], Tally]) -> tuple[float, str]:
    """Return the score of an epoch, in which white cells weigh most, and a line."""
    f1 = {
        name: np.nanmean([t.f1 for (_, of), t in tallies.items() if of == name])
        for name in CLASSES
    }
    recall = np.nanmean([t.recall for (_, of), t in tallies.items() if of == "WBC"])
    score = float(f1["RBC"] + f1["WBC"] + recall + 0.3 * f1["Platelet"]) / 3.3
    line = "  ".join(f"{name} F1 {value:.3f}" for name, value in f1.items())
    return score, f"{line}  WBC recall {recall:.3f}"


def metrics_of(graph: LocatorGraph, fields: Sequence[Field]) -> dict[str, Metric]:
    """F1 per class and recall of white cells on fields never seen, with intervals."""
    single = [evaluate(graph, [field]) for field in fields]
    groups = [str(field.path) for field in fields]

    def total(chosen: NDArray[np.intp], name: str) -> Tally:
        tallies = [t for i in chosen for (_, of), t in single[i].items() if of == name]
        return sum(tallies, Tally())

    def f1_of(name: str) -> Callable[[NDArray[np.intp]], float]:
        return lambda chosen: total(chosen, name).f1

    metrics = {f"test {n} F1": with_interval(f1_of(n), groups) for n in CLASSES}
    metrics["test WBC recall"] = with_interval(lambda i: total(i, "WBC").recall, groups)
    return metrics
