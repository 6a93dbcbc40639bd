"""Show text from others on a terminal, without obeying it."""

from __future__ import annotations

from rich.text import Text


def plain(text: str, style: str = "") -> Text:
    """Return text whose control characters are visible and have no effect.

    Rich reads a `str` in a table as its markup: "[/b]" would end the program, and
    "[link=…]" would open another page than it shows.
    """
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return Text(shown, style)
