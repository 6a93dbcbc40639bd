"""One training session of the locator: read fields, fit, evaluate."""

from __future__ import annotations

from pathlib import Path

from edge.artifacts.bundle import InputSpec
from training.choices import LOCATOR, SPLITS
from training.data.readers import read_rows
from training.data.rows import DataInvalid, Row, digest, free_rows, read_fields
from training.fitting.device import TrainingDevice
from training.fitting.locator import CLASSES, SPEC, metrics_of, train_locator
from training.fitting.loop import FitPlan
from training.fitting.model_graphs import LocatorGraph
from training.sessions.bundle_summary import summary
from training.sessions.gathering import CellSource
from training.sessions.run_folder import RunRecord
from training.synthetic.smears import simulated_fields

SLIDES = 120  # simulated, added to the real fields


def train_from(
    source: CellSource, plan: FitPlan, device: TrainingDevice, folder: Path
) -> tuple[RunRecord, LocatorGraph]:
    """Fit the locator to labelled and simulated fields.

    Parameters
    ----------
    source
        Manifest of labelled fields.
    plan, device, folder
        See `training.fitting.loop.fit`.

    Raises
    ------
    DataInvalid
        There are no fields with a free licence for `train` or `val`.
    """
    rows = [r for r in free_rows(_boxed(source)) if r.domain not in source.without]
    part = {s: read_fields([r for r in rows if r.split == s], CLASSES) for s in SPLITS}
    if not part["train"] or not part["val"]:
        raise DataInvalid(
            f"{len(part['train'])} train and {len(part['val'])} val fields have a free "
            "licence and red cells, expected some of each; check licence and split"
        )
    simulated = simulated_fields(SLIDES, CLASSES)
    fitted = train_locator(
        [*part["train"], *simulated],
        part["val"],
        plan,
        device=device,
        folder=folder,
        purpose=f"locator {digest(rows)[:12]}",
    )
    used = [r for r in rows if r.split == "train" and r.label in CLASSES]
    record = RunRecord(
        family=LOCATOR,
        task="location",
        classes=CLASSES,
        network={},
        input=InputSpec(size_px=None),
        location=SPEC,
        size=None,
        training=summary(
            used,
            {"simulated slides": SLIDES},
            plan.seed,
            fitted.epochs,
            fitted.seconds,
        ),
        metrics=metrics_of(fitted.model, part["test"]) if part["test"] else {},
    )
    return record, fitted.model


def _boxed(source: CellSource) -> list[Row]:
    """Read the rows of task `cells4`; only those have boxes of every kind."""
    if source.path is None:
        raise DataInvalid("the locator needs labelled fields; name some with --data")
    return [r for r in read_rows(source.path, task="cells4") if r.task == "cells4"]
