"""The commands of this folder: train, evaluate, study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import cv2
from rich.console import Console
from torch import nn

from edge.artifacts.bundle import CLASSIFIER
from edge.pipeline.parts import read_parts
from edge.schema.codec import encode
from edge.taxonomy import TASKS
from training.data.colour_normalisation import COLOURS, Colour, colour_profiles
from training.data.rows import SPLITS, DataInvalid, read_fields
from training.evaluation.colour_distances import colour_distances
from training.evaluation.compare_bundles import BundleComparison, compare
from training.evaluation.emptied_fields import colour_shifts
from training.evaluation.studies import leave_out, thin_labels
from training.evaluation.whole_fields import examine_crops, examine_fields, show
from training.fitting.device import open_device
from training.fitting.families import (
    CLASSIFIERS,
    LOCATOR,
    LOCATOR_PLANS,
    PRESETS,
    override_network,
    override_plan,
)
from training.fitting.imagenet_weights import fetch_weights
from training.fitting.locator import CLASSES
from training.fitting.loop import FitPlan
from training.models.layers import NORMS
from training.sessions.classifier_session import TrainingRequest, train
from training.sessions.gathering import CellSource, gather, read_usable
from training.sessions.locator_session import train_from as train_locator_from
from training.sessions.run_folder import HeldOut, RunRecord, save_run

Written = tuple[RunRecord, nn.Module, HeldOut | None]
_PATH = click.Path(path_type=Path)
_FOUND = click.Path(path_type=Path, exists=True)
_FETCH = Path("imagenet")
_DATA = click.option(
    "--data",
    type=_FOUND,
    help="Manifest CSV; folder of classes, VOC or YOLO; BloodMNIST npz.",
)
_TASK = click.option(
    "--task", default="cells4", show_default=True, type=click.Choice([*TASKS])
)
_LICENCE = click.option(
    "--any-licence", is_flag=True, help="Also rows whose weights may not be shipped."
)
_PRESET = click.option(
    "--preset", default="quick", show_default=True, type=click.Choice(PRESETS)
)
_PLAN = click.option(
    "--plan", "plans", multiple=True, help="NAME=VALUE, in place of the preset's."
)
_NETWORK = click.option(
    "--network", "networks", multiple=True, help="NAME=VALUE, in place of the family's."
)
_COLOUR = click.option(
    "--colour",
    default="as-is",
    show_default=True,
    type=click.Choice(COLOURS),
    help="Bring all domains to one white, or to the reference look.",
)
_SEED = click.option("--seed", default=0, show_default=True)


@click.command("train")
@click.argument("family", type=click.Choice([*CLASSIFIERS, LOCATOR]))
@click.option("--out", required=True, type=_PATH, help="Folder of the run.")
@_DATA
@_TASK
@_PRESET
@_PLAN
@_NETWORK
@_SEED
@_LICENCE
@click.option("--licence", help="Of data in a layout that states none.")
@click.option("--group", help="Regular expression: its group 1 in a name is the slide.")
@click.option("--without", multiple=True, help="Leave a domain out, to judge by it.")
@_COLOUR
@click.option(
    "--label-share",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    help="Of the labelled cells of train.",
)
@click.option("--from-scratch", is_flag=True, help="Learn nothing without labels.")
@click.option("--weights", type=_PATH, help="ImageNet file; 'imagenet' downloads it.")
def train_command(family: str, out: Path, preset: str, **options: Any) -> None:
    """Fit FAMILY to labelled cells; a killed run goes on where it was.

    Of a manifest, those rows count whose licence lets weights be shipped (MIT, BSD).
    """
    cv2.setNumThreads(1)
    presets = LOCATOR_PLANS if family == LOCATOR else CLASSIFIERS[family].plans
    seed = options["seed"]
    plan = override_plan(replace(presets[preset], seed=seed), options["plans"])
    with open_device() as device:
        say = click.echo if device.rank == 0 else _silent
        source = _source(options)
        if family == LOCATOR:
            record, locator = train_locator_from(source, plan, device, out)
            written: Written = (record, locator, None)
        else:
            request = _request(family, plan, out, options)
            gathered = gather(source)
            for note in gathered.notes:
                say(note)
            outcome = train(request, gathered, say=say, device=device, folder=out)
            written = outcome.record, outcome.graph, outcome.held
        if device.rank == 0:
            save_run(out, *written)
        for name, metric in written[0].metrics.items():
            say(f"{name}: {metric}")
        say(f"run: {out}")


def _source(options: Mapping[str, Any]) -> CellSource:
    """Read the options that say where cells come from."""
    return CellSource(
        options["data"],
        options["task"],
        options["any_licence"],
        options["without"],
        options["licence"],
        options["group"],
        options["seed"],
    )


def _request(
    family: str, plan: FitPlan, out: Path, options: Mapping[str, Any]
) -> TrainingRequest:
    """Read the options that say how a classifier is fitted."""
    weights = options["weights"]
    if weights == _FETCH:
        weights = fetch_weights(family, out.parent)
    return TrainingRequest(
        family,
        plan,
        override_network(family, options["networks"]),
        weights,
        options["label_share"],
        options["colour"],
        not options["from_scratch"],
    )


def _silent(_line: str) -> None:
    """Show nothing: only the first of several processes shows lines."""


@click.command("evaluate")
@_DATA
@click.option("--split", default="test", show_default=True, type=click.Choice(SPLITS))
@click.option(
    "--bundle",
    "bundles",
    multiple=True,
    type=_FOUND,
    help="Model; else the shipped. Several are compared.",
)
@click.option("--locator", type=_PATH, help="Locator bundle.")
@click.option("--true-scale", is_flag=True, help="Tell the scale from the labels.")
@click.option("--pictures", type=_PATH, help="Folder for annotated pictures.")
@click.option("--confusion", type=_PATH, help="File for what was taken for what.")
@click.option("--report", type=_PATH, help="Folder for a report on the models.")
@click.option("--study", "studies", multiple=True, type=_FOUND, help="For the report.")
@click.option("--picture", "gallery", multiple=True, type=_FOUND, help="Likewise.")
@click.option(
    "--doubtful",
    multiple=True,
    help="DOMAIN:CLASS whose labels are few or doubtful: figures without it, too.",
)
def evaluate_command(
    data: Path | None, split: str, bundles: tuple[Path, ...], **options: Any
) -> None:
    """Judge models on cells they never saw.

    One bundle: precision, recall and F1 (IoU 0.5) in whole fields and on crops. With
    --report: a comparison of all bundles, as HTML and Markdown.
    """
    cv2.setNumThreads(1)
    console = Console()
    if options["report"] is not None:
        comparison = BundleComparison(
            bundles or (CLASSIFIER,),
            data,
            split,
            [_pair(text) for text in options["doubtful"]],
            options["studies"],
            options["gallery"],
        )
        page = compare(comparison, options["report"], console.print)
        console.print(f"report: {page}")
        return
    if data is None:
        raise click.UsageError("--data is missing: name the labelled cells")
    _evaluate_one(bundles[0] if bundles else None, data, split, console, options)


def _evaluate_one(
    bundle: Path | None,
    data: Path,
    split: str,
    console: Console,
    options: Mapping[str, Any],
) -> None:
    """Evaluate one model, on whole fields and on crops, and show tables."""
    parts = read_parts(classifier=bundle, locator=options["locator"])
    task = parts.classifier.record.task
    gathered = read_usable(CellSource(data, task, is_any_licence=True))
    for note in gathered.notes:
        console.print(note)
    rows, pipeline = gathered.parts[split], parts.open_pipeline()
    if task == "cells4":
        fields = read_fields([r for r, _ in rows if r.task == task], CLASSES)
        table = examine_fields(
            fields, pipeline, options["true_scale"], options["pictures"]
        )
        show(console, table)
    table, confusion = examine_crops(rows, pipeline)
    show(console, table)
    if options["confusion"] is not None:
        options["confusion"].write_bytes(encode(confusion) + b"\n")
        console.print(f"confusion: {options['confusion']}, for [differential]")


def _pair(text: str) -> tuple[str, str]:
    """Read DOMAIN:CLASS.

    Raises
    ------
    UsageError
        There is no colon.
    """
    domain, colon, name = text.partition(":")
    if not colon:
        raise click.UsageError(f"--doubtful {text!r}: expected DOMAIN:CLASS")
    return domain, name


@click.group("study")
def study_command() -> None:
    """Train many times, to learn what helps; goes on where it was."""


@study_command.command("left-out")
@click.option("--family", "families", multiple=True, type=click.Choice([*CLASSIFIERS]))
@click.option("--domain", "domains", multiple=True, required=True)
@click.option(
    "--norm", "norms", multiple=True, type=click.Choice(NORMS[:2]), help="Else both."
)
@click.option(
    "--colour", "colours", multiple=True, type=click.Choice(COLOURS), help="Else all."
)
@click.option(
    "--shown-as",
    multiple=True,
    type=click.Choice(COLOURS),
    help="Judge the domain left out in these colours too.",
)
@click.option("--out", required=True, type=_PATH, help="JSON file.")
@_DATA
@_PRESET
@_PLAN
@_NETWORK
@_SEED
def left_out_command(
    families: tuple[str, ...],
    out: Path,
    data: Path | None,
    **options: Any,
) -> None:
    """Leave each DOMAIN out of training and judge by it: colour, norm, family.

    The left-out cells are those of `train` and `val`; `test` is not looked at.
    """
    cv2.setNumThreads(1)
    seed, norms = options["seed"], options["norms"] or NORMS[:2]
    colours: tuple[Colour, ...] = options["colours"] or COLOURS
    gathered = gather(CellSource(data, "cells4", seed=seed))
    for family in families or CLASSIFIERS:
        plan = replace(CLASSIFIERS[family].plans[options["preset"]], seed=seed)
        plan = override_plan(plan, options["plans"])
        request = TrainingRequest(
            family, plan, override_network(family, options["networks"])
        )
        leave_out(
            gathered,
            request,
            options["domains"],
            out,
            click.echo,
            norms,
            colours,
            options["shown_as"],
        )


@study_command.command("colours")
@_DATA
@_TASK
def colours_command(data: Path | None, task: str) -> None:
    """Show how far laboratories lie apart in colour, and what calibration brings."""
    cv2.setNumThreads(1)
    gathered = read_usable(CellSource(data, task))
    rows = [row for part in gathered.parts.values() for row, _ in part]
    for colour, parts in colour_distances(rows).items():
        distances = "  ".join(
            f"{part} {mean:.1f} (max {largest:.1f})"
            for part, (mean, largest) in parts.items()
        )
        click.echo(f"{colour}: ΔE {distances}")


@study_command.command("emptied")
@click.option("--domain", required=True)
@click.option("--split", default="val", show_default=True, type=click.Choice(SPLITS))
@_DATA
def emptied_command(data: Path | None, domain: str, split: str) -> None:
    """Show how a white cell's colour changes while the field around it empties."""
    cv2.setNumThreads(1)
    parts = read_usable(CellSource(data, "cells4")).parts
    rows = [row for part in parts.values() for row, _ in part if row.domain == domain]
    frozen = colour_profiles(rows, "white-point").get(domain)
    fields = read_fields([row for row in rows if row.split == split], CLASSES)
    if frozen is None or not fields:
        raise DataInvalid(f"no {split} field is of {domain!r}, expected some")
    shifts = colour_shifts(fields, frozen, CLASSES.index("WBC"))
    for method, by_filling in shifts.items():
        for filled, shift in by_filling.items():
            click.echo(f"{method}, {filled}: {shift}")


@study_command.command("labels")
@click.option("--out", required=True, type=_PATH, help="JSON file.")
@click.option("--share", "shares", multiple=True, type=click.FloatRange(0, 1))
@_DATA
@_TASK
@_PRESET
@_PLAN
@_SEED
def labels_command(
    out: Path,
    shares: tuple[float, ...],
    data: Path | None,
    task: str,
    preset: str,
    plans: tuple[str, ...],
    seed: int,
) -> None:
    """Show what learning without labels brings a deep belief network."""
    cv2.setNumThreads(1)
    plan = override_plan(replace(CLASSIFIERS["dbn"].plans[preset], seed=seed), plans)
    gathered = gather(CellSource(data, task, seed=seed))
    thin_labels(gathered, plan, shares or (0.01, 0.05, 0.1, 1.0), out, click.echo)
