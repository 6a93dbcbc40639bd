"""The command `hemascope`. Each folder adds its own commands by an entry point.

`hemascope --help` imports the module of every command. So that it answers at once, such
a module imports at its top only what its options need, and the rest inside its
functions: no numpy, OpenCV, runtime or training framework. A test checks this.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import click

from edge import __version__
from edge.cli.groups import CommandGroup, Section, section_of
from edge.errors import HemascopeError

GROUP = "hemascope.commands"


class CommandsOfFolders(CommandGroup):
    """Finds commands by entry point, and imports one only when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands."""
        return sorted(_entry_points())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command `cmd_name`; None if there is no such command."""
        entry = _entry_points().get(cmd_name)
        if entry is None:
            return None
        try:
            command: click.Command = entry.load()
        except (ImportError, AttributeError) as error:
            return _unusable(cmd_name, error)
        return command

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Write the commands in sections."""
        names = self.list_commands(ctx)
        for name in names:
            self.get_command(ctx, name)  # says its section when it is imported
        for section in Section:
            listed = [name for name in names if section_of(name) is section]
            self.write_section(ctx, formatter, section.title, listed)


@cache
def _entry_points() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def _unusable(name: str, error: Exception) -> click.Command:
    """Return a command that says why the right one cannot be imported here."""
    from edge.import_faults import import_fault

    fault = import_fault(error)
    text = f"cannot be used here: {fault or f'{error}; install Hemascope again'}"

    @click.command(
        name,
        help=f"This command {text}.",
        context_settings={"ignore_unknown_options": True},
    )
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def command(arguments: tuple[str, ...]) -> None:
        raise click.ClickException(f"{name} {text}")

    return command


@click.group(cls=CommandsOfFolders, context_settings={"show_default": True})
@click.version_option(
    __version__, prog_name="hemascope", help="Show the version, and end."
)
@click.option("-v", "--verbose", is_flag=True, help="Write more to the log.")
def hemascope(verbose: bool) -> None:
    """Name the blood cells under the microscope, live."""
    import logging

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
        _end(str(error), error.exit_code)
    except (ImportError, AttributeError) as error:
        from edge.import_faults import import_fault

        fault = import_fault(error)
        if fault is None:
            raise  # a fault of ours
        _end(str(fault), exit_code=1)


def _end(text: str, exit_code: int) -> None:
    click.secho(f"hemascope: {text}", fg="red", err=True)
    sys.exit(exit_code)
