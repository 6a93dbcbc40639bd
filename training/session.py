"""One training session: gather, build, pretrain, fit, judge, write down."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from edge.bundle import InputSpec, Metric, ModelSize, TrainingSummary
from edge.taxonomy import TASKS
from training.classifying import (
    Drawing,
    Verdicts,
    as_crops,
    judge,
    some_of_each,
    standardise,
    train_classifier,
)
from training.clips import Clips
from training.data import (
    SPLITS,
    DataInvalid,
    Row,
    count,
    digest,
    free_rows,
    read_fields,
)
from training.datareport import write_data_report
from training.families import CLASSIFIERS, LOCATOR, Setting, new_classifier
from training.fit import Fitted, Plan
from training.gathering import CONTEXT, Gathered, Source, cut_cells, profiles_of
from training.graphs import ClassifierGraph, LocatorGraph, SequenceGraph, Standardise
from training.locating import CLASSES as LOCATED
from training.locating import SPEC, train_locator
from training.locating import metrics_of as locator_metrics
from training.models.dbn import DBN
from training.place import ALONE, Place
from training.pretraining import pretrain
from training.readers import read_rows
from training.runs import Held, RunRecord
from training.simulated import simulated_fields
from training.statistics import balanced_accuracy, with_interval
from training.weights import IMAGENET_MEAN, IMAGENET_STD, load_weights_file

_SAMPLES, _GIBBS_STEPS = 64, 200  # of the picture of a deep belief network
LOCATOR_SLIDES = 120  # simulated, added to the real fields
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wish:
    """What shall be fitted, and how.

    `network` changes the family's settings; `weights` is an ImageNet file; of the
    labelled cells `label_share` are used; `has_white_point`: all laboratories are
    brought to a common white first; `is_pretrained` is for families that learn without
    labels too.
    """

    family: str
    plan: Plan
    network: Mapping[str, Setting]
    weights: Path | None = None
    label_share: float = 1.0
    has_white_point: bool = False
    is_pretrained: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """A run, ready to be written, and what was said of `val` and `test`."""

    record: RunRecord
    graph: ClassifierGraph
    val: Verdicts
    test: Verdicts | None

    @property
    def held(self) -> Held:
        """What the export calibrates confidence by."""
        return Held(self.val.logits, self.val.classes, self.val.of_rows("group"))


def train(
    wish: Wish,
    gathered: Gathered,
    *,
    say: Say,
    place: Place = ALONE,
    folder: Path | None = None,
) -> Outcome:
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
        See `training.fit.fit`.
    """
    family = replace(CLASSIFIERS[wish.family], network=wish.network)
    plan = wish.plan
    profiles = profiles_of(gathered) if wish.has_white_point else None
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
    if isinstance(graph.network, DBN) and family.pretrain and wish.is_pretrained:
        graph.to(place.device)
        draw = unlabelled(everything, graph, place)
        pretrain(graph.network, draw, family.pretrain)
        if folder is not None and place.rank == 0:
            _write_samples(folder / "samples.png", graph, graph.network, draw)
    fitted = train_classifier(
        graph, drawing, cells.val, plan, place=place, folder=folder, purpose=purpose
    )
    test = judge(fitted.model, cells.test) if cells.test.rows else None
    record = RunRecord(
        family=wish.family,
        task=gathered.task,
        classes=classes,
        network=dict(wish.network),
        input=InputSpec(size_px=family.size_px, context=CONTEXT),
        location=None,
        size=measure_size(fitted.model, family.size_px),
        training=summary(
            [row for row, _ in gathered.parts.get("train", [])],
            cells.added,
            plan,
            fitted,
        ),
        metrics={} if test is None else metrics_of(test),
    )
    return Outcome(record, fitted.model, judge(fitted.model, cells.val), test)


