"""Small commands that keep an installation in order: backup, failed, schema."""

from __future__ import annotations

from pathlib import Path

import click

from edge.cli.groups import Section, in_section

_FILE = click.Path(path_type=Path, dir_okay=False)
_FOLDER = click.Path(path_type=Path, file_okay=False)


@in_section(Section.MAINTENANCE)
@click.command("backup")
@click.argument("database", type=_FILE)
@click.argument("copy", type=_FILE)
def backup_command(database: Path, copy: Path) -> None:
    """Copy a ledger or an archive, also while it is in use, and verify the copy.

    DATABASE is the file to copy, COPY the file to write.
    """
    from edge.archive.backup import back_up

    held = back_up(database, copy)
    click.echo(f"{copy}: {held}")


@in_section(Section.MAINTENANCE)
@click.command("failed")
@click.option(
    "--ledger",
    required=True,
    type=_FOLDER,
    help="Folder of the ledger that `run` wrote.",
)
def failed_command(ledger: Path) -> None:
    """Write to the ledger that `run` ended by a fault. The systemd unit calls this."""
    import logging
    import os

    from edge.run.crash_record import failure_of, record_failure

    log = logging.getLogger(__name__)
    failure = failure_of(os.environ)
    if failure is None:
        return
    log.critical("%s", failure)
    row = record_failure(ledger, failure)
    if row is not None:
        log.info("row %d says so", row.seq)


@in_section(Section.MAINTENANCE)
@click.command("schema")
@click.argument("folder", type=_FOLDER)
def schema_command(folder: Path) -> None:
    """Write JSON Schemas of all messages and files, and an AsyncAPI 3 document.

    They are written to FOLDER, which is made if it does not exist.
    """
    from edge.contract.json_schemas import write_schemas

    click.echo(f"{write_schemas(folder)} in {folder}")
