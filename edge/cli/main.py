"""The command `hemascope`. Each folder adds its own commands by an entry point."""

from __future__ import annotations

import logging
import sys
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import click

from edge import __version__
from edge.errors import HemascopeError

GROUP = "hemascope.commands"


class CommandsOfFolders(click.Group):
    """Finds commands by entry point and imports one only when it is asked for."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Names of all commands."""
        return sorted(_found())

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Import the command `name`; None if there is no such command."""
        entry = _found().get(name)
        if entry is None:
            return None
        try:
            command: click.Command = entry.load()
        except ImportError as error:
            return _missing(name, error)
        return command


def _found() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def _missing(name: str, error: ImportError) -> click.Command:
    """Return a command that says which part is not installed on this machine."""
    text = f"needs {error.name}: run `pip install hemascope[workstation]`"

    @click.command(
        name,
        help=f"Not installed here: {text}.",
        context_settings={"ignore_unknown_options": True},
    )
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def command(arguments: tuple[str, ...]) -> None:
        raise click.ClickException(f"{name} {text}")

    return command


@click.group(cls=CommandsOfFolders)
@click.version_option(__version__, prog_name="hemascope")
@click.option("-v", "--verbose", is_flag=True, help="Say more in the log.")
def hemascope(verbose: bool) -> None:
    """Say, live, what blood cells are under the microscope."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        stream=sys.stderr,
    )


def main(*arguments: Any) -> None:
    """Run the command line; an error that a person can act on is one line."""
    try:
        hemascope(*arguments)
    except HemascopeError as error:
        click.secho(f"hemascope: {error}", fg="red", err=True)
        sys.exit(error.exit_code)
