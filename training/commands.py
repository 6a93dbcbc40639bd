"""The commands `train`, `evaluate` and `study`, and their options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edge.cli.groups import CommandGroup, Section, in_section
from edge.taxonomy import TASKS
from training.choices import COLOURS, FAMILIES, LOCATOR, NORMS, PRESETS, SPLITS

_PATH = click.Path(path_type=Path)
_FOUND = click.Path(path_type=Path, exists=True)
_DATA = click.option(
    "--data",
    type=_FOUND,
    help="Labelled cells: a manifest (CSV), a folder with a folder for each class, a "
    "folder in VOC or YOLO layout, or the npz file of BloodMNIST.",
)
_TASK = click.option(
    "--task",
    default="cells4",
    type=click.Choice([*TASKS]),
    help="Which classes are told apart.",
)
_LICENCE = click.option(
    "--any-licence",
    is_flag=True,
    help="Use also data whose licence does not let weights be shipped.",
)
_PRESET = click.option(
    "--preset",
    default="quick",
    type=click.Choice(PRESETS),
    help="Plan of the training. `quick` is short, `full` is as for shipped models.",
)
_PLAN = click.option(
    "--plan",
    "plans",
    multiple=True,
    help="NAME=VALUE, such as epochs=30, in place of the preset's. May be given "
    "several times.",
)
_NETWORK = click.option(
    "--network",
    "networks",
    multiple=True,
    help="NAME=VALUE, such as width=0.5, in place of the family's. May be given "
    "several times.",
)
_SEED = click.option(
    "--seed", default=0, help="Seed of all random numbers of the training."
)
_STUDY_FILE = click.option(
    "--out",
    required=True,
    type=_PATH,
    help="File for the results (JSON). A study that ended goes on from it.",
)


@in_section(Section.TRAIN)
@click.command("train")
@click.argument("family", type=click.Choice([*FAMILIES, LOCATOR]))
@click.option("--out", required=True, type=_PATH, help="Folder of the run.")
@_DATA
@_TASK
@_PRESET
@_PLAN
@_NETWORK
@_SEED
@_LICENCE
@click.option("--licence", help="Licence of the data, where its layout states none.")
@click.option(
    "--group",
    help="Regular expression for file names. Its first group is the slide of an image.",
)
@click.option(
    "--without",
    multiple=True,
    help="Domain (laboratory) that is left out, to evaluate on it. May be given "
    "several times.",
)
@click.option(
    "--colour",
    default="as-is",
    type=click.Choice(COLOURS),
    help="Correct the images of each domain to one white point, or to the reference "
    "colours.",
)
@click.option(
    "--label-share",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    help="Share of the labelled cells of `train` that is used.",
)
@click.option(
    "--from-scratch", is_flag=True, help="Leave out learning that needs no labels."
)
@click.option(
    "--weights",
    type=_PATH,
    help="File with ImageNet weights to begin with; `imagenet` downloads them.",
)
def train_command(**options: Any) -> None:
    """Fit a model to labelled cells; a run that was ended goes on where it was.

    FAMILY is the kind of the model. Only data is used whose licence lets weights be
    shipped (MIT, BSD), unless --any-licence is given.
    """
    from training.sessions.train_command import train_model

    train_model(**options)


@in_section(Section.TRAIN)
@click.command("evaluate")
@_DATA
@click.option(
    "--split",
    default="test",
    type=click.Choice(SPLITS),
    help="Part of the data that is evaluated on.",
)
@click.option(
    "--bundle",
    "bundles",
    multiple=True,
    type=_FOUND,
    help="Folder of a model. With --report, may be given several times. Without it, "
    "the model that comes with Hemascope.",
)
@click.option(
    "--locator",
    type=_PATH,
    help="Folder of the model that finds cells. Without it, the one that comes with "
    "Hemascope.",
)
@click.option(
    "--true-scale",
    is_flag=True,
    help="Take the pixel size from the labels, and do not estimate it.",
)
@click.option("--pictures", type=_PATH, help="Folder for annotated pictures.")
@click.option(
    "--confusion",
    type=_PATH,
    help="File for the confusion matrix, for [differential] of a device.",
)
@click.option("--report", type=_PATH, help="Folder for a report that compares models.")
@click.option(
    "--study",
    "studies",
    multiple=True,
    type=_FOUND,
    help="Results of `study` that the report shows. May be given several times.",
)
@click.option(
    "--picture",
    "gallery",
    multiple=True,
    type=_FOUND,
    help="Picture that the report shows. May be given several times.",
)
@click.option(
    "--doubtful",
    multiple=True,
    help="DOMAIN:CLASS whose labels are few or doubtful. The report gives its figures "
    "also without them. May be given several times.",
)
def evaluate_command(**options: Any) -> None:
    """Evaluate models on labelled cells that they were not trained on.

    Without --report: precision, recall and F1 (IoU 0.5) of one model, in whole fields
    and on crops. With --report: a comparison of all models, as HTML and Markdown.
    """
    from training.evaluation.evaluate_command import evaluate

    evaluate(**options)


@in_section(Section.TRAIN)
@click.group("study", cls=CommandGroup)
def study_command() -> None:
    """Train many times to learn what helps; a study goes on where it was ended."""


@study_command.command("left-out")
@click.option(
    "--family",
    "families",
    multiple=True,
    type=click.Choice(FAMILIES),
    help="Kind of model. May be given several times. Without it, all.",
)
@click.option(
    "--domain",
    "domains",
    multiple=True,
    required=True,
    help="Domain (laboratory) that is left out. May be given several times.",
)
@click.option(
    "--norm",
    "norms",
    multiple=True,
    type=click.Choice(NORMS[:2]),
    help="Normalisation layers. May be given several times. Without it, both.",
)
@click.option(
    "--colour",
    "colours",
    multiple=True,
    type=click.Choice(COLOURS),
    help="Colour correction, as for `train`. May be given several times. Without it, "
    "all.",
)
@click.option(
    "--shown-as",
    multiple=True,
    type=click.Choice(COLOURS),
    help="Evaluate on the domain in this colour correction too. May be given several "
    "times.",
)
@_STUDY_FILE
@_DATA
@_PRESET
@_PLAN
@_NETWORK
@_SEED
def left_out_command(**options: Any) -> None:
    """Leave each domain out of training and evaluate on it.

    Compares colour corrections, normalisation layers and families. Cells of `train`
    and `val` of the domain are evaluated on; `test` is not used.
    """
    from training.evaluation.study_command import study_left_out

    study_left_out(**options)


@study_command.command("colours")
@_DATA
@_TASK
def colours_command(**options: Any) -> None:
    """Show how far laboratories lie apart in colour, before and after calibration."""
    from training.evaluation.study_command import study_colours

    study_colours(**options)


@study_command.command("emptied")
@click.option(
    "--domain", required=True, help="Domain (laboratory) whose fields are emptied."
)
@click.option(
    "--split",
    default="val",
    type=click.Choice(SPLITS),
    help="Part of the data whose fields are taken.",
)
@_DATA
def emptied_command(**options: Any) -> None:
    """Show how the colour of a white cell changes while the field around it empties."""
    from training.evaluation.study_command import study_emptied

    study_emptied(**options)


@study_command.command("labels")
@_STUDY_FILE
@click.option(
    "--share",
    "shares",
    multiple=True,
    type=click.FloatRange(0, 1),
    help="Share of the labels that is used. May be given several times. Without it, "
    "0.01, 0.05, 0.1 and 1.",
)
@_DATA
@_TASK
@_PRESET
@_PLAN
@_SEED
def labels_command(**options: Any) -> None:
    """Show what learning without labels brings a deep belief network."""
    from training.evaluation.study_command import study_labels

    study_labels(**options)
