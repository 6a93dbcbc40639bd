"""The command `hemascope evaluate`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import cv2
from rich.console import Console

from edge.artifacts.bundle import CLASSIFIER
from edge.pipeline.parts import read_parts
from edge.schema.codec import encode
from training.data.rows import read_fields
from training.evaluation.compare_bundles import BundleComparison, compare
from training.evaluation.whole_fields import examine_crops, examine_fields, show
from training.fitting.locator import CLASSES
from training.sessions.gathering import CellSource, read_usable


def evaluate(
    data: Path | None, split: str, bundles: tuple[Path, ...], **options: Any
) -> None:
    """Evaluate one model and show tables, or write a report on several."""
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
        tables = examine_fields(
            fields, pipeline, options["true_scale"], options["pictures"]
        )
        for table in tables:
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
