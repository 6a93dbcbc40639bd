"""What a settings file may not be, seen before it is parsed.

Python's TOML parser takes memory that grows with the square of the parts of a dotted
key: 20,000 of them, in 40 kB, take 1.6 GB. No setting lies deeper than a few tables.
"""

from __future__ import annotations

import re

MAX_TOML_BYTES = 1 << 18  # the example with every setting has 9 kB
_MAX_PARTS = 16
# Strings and comments, so that what is in them is not taken for a key.
_TEXTS = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*"""|\'\'\'.*?\'\'\''
    r'|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'|#[^\n]*',
    re.DOTALL,
)
_DEEP_KEY = re.compile(rf"(?<![\w-])(?:[\w-]+[ \t]*\.[ \t]*){{{_MAX_PARTS}}}")
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\(?:u0000|U00000000)")


def why_hostile(text: str) -> tuple[int, str] | None:
    """Return the line of TOML that no settings file has, and what is wrong with it."""
    for found in _TEXTS.finditer(text):
        if found[0].startswith('"') and _NUL.search(found[0]):
            sentence = "a text holds the character NUL, which no name has; take it out"
            return _line(text, found.start()), sentence
    keys = _TEXTS.sub(_blank, text)
    deep = _DEEP_KEY.search(keys)
    if deep:
        sentence = f"a key of more than {_MAX_PARTS} parts; no table lies so deep"
        return _line(keys, deep.start()), sentence
    return None


def _blank(found: re.Match[str]) -> str:
    """Return what stands for a text or a comment: its lines stay as many."""
    return "Q" + "\n" * found[0].count("\n")


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1
