"""The commands of this folder: train, evaluate."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import click
import cv2
import numpy as np
from rich.console import Console

from edge.assembly import read_parts
from edge.bundle import LOCATOR as LOCATOR_BUNDLE
from edge.bundle import InputSpec, Metric, TrainingSummary, load_bundle
from edge.engines.opening import open_engine
from edge.taxonomy import TASKS
from training.classifying import CropSpec, predict, train_classifier
from training.data import (
    Crops,
    DataInvalid,
    Row,
    contact_sheet,
    count,
    cut_task_crops,
    digest,
    free_rows,
    read_fields,
    read_manifest,
    rows_of_task,
)
from training.evaluation import examine_crops, examine_fields, show
from training.families import CLASSIFIERS, LOCATOR, LOCATOR_PLANS, PRESETS
from training.fit import Fitted, Plan
from training.found import find_red_cells
from training.graphs import ClassifierGraph, LocatorGraph, TorchEngine
from training.locating import CLASSES, SPEC, metrics_of, train_locator
from training.runs import Held, RunRecord, save_run
from training.simulated import simulated_fields
from training.statistics import balanced_accuracy, with_interval

CONTEXT = 1.25  # side of a crop over the longer side of the cell's box
SLIDES = 120  # simulated, added to the real fields and cells
_DATA = click.option(
    "--data",
    "manifest",
    required=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Manifest CSV; image paths are relative to it.",
)


@click.command("train")
@click.argument("family", type=click.Choice([*CLASSIFIERS, LOCATOR]))
@_DATA
@click.option(
    "--task", default="cells4", show_default=True, type=click.Choice([*TASKS])
)
@click.option(
    "--preset", default="quick", show_default=True, type=click.Choice(PRESETS)
)
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False))
@click.option("--without", multiple=True, help="Leave a domain out, to judge by it.")
@click.option("--width", type=click.FloatRange(0.05, 1), help="Share of the channels.")
@click.option("--seed", default=0, show_default=True)
def train_command(
    family: str,
    manifest: Path,
    task: str,
    preset: str,
    out: Path,
    without: tuple[str, ...],
    width: float | None,
    seed: int,
) -> None:
    """Fit FAMILY to the rows whose licence lets the weights be shipped (MIT, BSD)."""
    cv2.setNumThreads(1)
    rows = [r for r in free_rows(read_manifest(manifest)) if r.domain not in without]
    plans = LOCATOR_PLANS if family == LOCATOR else CLASSIFIERS[family].plans
    plan = replace(plans[preset], seed=seed)
    if family == LOCATOR:
        _train_locator(rows, plan, out)
    else:
        network = dict(CLASSIFIERS[family].network)
        if width is not None:
            network["width"] = width
        _train_classifier(family, network, task, rows, plan, out)
    click.echo(f"run: {out}")


def _train_classifier(
    family: str,
    network: dict[str, float],
    task: str,
    rows: Sequence[Row],
    plan: Plan,
    out: Path,
) -> None:
    found = _found(rows) if task == "cells4" else []
    usable = rows_of_task([*rows, *found], task)
    part = {s: [p for p in usable if p[0].split == s] for s in _SPLITS}
    _refuse_empty(part["train"], part["val"])
    spec = CropSpec(CLASSIFIERS[family].size_px, CONTEXT)
    model = CLASSIFIERS[family].build(len(TASKS[task]), **network)
    slides = SLIDES // 2 if task == "cells4" else 0
    held = cut_task_crops(part["val"], spec.size_px, spec.context)
    fitted = train_classifier(model, part["train"], held, spec, plan, slides=slides)
    test = cut_task_crops(part["test"], spec.size_px, spec.context)
    found_rows = set(found)
    labelled = [row for row, _ in part["train"] if row not in found_rows]
    added = {"found red cells": len(found), "simulated slides": slides}
    summary = _summary(labelled, added, plan, fitted)
    record = RunRecord(
        family=family,
        task=task,
        classes=TASKS[task],
        network=network,
        input=InputSpec(size_px=spec.size_px, context=spec.context),
        location=None,
        training=summary,
        metrics=_test_metrics(fitted.model, test) if test.rows else {},
    )
    logits = predict(TorchEngine(fitted.model), held.pixels)
    held_groups = np.array([row.group for row in held.rows])
    save_run(out, record, fitted.model, Held(logits, held.classes, held_groups))
    sheet = cv2.cvtColor(contact_sheet(held), cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(out / "val-crops.png"), sheet)
    _report(record)


def _test_metrics(graph: ClassifierGraph, test: Crops) -> dict[str, Metric]:
    said = predict(TorchEngine(graph), test.pixels).argmax(axis=1)
    groups = [row.group for row in test.rows]
    right = said == test.classes
    return {
        "test accuracy": with_interval(lambda i: float(right[i].mean()), groups),
        "test balanced accuracy": with_interval(
            lambda i: balanced_accuracy(said[i], test.classes[i]), groups
        ),
    }


def _found(rows: Sequence[Row]) -> list[Row]:
    """Red cells that the shipped locator finds where only white ones are labelled."""
    locator = load_bundle(LOCATOR_BUNDLE, task="location")
    engine = open_engine(locator)
    found = find_red_cells([r for r in rows if r.split == "train"], locator, engine)
    click.echo(
        f"{len(found)} red cells found by {locator.id} where nobody labelled them"
    )
    return found


def _train_locator(rows: Sequence[Row], plan: Plan, out: Path) -> None:
    boxed = [row for row in rows if row.task == "cells4"]
    part = {
        s: read_fields([r for r in boxed if r.split == s], CLASSES) for s in _SPLITS
    }
    _refuse_empty(part["train"], part["val"])
    invented = simulated_fields(SLIDES, CLASSES)
    fitted = train_locator([*part["train"], *invented], part["val"], plan)
    used = [r for r in boxed if r.split == "train" and r.label in CLASSES]
    summary = _summary(used, {"simulated slides": SLIDES}, plan, fitted)
    record = RunRecord(
        family=LOCATOR,
        task="location",
        classes=CLASSES,
        network={},
        input=InputSpec(size_px=None),
        location=SPEC,
        training=summary,
        metrics=metrics_of(fitted.model, part["test"]) if part["test"] else {},
    )
    save_run(out, record, fitted.model, None)
    _report(record)


_SPLITS = ("train", "val", "test")


def _refuse_empty(train: Sequence[object], val: Sequence[object]) -> None:
    if not train or not val:
        raise DataInvalid(
            f"{len(train)} train and {len(val)} val rows have a free licence and fit "
            "the task, expected some of each; check licence, split and label"
        )


def _summary(
    rows: Sequence[Row],
    added: dict[str, int],
    plan: Plan,
    fitted: Fitted[ClassifierGraph] | Fitted[LocatorGraph],
) -> TrainingSummary:
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


def _report(record: RunRecord) -> None:
    for name, metric in record.metrics.items():
        click.echo(f"{name}: {metric}")


@click.command("evaluate")
@_DATA
@click.option("--split", default="test", show_default=True, type=click.Choice(_SPLITS))
@click.option(
    "--bundle", type=click.Path(path_type=Path), help="Model; else the shipped."
)
@click.option("--locator", type=click.Path(path_type=Path), help="Locator bundle.")
@click.option("--true-scale", is_flag=True, help="Tell the scale from the labels.")
@click.option("--pictures", type=click.Path(path_type=Path), help="Annotated pictures.")
def evaluate_command(
    manifest: Path,
    split: str,
    bundle: Path | None,
    locator: Path | None,
    true_scale: bool,
    pictures: Path | None,
) -> None:
    """Precision, recall and F1 (IoU 0.5) per class and domain, of fields and crops."""
    cv2.setNumThreads(1)
    rows = [row for row in read_manifest(manifest) if row.split == split]
    parts = read_parts(classifier=bundle, locator=locator)
    pipeline = parts.open_pipeline()
    console = Console()
    fields = read_fields([row for row in rows if row.task == "cells4"], CLASSES)
    show(console, examine_fields(fields, pipeline, true_scale, pictures))
    show(
        console,
        examine_crops(rows_of_task(rows, parts.classifier.record.task), pipeline),
    )
