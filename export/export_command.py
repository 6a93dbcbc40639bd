"""The command `hemascope export`."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click

from edge.artifacts.bundle import Bundle
from edge.settings.models import Lowered
from export.bundling import LowerPrecisions, export_run
from training.sessions.gathering import CellSource
from training.sessions.run_folder import load_record


def export_model(
    run: Path,
    out: Path,
    name: str | None,
    precisions: tuple[Lowered, ...],
    **options: Any,
) -> None:
    """Export a training run as a bundle, and show what it holds."""
    bundle = export_run(
        run,
        out,
        name or out.name,
        datetime.now(timezone.utc).replace(microsecond=0),
        error_rate=options["error_rate"],
        max_abstained=options["most_abstained"],
        lower_precisions=_lower_precisions(run, precisions, **options),
    )
    _report(bundle, out)


def _lower_precisions(
    run: Path, precisions: tuple[Lowered, ...], **options: Any
) -> LowerPrecisions | None:
    """Read the options that concern lower precisions; None if none is asked for."""
    if not precisions:
        return None
    task = load_record(run).task
    if options["data"] is None and task != "change":
        raise click.UsageError(
            "--precision needs --data: what it costs is measured on labelled cells"
        )
    return LowerPrecisions(
        tuple(dict.fromkeys(precisions)),
        CellSource(options["data"], task, options["any_licence"]),
        options["crops"],
        options["force"],
    )


def _report(bundle: Bundle, out: Path) -> None:
    """Show the size of a bundle, its confidence, and how good it is."""
    size = sum(path.stat().st_size for path in out.iterdir())
    click.echo(f"{bundle.id}: {size / 1e6:.2f} MB in {out}")
    record = bundle.record
    click.echo(
        f"temperature {record.temperature:.3f}, unidentified below "
        f"{record.abstain_below:.3f}"
    )
    for precision, cost in record.precisions.items():
        click.echo(f"{precision}: {cost}")
    for label, metric in record.metrics.items():
        click.echo(f"{label}: {metric}")
