"""One labelled cell, as the file of any layout has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.data.boxes import Box
from training.data.rows import DataInvalid


@dataclass(frozen=True, slots=True)
class Cell:
    """One labelled cell; `split` is None where none is given."""

    path: Path
    name: str
    split: str | None
    box: Box | None
    where: str
    index: int | None = None


def read_box(sides: Sequence[str], where: str) -> Box:
    """Read four numbers."""
    try:
        x0, y0, x1, y1 = (float(side) for side in sides)
    except (ValueError, TypeError) as error:
        raise DataInvalid(f"{where}: box {sides} is not four numbers") from error
    return x0, y0, x1, y1