def train_cells_locator(
    source: Source, plan: Plan, place: Place, folder: Path
) -> tuple[RunRecord, LocatorGraph]:
    """Fit the locator to labelled and simulated fields."""
    rows = [r for r in free_rows(_boxed(source)) if r.domain not in source.without]
    part = {s: read_fields([r for r in rows if r.split == s], LOCATED) for s in SPLITS}
    if not part["train"] or not part["val"]:
        raise DataInvalid(
            f"{len(part['train'])} train and {len(part['val'])} val fields have a free "
            "licence and red cells, expected some of each; check licence and split"
        )
    invented = simulated_fields(LOCATOR_SLIDES, LOCATED)
    fitted = train_locator(
        [*part["train"], *invented],
        part["val"],
        plan,
        place=place,
        folder=folder,
        purpose=f"locator {digest(rows)[:12]}",
    )
    used = [r for r in rows if r.split == "train" and r.label in LOCATED]
    record = RunRecord(
        family=LOCATOR,
        task="location",
        classes=LOCATED,
        network={},
        input=InputSpec(size_px=None),
        location=SPEC,
        size=None,
        training=summary(used, {"simulated slides": LOCATOR_SLIDES}, plan, fitted),
        metrics=locator_metrics(fitted.model, part["test"]) if part["test"] else {},
    )
    return record, fitted.model


def _boxed(source: Source) -> list[Row]:
    if source.path is None:
        raise DataInvalid("the locator needs labelled fields; name some with --data")
    return [r for r in read_rows(source.path, task="cells4") if r.task == "cells4"]


def _data_digest(*drawings: Drawing) -> str:
    return digest(row for d in drawings for row in d.stock.rows)[:12]


def unlabelled(
    drawing: Drawing, graph: ClassifierGraph, place: Place
) -> Callable[[int], Tensor]:
    """Return what draws standardised crops (N, 3, S, S), their labels unseen."""

    @torch.no_grad()
    def draw(size: int) -> Tensor:
        images, _ = drawing.batches(size, place)(0)
        return graph.standardise.planes(images)

    return draw


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


def metrics_of(said: Verdicts) -> dict[str, Metric]:
    """Accuracy and balanced accuracy on `test`, with intervals over groups."""
    named, groups = said.logits.argmax(axis=1), said.of_rows("group").tolist()
    right = named == said.classes
    return {
        "test accuracy": with_interval(lambda i: float(right[i].mean()), groups),
        "test balanced accuracy": with_interval(
            lambda i: balanced_accuracy(named[i], said.classes[i]), groups
        ),
    }


def thinned(clips: Clips, share: float) -> Clips:
    """Draw the same share of each class, at least one clip of it."""
    if share >= 1:
        return clips
    return some_of_each(clips, lambda n: max(1, round(share * n)))


def measure_size(graph: ClassifierGraph, size_px: int) -> ModelSize:
    """Count the weights that speak on the device, and operations for one crop."""
    image = torch.zeros(1, size_px, size_px, 3, dtype=torch.uint8)
    given = [image]
    if isinstance(graph, SequenceGraph):
        given.append(torch.zeros(1, graph.state_size))
    with FlopCounterMode(display=False) as counter:
        logits = graph.eval()(*given)[0]
    logits.sum().backward()  # auxiliary classifier and decoder get no gradient
    weights = sum(p.numel() for p in graph.parameters() if p.grad is not None)
    graph.zero_grad(set_to_none=True)
    return ModelSize(parameters=weights, operations=counter.get_total_flops())


def summary(
    rows: Sequence[Row],
    added: dict[str, int],
    plan: Plan,
    fitted: Fitted[ClassifierGraph] | Fitted[LocatorGraph],
) -> TrainingSummary:
    """Say what a model was fitted to, and how."""
    return TrainingSummary(
        rows=len(rows),
        licences=count(row.licence for row in rows),
        domains=count(row.domain for row in rows),
        added=added,
        data_sha256=digest(rows),
        split_rule="by group: slide, sample or near-duplicate cluster",
        command=_command(),
        seed=plan.seed,
        epochs=fitted.epochs,
        seconds=round(fitted.seconds, 1),
        software={
            "python": platform.python_version(),
            "torch": version("torch"),
            "numpy": np.__version__,
            "opencv": cv2.__version__,
        },
    )


def _command() -> str:
    """Return the command as it was typed, without the folders of this machine."""
    return " ".join(["hemascope", *(Path(word).name for word in sys.argv[1:])])
