"""Keep a second copy of results: backup."""

from __future__ import annotations

from pathlib import Path

import click

from edge.archive.backup import back_up

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("backup")
@click.argument("database", type=_FILE)
@click.argument("copy", type=_FILE)
def backup_command(database: Path, copy: Path) -> None:
    """Copy a ledger or an archive, also while it is at work, and verify the copy."""
    held = back_up(database, copy)
    click.echo(f"{copy}: {held}")
