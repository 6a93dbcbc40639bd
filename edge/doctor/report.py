"""A report for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edge.doctor.findings import Finding, Status, worst

_STYLES: dict[Status, str] = {
    "ok": "green",
    "unknown": "cyan",
    "warning": "yellow",
    "fault": "bold red",
}
_VERDICTS: dict[Status, str] = {
    "ok": "all is well",
    "unknown": "nothing is wrong as far as could be seen",
    "warning": "it works; some things should be looked after",
    "fault": "something is broken",
}


def table_of(findings: Sequence[Finding]) -> RenderableType:
    """Return one line per finding, and under it the one thing to do."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(3):
        grid.add_column(overflow="fold")
    before = ""
    for finding in findings:
        text = Text(_plain(finding.found))
        if finding.remedy is not None:
            text.append(f"\n→ {_plain(finding.remedy)}", "bold")
        name = finding.name if finding.name != before else ""
        mark = Text(finding.status, _STYLES[finding.status])
        grid.add_row(mark, name, text)
        before = finding.name
    count = {s: sum(f.status == s for f in findings) for s in _STYLES}
    numbers = ", ".join(f"{n} {status}" for status, n in count.items() if n)
    status = worst(findings)
    verdict = Text(_VERDICTS[status], _STYLES[status])
    return Group(grid, Text(), verdict.append(f" ({numbers})", "default"))


def _plain(text: str) -> str:
    """Show what would command the terminal instead of doing it."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
