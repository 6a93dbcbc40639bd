"""Keep names of patients and dates of birth out of rows, which nobody can erase."""

from __future__ import annotations

import re

from edge.errors import ConfigurationInvalid

_SLIDE = re.compile(r"(?=.*[0-9])[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
_WORD = re.compile(r"[A-Za-z]{5,}")
_OPERATOR = re.compile(r"[a-z][a-z0-9]{0,7}")
_DATE = re.compile(
    r"(?<!\d)((19|20)\d\d[-./ ]?(0[1-9]|1[0-2])[-./ ]?(0[1-9]|[12]\d|3[01])"
    r"|(0?[1-9]|[12]\d|3[01])[-./ ](0?[1-9]|[12]\d|3[01])[-./ ]((19|20)?\d\d))(?!\d)"
)
_MAX_NOTE = 200


class RunRefused(ConfigurationInvalid):
    """A slide, operator or note may name a patient, or there is no run to note it for.

    `discreet` is the message without the refused value, for rows and logs.
    """

    def __init__(self, text: str, discreet: str | None = None) -> None:
        super().__init__(text)
        self.discreet = discreet or text


def checked_slide(slide: str | None) -> str | None:
    """Return the slide's number, if it is one.

    Raises
    ------
    RunRefused
        It may be a name or a date of birth, or it has characters of no number.
    """
    if slide is None:
        return None
    if not _SLIDE.fullmatch(slide) or _WORD.search(slide) or _DATE.search(slide):
        raise _refused(
            "slide",
            slide,
            "a number of the laboratory such as 'S26-00123': letters, digits and "
            ". _ -, at most 32, with a digit, at most four letters in a row, and no "
            "date; never a patient's name",
        )
    return slide


def checked_operator(operator: str | None) -> str | None:
    """Return an operator's short code, if it is one; raises as `checked_slide`."""
    if operator is not None and not _OPERATOR.fullmatch(operator):
        raise _refused(
            "operator",
            operator,
            "a short code such as 'op7': a-z and 0-9, at most 8, a letter first; "
            "never a full name",
        )
    return operator


def checked_note(text: str) -> str:
    """Return a note, if it is short and plain; raises as `checked_slide`.

    No program can find a name in a sentence: people must leave it out.
    """
    text = text.strip()
    if not text or len(text) > _MAX_NOTE or not text.isprintable():
        raise RunRefused(
            f"the note has {len(text)} characters, expected 1 to {_MAX_NOTE} that can "
            "be printed, on one line"
        )
    if _DATE.search(text):
        raise RunRefused(
            "the note holds a date, which may be one of birth; rows have their own "
            "time, leave it out"
        )
    return text


def _refused(what: str, value: str, expected: str) -> RunRefused:
    return RunRefused(
        f"{what} is {value!r}, expected {expected}",
        f"the {what} was refused, its value is not repeated here; expected {expected}",
    )
