"""The commands of this folder: export."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click

from calibration.int8 import MIN_CROPS
from edge.artifacts.bundle import Bundle
from edge.settings.models import PRECISIONS, Lowered
from export.bundling import LowerPrecisions, export_run
from training.sessions.gathering import CellSource
from training.sessions.run_folder import load_record


@click.command("export")
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.option("--name", help="Name of the bundle; else that of the folder.")
@click.option(
    "--error-rate",
    default=0.005,
    show_default=True,
    help="Wanted share of errors among named cells of val.",
)
@click.option(
    "--most-abstained",
    default=0.01,
    show_default=True,
    help="Share of val cells that may be left unidentified.",
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice(PRECISIONS[1:]),
    help="Also this one; compared with fp32 on the test cells of --data.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True),
    help="Labelled cells, as for `train`.",
)
@click.option(
    "--crops",
    default=256,
    show_default=True,
    type=click.IntRange(MIN_CROPS),
    help="Cells of train that the ranges of int8 are measured on.",
)
@click.option("--any-licence", is_flag=True, help="As for `train`.")
@click.option(
    "--force",
    is_flag=True,
    help="Also a precision that names too many cells otherwise.",
)
def export_command(
    run: Path,
    out: Path,
    name: str | None,
    precisions: tuple[Lowered, ...],
    **options: Any,
) -> None:
    """Export the training run RUN as a bundle to the folder OUT."""
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
