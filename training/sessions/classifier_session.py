"""One training session: gather, build, pretrain, fit, judge, write down."""

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
from training.data.clips import Clips
from training.data.colour_normalisation import Colour
from training.data.data_report import write_data_report
from training.data.rows import digest
from training.fitting import checkpoint
from training.fitting.classifier import (
    BatchSampling,
    Predictions,
    as_crops,
    judge,
    some_of_each,
    standardise,
    train_classifier,
)
from training.fitting.dbn_pretraining import PretrainPlan, pretrain
from training.fitting.device import ALONE, TrainingDevice
from training.fitting.families import CLASSIFIERS, Setting, new_classifier
from training.fitting.imagenet_weights import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    load_weights_file,
)
from training.fitting.loop import FitPlan
from training.fitting.model_graphs import ClassifierGraph, Standardise
from training.metrics.bootstrap import balanced_accuracy, with_interval
from training.models.dbn import DBN
from training.sessions.bundle_summary import measure_size, summary
from training.sessions.gathering import GatheredRows, cut_cells, profiles_of
from training.sessions.run_folder import HeldOut, RunRecord

_SAMPLES, _GIBBS_STEPS = 64, 200  # of the picture of a deep belief network
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class TrainingRequest:
    """What shall be fitted, and how.

    `network` changes the family's settings; `weights` is an ImageNet file; of the
    labelled cells `label_share` are used; `colour` is what all laboratories are brought
    to first; `is_pretrained` is for families that learn without
    labels too.
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
    """A run, ready to be written, and what was said of `val` and `test`."""

    record: RunRecord
    graph: ClassifierGraph
    val: Predictions
    test: Predictions | None

    @property
    def held(self) -> HeldOut:
        """What the export calibrates confidence by."""
        return HeldOut(self.val.logits, self.val.classes, self.val.of_rows("group"))


def train(
    wish: TrainingRequest,
    gathered: GatheredRows,
    *,
    say: Say,
    place: TrainingDevice = ALONE,
    folder: Path | None = None,
) -> TrainingOutcome:
    """Fit a family to gathered cells and judge it on those it never saw.

    Parameters
    ----------
    wish
        What and how.
    gathered
        The cells.
    say
        Shows a line.
    place, folder
        See `training.fitting.loop.fit`.
    """
    family = replace(CLASSIFIERS[wish.family], network=wish.network)
    plan = wish.plan
    profiles = profiles_of(gathered, wish.colour)
    cells = cut_cells(gathered, family, say, profiles=profiles)
    if folder is not None and place.rank == 0 and gathered.examined is not None:
        write_data_report(folder, gathered.examined, as_crops(cells.drawing.stock))
    everything = cells.drawing
    drawing = replace(everything, stock=thinned(everything.stock, wish.label_share))
    torch.manual_seed(plan.seed)
    classes = TASKS[gathered.task]
    graph = new_classifier(
        wish.family, len(classes), wish.network, standardise(drawing.stock)
    )
    purpose = f"{wish} {gathered.task} {_data_digest(drawing, everything)}"
    if wish.weights is not None:
        kept = load_weights_file(graph.network, wish.weights)
        graph.standardise = Standardise(IMAGENET_MEAN, IMAGENET_STD)
        say(f"{wish.weights.name}: all but {kept}")
    spent_s = 0.0
    goes_on = folder is not None and (folder / checkpoint.FILE).exists()
    if family.pretrain and wish.is_pretrained and not goes_on:
        start = time.monotonic()
        _pretrain(graph, family.pretrain, everything, place, folder)
        spent_s = time.monotonic() - start
    fitted = train_classifier(
        graph, drawing, cells.val, plan, place=place, folder=folder, purpose=purpose
    )
    test = judge(fitted.model, cells.test) if cells.test.rows else None
    record = RunRecord(
        family=wish.family,
        task=gathered.task,
        classes=classes,
        network=dict(wish.network),
        input=InputSpec(size_px=family.size_px, context=family.context),
        location=None,
        size=measure_size(fitted.model, family.size_px),
        training=summary(
            [row for row, _ in gathered.parts.get("train", [])],
            cells.added,
            plan.seed,
            fitted.epochs,
            fitted.seconds + spent_s,
        ),
        metrics={} if test is None else metrics_of(test),
    )
    return TrainingOutcome(record, fitted.model, judge(fitted.model, cells.val), test)


def _data_digest(*drawings: BatchSampling) -> str:
    return digest(row for d in drawings for row in d.stock.rows)[:12]


def unlabelled(
    drawing: BatchSampling, graph: ClassifierGraph, place: TrainingDevice
) -> Callable[[int], Tensor]:
    """Return what draws standardised crops (N, 3, S, S), their labels unseen."""

    @torch.no_grad()
    def draw(size: int) -> Tensor:
        images, _ = drawing.batches(size, place)(0)
        return graph.standardise.planes(images)

    return draw


def _pretrain(
    graph: ClassifierGraph,
    plan: PretrainPlan,
    drawing: BatchSampling,
    place: TrainingDevice,
    folder: Path | None,
) -> None:
    """Let a deep belief network learn without labels, and draw what it then dreams."""
    network = graph.to(place.device).network
    if not isinstance(network, DBN):
        raise TypeError(f"only a DBN learns without labels, not {type(network)}")
    draw = unlabelled(drawing, graph, place)
    pretrain(network, draw, plan)
    if folder is not None and place.rank == 0:
        _write_samples(folder / "samples.png", graph, network, draw)


@torch.no_grad()
def _write_samples(
    path: Path,
    graph: ClassifierGraph,
    network: DBN,
    draw: Callable[[int], Tensor],
) -> None:
    """Draw cells that never were: under real ones, chains from them and from noise."""
    real = draw(_SAMPLES)
    bands = [
        real,
        network.draw(real, _GIBBS_STEPS),
        network.draw(torch.randn_like(real), 10 * _GIBBS_STEPS),
    ]
    tiles = [graph.standardise.pixels(band).cpu().numpy() for band in bands]
    rows = [np.hstack(list(part)) for band in tiles for part in np.split(band, 4)]
    for place in (8, 4):
        rows.insert(place, np.full_like(rows[0][:6], 255))
    picture = cv2.resize(np.vstack(rows), None, fx=2, fy=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))


def metrics_of(predicted: Predictions) -> dict[str, Metric]:
    """Accuracy and balanced accuracy on `test`, with intervals over groups."""
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
