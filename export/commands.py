"""The commands of this folder: export."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import click

from export.bundling import export_run


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
def export_command(
    run: Path, out: Path, name: str | None, error_rate: float, most_abstained: float
) -> None:
    """Export the training run RUN as a bundle to the folder OUT."""
    bundle = export_run(
        run,
        out,
        name or out.name,
        datetime.now(timezone.utc).replace(microsecond=0),
        error_rate=error_rate,
        most_abstained=most_abstained,
    )
    size = sum(path.stat().st_size for path in out.iterdir())
    click.echo(f"{bundle.id}: {size / 1e6:.2f} MB in {out}")
    record = bundle.record
    click.echo(
        f"temperature {record.temperature:.3f}, unidentified below "
        f"{record.abstain_below:.3f}"
    )
    for label, metric in record.metrics.items():
        click.echo(f"{label}: {metric}")
