"""The command `hemascope train`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import cv2
from torch import nn

from training.choices import LOCATOR
from training.fitting.device import open_device
from training.fitting.families import (
    CLASSIFIERS,
    LOCATOR_PLANS,
    override_network,
    override_plan,
)
from training.fitting.imagenet_weights import fetch_weights
from training.fitting.loop import FitPlan
from training.sessions.classifier_session import TrainingRequest, train
from training.sessions.gathering import CellSource, gather
from training.sessions.locator_session import train_from as train_locator_from
from training.sessions.run_folder import HeldOut, RunRecord, save_run

Written = tuple[RunRecord, nn.Module, HeldOut | None]
_FETCH = Path("imagenet")


def train_model(family: str, out: Path, preset: str, **options: Any) -> None:
    """Fit a model to labelled cells and save the run; go on with a run that ended."""
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
