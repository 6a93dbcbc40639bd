"""The commands `hemascope study …`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import cv2

from training.choices import COLOURS, NORMS, Colour
from training.data.colour_normalisation import colour_profiles
from training.data.rows import DataInvalid, read_fields
from training.evaluation.colour_distances import colour_distances
from training.evaluation.emptied_fields import colour_shifts
from training.evaluation.studies import leave_out, thin_labels
from training.fitting.families import CLASSIFIERS, override_network, override_plan
from training.fitting.locator import CLASSES
from training.sessions.classifier_session import TrainingRequest
from training.sessions.gathering import CellSource, gather, read_usable


def study_left_out(
    families: tuple[str, ...],
    out: Path,
    data: Path | None,
    **options: Any,
) -> None:
    """Train without each domain, and evaluate on its cells."""
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


def study_colours(data: Path | None, task: str) -> None:
    """Show how far laboratories lie apart in colour, before and after calibration."""
    cv2.setNumThreads(1)
    gathered = read_usable(CellSource(data, task))
    rows = [row for part in gathered.parts.values() for row, _ in part]
    for colour, parts in colour_distances(rows).items():
        distances = "  ".join(
            f"{part} {mean:.1f} (max {largest:.1f})"
            for part, (mean, largest) in parts.items()
        )
        click.echo(f"{colour}: ΔE {distances}")


def study_emptied(data: Path | None, domain: str, split: str) -> None:
    """Show how the colour of a white cell changes while its field empties."""
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


def study_labels(
    out: Path,
    shares: tuple[float, ...],
    data: Path | None,
    task: str,
    preset: str,
    plans: tuple[str, ...],
    seed: int,
) -> None:
    """Train a deep belief network with and without learning that needs no labels."""
    cv2.setNumThreads(1)
    plan = override_plan(replace(CLASSIFIERS["dbn"].plans[preset], seed=seed), plans)
    gathered = gather(CellSource(data, task, seed=seed))
    thin_labels(gathered, plan, shares or (0.01, 0.05, 0.1, 1.0), out, click.echo)
