"""How commands are listed in the help, and found by a name that is nearly right."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from importlib.util import find_spec
from typing import TypeVar

import click

CommandT = TypeVar("CommandT", bound=click.Command)


class Section(Enum):
    """One section, with its title. The order here is the order in the help."""

    LOOK = "Look"
    DEVICE = "Run a device"
    SERVER = "Lab server"
    CALIBRATE = "Calibrate"
    TRAIN = "Train and export"
    MAINTENANCE = "Maintenance"

    @property
    def needs(self) -> str | None:
        """The package that its commands need and that a device does not have."""
        return "torch" if self is Section.TRAIN else None

    @property
    def title(self) -> str:
        """What the help prints above the section's commands."""
        if self.needs is None or find_spec(self.needs) is not None:
            return self.value
        return f"{self.value} (not installed here: needs {self.needs})"


_SECTIONS: dict[str, Section] = {}


def in_section(section: Section) -> Callable[[CommandT], CommandT]:
    """List the decorated command of `hemascope` in this section."""

    def listed(command: CommandT) -> CommandT:
        _SECTIONS[command.name or ""] = section
        return command

    return listed


def section_of(name: str) -> Section:
    """Return the section of a command; commands that name none are maintenance."""
    return _SECTIONS.get(name, Section.MAINTENANCE)


class CommandGroup(click.Group):
    """A group that describes its commands in full and knows what was meant."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that `args` begin with; an error names the nearest ones."""
        name = args[0]
        known = self.list_commands(ctx)
        is_option = name.startswith("-")
        if name not in known and not is_option and not ctx.resilient_parsing:
            ctx.fail(f"There is no command {name!r}. {_nearest(name, known, ctx)}")
        return super().resolve_command(ctx, args)

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Write the commands and their summaries."""
        self.write_section(ctx, formatter, "Commands", self.list_commands(ctx))

    def write_section(
        self,
        ctx: click.Context,
        formatter: click.HelpFormatter,
        title: str,
        names: Iterable[str],
    ) -> None:
        """Write one section of the help, without commands that are hidden."""
        commands = {name: self.get_command(ctx, name) for name in names}
        rows = [
            (name, summary_of(command))
            for name, command in commands.items()
            if command is not None and not command.hidden
        ]
        if rows:
            with formatter.section(title):
                formatter.write_dl(rows)


# Groups inside a group are of the same kind.
CommandGroup.group_class = CommandGroup


def summary_of(command: click.Command) -> str:
    """Return the first paragraph of a command's help, on one line."""
    return " ".join((command.help or "").partition("\n\n")[0].split())


def _nearest(name: str, known: Iterable[str], ctx: click.Context) -> str:
    from difflib import get_close_matches

    nearest = get_close_matches(name, known, n=3, cutoff=0.5)
    if nearest:
        return f"Did you mean {' or '.join(nearest)}?"
    return f"`{ctx.command_path} --help` lists the commands."
