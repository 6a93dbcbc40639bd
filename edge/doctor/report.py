"""A report for people, as a table on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edge.doctor.findings import Finding, Status, worst_status
from edge.rendering.plain_text import plain

_STYLES: dict[Status, str] = {
    "ok": "green",
    "unknown": "cyan",
    "warning": "yellow",
    "fault": "bold red",
}
_SUMMARIES: dict[Status, str] = {
    "ok": "all is well",
    "unknown": "nothing wrong was found, but not everything could be checked",
    "warning": "it works; somebody should look at the warnings",
    "fault": "something is broken",
}


def table_of(findings: Sequence[Finding]) -> RenderableType:
    """Return a line for each finding, and below it the one thing to do."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(3):
        grid.add_column(overflow="fold")
    before = ""
    for finding in findings:
        text = plain(finding.found)
        if finding.remedy is not None:
            text.append("\n→ ", "bold").append(plain(finding.remedy, "bold"))
        name = finding.name if finding.name != before else ""
        status = Text(finding.status, _STYLES[finding.status])
        grid.add_row(status, name, text)
        before = finding.name
    counts = {s: sum(f.status == s for f in findings) for s in _STYLES}
    numbers = ", ".join(f"{n} {status}" for status, n in counts.items() if n)
    worst = worst_status(findings)
    summary = Text(_SUMMARIES[worst], _STYLES[worst])
    return Group(grid, Text(), summary.append(f" ({numbers})", "default"))
