"""Runs of an archive: list them, write the page of one."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import click

from edge.cli.groups import Section, in_section


@in_section(Section.SERVER)
@click.command("runs")
@click.argument("run", required=False)
@click.option(
    "--archive",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="File of the archive, as in its settings: [archive] file.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for the page of RUN. Without it, a folder with the id of the run.",
)
def runs_command(run: str | None, archive: Path, out: Path | None) -> None:
    """List the runs of an archive, or write a page on one of them.

    RUN is the id of a run or its first characters. Without RUN, all runs are listed.
    """
    from rich.console import Console

    from edge.archive.run_history import find_run, list_runs, read_run_history
    from edge.archive.run_list import runs_table
    from edge.archive.store import Store

    with closing(Store(archive, must_exist=True)) as store:
        if run is None:
            Console().print(runs_table(list_runs(store)))
            return
        story = read_run_history(store, find_run(store, run))
    # imported here: it draws, by OpenCV, which a lab server need not have
    from edge.archive.run_report import write_run_page

    page = write_run_page(out or Path(story.span.start.run), story)
    click.echo(f"page: {page}")
