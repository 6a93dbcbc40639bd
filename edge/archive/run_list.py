"""The list of an archive's runs, for a terminal; needs no OpenCV."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.table import Table

from edge.archive.run_history import RunSpan
from edge.rendering.plain_text import plain


def runs_table(spans: Sequence[RunSpan]) -> Table:
    """Return a table of runs for a terminal."""
    grid = Table(title=f"{len(spans)} runs", title_justify="left")
    for column in ("run", "device", "slide", "operator", "start (UTC)", "end"):
        grid.add_column(column, no_wrap=column in ("run", "slide"))
    for span in spans:
        start = span.start
        end = "ended" if span.is_ended else "not ended"
        rows = f"{end}, {span.last - span.first + 1} rows"
        slide_and_operator = (plain(start.slide or ""), plain(start.operator or ""))
        grid.add_row(
            start.run,
            span.chain.device,
            *slide_and_operator,
            time_text(span.utc),
            rows,
        )
    return grid


def time_text(at: datetime) -> str:
    """Return a time to the second, without its zone."""
    return f"{at:%Y-%m-%d %H:%M:%S}"
