"""One training session of a classifier: cut cells, build, pretrain, fit, evaluate."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from edge.artifacts.bundle import InputSpec, Metric
from edge.taxonomy import TASKS
from training.choices import Colour
from training.data.clips import Clips
from training.data.data_report import write_data_report
from training.data.rows import digest
from training.fitting import checkpoint
from training.fitting.classifier import (
    BatchSampling,
    Predictions,
    as_crops,
    evaluate,
    some_of_each,
    standardise,
    train_classifier,
)
from training.fitting.dbn_pretraining import pretrain
from training.fitting.device import SINGLE_CPU, TrainingDevice
from training.fitting.families import CLASSIFIERS, Family, Setting, new_classifier
from training.fitting.imagenet_weights import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    load_weights_file,
)
from training.fitting.loop import FitPlan, Fitted
from training.fitting.model_graphs import ClassifierGraph, Standardise
from training.metrics.bootstrap import balanced_accuracy, with_interval
from training.models.dbn import DBN
from training.sessions.bundle_summary import measure_size, summary
from training.sessions.gathering import Cells, GatheredRows, cut_cells, profiles_of
from training.sessions.run_folder import HeldOut, RunRecord

_SAMPLES, _GIBBS_STEPS = 64, 200  # of the picture of a deep belief network
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class TrainingRequest:
    """What is to be fitted, and how.

    `network` are the settings of the family's network; `weights` is an ImageNet file;
    `label_share`, 0 to 1, is how much of the labelled cells is used; `colour` is the
    treatment that brings all laboratories to one look; `is_pretrained` matters for
    families that learn without labels too.
    """

    family: str
    plan: FitPlan
    network: Mapping[str, Setting]
    weights: Path | None = None
    label_share: float = 1.0
    colour: Colour = "as-is"
    is_pretrained: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class TrainingOutcome:
    """A run, ready to be written, with its predictions on `val` and `test`."""

    record: RunRecord
    graph: ClassifierGraph
    val: Predictions
    test: Predictions | None

    @property
    def held(self) -> HeldOut:
        """The predictions on `val`: the export calibrates confidence with them."""
        return HeldOut(self.val.logits, self.val.classes, self.val.of_rows("group"))


def train(
    request: TrainingRequest,
    gathered: GatheredRows,
    *,
    say: Say,
    device: TrainingDevice = SINGLE_CPU,
    folder: Path | None = None,
) -> TrainingOutcome:
    """Fit a family to gathered cells and evaluate it on those it never saw.

    Parameters
    ----------
    request
        What is fitted, and how.
    gathered
        The cells.
    say
        Shows a line.
    device, folder
        See `training.fitting.loop.fit`.

    Raises
    ------
    DataInvalid
        An image cannot be read.
    WeightsRefused
        The weight file of the request does not fit.
    CheckpointRefused, FitDiverged
        See `training.fitting.loop.fit`.
    """
    family = replace(CLASSIFIERS[request.family], network=request.network)
    cells = _cut(gathered, family, request, say, device, folder)
    stock = thinned(cells.sampling.stock, request.label_share)
    sampling = replace(cells.sampling, stock=stock)
    graph = _new_graph(request, gathered.task, stock, say)
    pretrain_s = 0.0
    if _needs_pretraining(request, family, folder):
        pretrain_s = _pretrain(graph, family, cells.sampling, device, folder)
    fitted = train_classifier(
        graph,
        sampling,
        cells.val,
        request.plan,
        device=device,
        folder=folder,
        purpose=f"{request} {gathered.task} {_data_digest(sampling, cells.sampling)}",
    )
    test = evaluate(fitted.model, cells.test) if cells.test.rows else None
    record = _record(request, family, gathered, cells.added, fitted, pretrain_s, test)
    val = evaluate(fitted.model, cells.val)
    return TrainingOutcome(record, fitted.model, val, test)


def _cut(
    gathered: GatheredRows,
    family: Family,
    request: TrainingRequest,
    say: Say,
    device: TrainingDevice,
    folder: Path | None,
) -> Cells:
    """Cut the cells for the family; the first process reports on the data set."""
    profiles = profiles_of(gathered, request.colour)
    cells = cut_cells(gathered, family, say, profiles=profiles)
    if folder is not None and device.rank == 0 and gathered.examined is not None:
        write_data_report(folder, gathered.examined, as_crops(cells.sampling.stock))
    return cells


def _new_graph(
    request: TrainingRequest, task: str, stock: Clips, say: Say
) -> ClassifierGraph:
    """Build the graph, untrained or with the weights that the request names."""
    torch.manual_seed(request.plan.seed)
    graph = new_classifier(
        request.family, len(TASKS[task]), request.network, standardise(stock)
    )
    if request.weights is not None:
        kept = load_weights_file(graph.network, request.weights)
        graph.standardise = Standardise(IMAGENET_MEAN, IMAGENET_STD)
        say(f"{request.weights.name}: all but {kept}")
    return graph


def _needs_pretraining(
    request: TrainingRequest, family: Family, folder: Path | None
) -> bool:
    """Whether the family learns without labels first; a run that goes on did so."""
    goes_on = folder is not None and (folder / checkpoint.FILE).exists()
    return family.pretrain is not None and request.is_pretrained and not goes_on


def _record(
    request: TrainingRequest,
    family: Family,
    gathered: GatheredRows,
    added: dict[str, int],
    fitted: Fitted[ClassifierGraph],
    pretrain_s: float,
    test: Predictions | None,
) -> RunRecord:
    """Say what was fitted to what, how long it took, and how good it is."""
    return RunRecord(
        family=request.family,
        task=gathered.task,
        classes=TASKS[gathered.task],
        network=dict(request.network),
        input=InputSpec(size_px=family.size_px, context=family.context),
        location=None,
        size=measure_size(fitted.model, family.size_px),
        training=summary(
            [row for row, _ in gathered.parts.get("train", [])],
            added,
            request.plan.seed,
            fitted.epochs,
            fitted.seconds + pretrain_s,
        ),
        metrics={} if test is None else metrics_of(test),
    )


def _data_digest(*samplings: BatchSampling) -> str:
    """Return twelve digits that tell the cells of this training from others."""
    return digest(row for s in samplings for row in s.stock.rows)[:12]


def unlabelled(
    sampling: BatchSampling, graph: ClassifierGraph, device: TrainingDevice
) -> Callable[[int], Tensor]:
    """Return a function that draws standardised crops (N, 3, S, S) without labels."""

    @torch.no_grad()
    def draw(size: int) -> Tensor:
        images, _ = sampling.batches(size, device)(0)
        return graph.standardise.planes(images)

    return draw


def _pretrain(
    graph: ClassifierGraph,
    family: Family,
    sampling: BatchSampling,
    device: TrainingDevice,
    folder: Path | None,
) -> float:
    """Fit a deep belief network without labels, and draw cells that it generates.

    Returns the seconds that it took.
    """
    start = time.monotonic()
    network = graph.to(device.torch_device).network
    if not isinstance(network, DBN) or family.pretrain is None:
        raise TypeError(f"only a DBN learns without labels, not {type(network)}")
    draw = unlabelled(sampling, graph, device)
    pretrain(network, draw, family.pretrain)
    if folder is not None and device.rank == 0:
        _write_samples(folder / "samples.png", graph, network, draw)
    return time.monotonic() - start


@torch.no_grad()
def _write_samples(
    path: Path,
    graph: ClassifierGraph,
    network: DBN,
    draw: Callable[[int], Tensor],
) -> None:
    """Draw cells that the network generates, below real ones, for people to look at.

    Three bands: real cells, Gibbs chains that start from them, and ten times longer
    chains that start from noise.
    """
    real = draw(_SAMPLES)
    bands = [
        real,
        network.draw(real, _GIBBS_STEPS),
        network.draw(torch.randn_like(real), 10 * _GIBBS_STEPS),
    ]
    tiles = [graph.standardise.pixels(band).cpu().numpy() for band in bands]
    rows = [np.hstack(list(part)) for band in tiles for part in np.split(band, 4)]
    for below in (8, 4):  # a white line between the bands
        rows.insert(below, np.full_like(rows[0][:6], 255))
    picture = cv2.resize(np.vstack(rows), None, fx=2, fy=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))


def metrics_of(predicted: Predictions) -> dict[str, Metric]:
    """Accuracy and balanced accuracy on `test`, with 95 % intervals over groups."""
    named, groups = predicted.logits.argmax(axis=1), predicted.of_rows("group").tolist()
    right = named == predicted.classes
    return {
        "test accuracy": with_interval(lambda i: float(right[i].mean()), groups),
        "test balanced accuracy": with_interval(
            lambda i: balanced_accuracy(named[i], predicted.classes[i]), groups
        ),
    }


def thinned(clips: Clips, share: float) -> Clips:
    """Draw the same share of each class, at least one clip of it."""
    if share >= 1:
        return clips
    return some_of_each(clips, lambda n: max(1, round(share * n)))
