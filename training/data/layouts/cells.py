"""One labelled cell, as any layout gives it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.data.boxes import Box
from training.data.rows import DataInvalid


@dataclass(frozen=True, slots=True)
class Cell:
    """One labelled cell; `split` is None where the data set states none.

    `name` is its label as the data set has it; `where` names its line or file in error
    messages; `index` is that of its image in a stack.
    """

    path: Path
    name: str
    split: str | None
    box: Box | None
    where: str
    index: int | None = None


def read_box(sides: Sequence[str], where: str) -> Box:
    """Read the four numbers of a box.

    Raises
    ------
    DataInvalid
        They are not four numbers; `where` names the line.
    """
    try:
        x0, y0, x1, y1 = (float(side) for side in sides)
    except (ValueError, TypeError) as error:
        raise DataInvalid(f"{where}: box {sides} is not four numbers") from error
    return x0, y0, x1, y1
