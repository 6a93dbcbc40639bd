"""Colours of fields of known laboratories, by which exchanged channels are noticed.

`known_colours.json` is learned by `python -m export.benchmark.slide.field_check learn`
and names the sources of the fields.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from edge.schema.codec import read_json
from edge.stages.field_check import KnownColours

PATH = Path(__file__).with_name("known_colours.json")
Point = Annotated[tuple[float, ...], Meta(min_length=8, max_length=8)]


class KnownColoursRecord(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True
):
    """`known_colours.json`: `points` and `spread` as in `KnownColours`."""

    format: int = 1
    sources: tuple[str, ...]
    fields: int
    spread: Point
    points: tuple[Point, ...]


def load_known_colours() -> KnownColours:
    """Load the colours that come with Hemascope.

    Raises
    ------
    ConfigurationInvalid
        The file is missing or not a valid record.
    """
    record = read_json(PATH, KnownColoursRecord)
    return KnownColours(np.array(record.points), np.array(record.spread))
