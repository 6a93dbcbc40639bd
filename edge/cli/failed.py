"""What the units call when a process of theirs has ended."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import click

from edge.run.crash_record import failure_of, record_failure

log = logging.getLogger(__name__)


@click.command("failed")
@click.option(
    "--ledger",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the ledger.",
)
def failed_command(ledger: Path) -> None:
    """Write to the ledger that `run` died; the unit calls this as it ends."""
    failure = failure_of(os.environ)
    if failure is None:
        return
    log.critical("%s", failure)
    row = record_failure(ledger, failure)
    if row is not None:
        log.info("row %d says so", row.seq)
