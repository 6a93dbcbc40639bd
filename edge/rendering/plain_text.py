"""Text from elsewhere, for a terminal."""

from __future__ import annotations

from rich.text import Text


def plain(text: str, style: str = "") -> Text:
    """Show what would command the terminal, or set the text, instead of doing it.

    Rich takes a `str` in a table for its markup: "[/b]" would end the program, and
    "[link=…]" would lead elsewhere than it says.
    """
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return Text(shown, style)
