"""The blocks of a report, which become a Markdown page and an HTML page.

The HTML page holds its pictures, so that it can be sent as one file.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge.errors import HemascopeError

_FORMATS = {  # by the first bytes of a file
    b"\x89PNG": "png",
    b"\xff\xd8\xff": "jpeg",
}


class ReportImpossible(HemascopeError):
    """These parts cannot be put into one report."""


@dataclass(frozen=True, slots=True)
class Heading:
    """The title of a section."""

    text: str


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A paragraph."""

    text: str


@dataclass(frozen=True, slots=True)
class TextTable:
    """A table; the first column names the rows."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Picture:
    """An image; `alt` says briefly what it shows, `caption` how to read it."""

    name: str
    content: bytes
    alt: str
    caption: str

    @property
    def format(self) -> str:
        """Its format, "png" or "jpeg", found from its first bytes."""
        for start, name in _FORMATS.items():
            if self.content.startswith(start):
                return name
        raise ReportImpossible(
            f"{self.alt}: starts with {self.content[:4]!r}, expected a PNG or a JPEG; "
            "convert the picture"
        )

    @property
    def path(self) -> str:
        """Its file, relative to the Markdown page."""
        return f"figures/{self.name}.{self.format}"


Block = Heading | Paragraph | TextTable | Picture


def write_pages(folder: Path, title: str, blocks: Sequence[Block]) -> Path:
    """Write `report.md` with `figures/`, and `report.html`; return the HTML page."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for block in blocks:
        if isinstance(block, Picture):
            (folder / block.path).write_bytes(block.content)
    (folder / "report.md").write_text(_markdown(title, blocks), "utf-8")
    page = folder / "report.html"
    page.write_text(_html(title, blocks), "utf-8")
    return page


def _markdown(title: str, blocks: Sequence[Block]) -> str:
    """Return blocks as Markdown; pictures are files in `figures/`."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(_plain(cell) for cell in cells)} |"

    parts = [f"# {_plain(title)}"]
    for block in blocks:
        match block:
            case Heading(text):
                parts.append(f"## {_plain(text)}")
            case Paragraph(text):
                parts.append(_plain(text))
            case TextTable(head, rows):
                rule = f"|{'---|' * len(head)}"
                parts.append("\n".join([line(head), rule, *map(line, rows)]))
            case Picture(alt=alt, caption=caption):
                parts += [f"![{_plain(alt)}]({block.path})", _plain(caption)]
    return "\n\n".join(parts) + "\n"


def _html(title: str, blocks: Sequence[Block]) -> str:
    """Return blocks as one HTML page that contains its pictures."""

    def line(cells: Sequence[str], tag: str) -> str:
        first, *rest = (html.escape(cell) for cell in cells)
        return (
            f"<tr><th>{first}</th>{''.join(f'<{tag}>{c}</{tag}>' for c in rest)}</tr>"
        )

    parts = []
    for block in blocks:
        match block:
            case Heading(text):
                parts.append(f"<h2>{html.escape(text)}</h2>")
            case Paragraph(text):
                parts.append(f"<p>{html.escape(text)}</p>")
            case TextTable(head, rows):
                body = "\n".join(line(row, "td") for row in rows)
                parts.append(
                    f'<div class="grid"><table><thead>{line(head, "th")}</thead>\n'
                    f"<tbody>{body}</tbody></table></div>"
                )
            case Picture(content=content, alt=alt, caption=caption):
                data = base64.b64encode(content).decode()
                parts.append(
                    f'<figure><img alt="{html.escape(alt)}" '
                    f'src="data:image/{block.format};base64,{data}">'
                    f"<figcaption>{html.escape(caption)}</figcaption></figure>"
                )
    return _PAGE.format(title=html.escape(title), body="\n".join(parts))


def _plain(text: str) -> str:
    """Escape what Markdown, or HTML within it, would not show as plain text."""
    escaped = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", escaped)


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #1c2430; background: #fff;
  max-width: 72rem; margin: 0 auto; padding: 1.5rem; }}
h1, h2 {{ color: #6d1f3a; line-height: 1.2; }}
h2 {{ margin-top: 2.5rem; border-bottom: 1px solid #ddd6cc; padding-bottom: .3rem; }}
p, figcaption {{ max-width: 46rem; color: #4a5361; }}
figure {{ margin: 1.5rem 0; }}
img {{ max-width: 100%; }}
.grid {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .88rem;
  font-variant-numeric: tabular-nums; }}
th, td {{ text-align: left; padding: .35rem .7rem .35rem 0; white-space: nowrap; }}
thead th {{ color: #4a5361; white-space: normal; vertical-align: bottom; }}
tbody th {{ font-weight: 500; }}
tbody tr {{ border-top: 1px solid #eee8df; }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""
