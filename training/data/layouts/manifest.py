"""A manifest: a table of cells as CSV, the only layout that states everything."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from training.choices import SPLITS
from training.data.layouts.cells import read_box
from training.data.layouts.files import read_text
from training.data.rows import DataInvalid, Row

COLUMNS = ("path", "licence", "split", "label", "x0", "y0", "x1", "y1")


def read_manifest(manifest: Path, task: str = "cells4") -> list[Row]:
    """Read a manifest; image paths are relative to it.

    `task` is that of rows that state none.

    Raises
    ------
    DataInvalid
        A column is missing, or a split or box is not valid; names the line.
    """
    with io.StringIO(read_text(manifest), newline="") as file:
        reader = csv.DictReader(file)
        missing = [c for c in COLUMNS if c not in (reader.fieldnames or ())]
        if missing:
            raise DataInvalid(
                f"{manifest}: has no column {missing}; it needs {COLUMNS}"
            )
        return [_row(line, manifest, n, task) for n, line in enumerate(reader, 2)]


def _row(line: dict[str, str], manifest: Path, number: int, task: str) -> Row:
    """Read line `number` of a manifest."""
    where = f"{manifest}:{number}"
    if None in line.values():
        raise DataInvalid(f"{where}: has fewer columns than the first line")
    if line["split"] not in SPLITS:
        raise DataInvalid(
            f"{where}: split is {line['split']!r}, not train, val or test"
        )
    sides = [line[c] for c in ("x0", "y0", "x1", "y1")]
    box = read_box(sides, where) if any(sides) else None
    if box and not (np.isfinite(box).all() and box[2] > box[0] and box[3] > box[1]):
        raise DataInvalid(f"{where}: box {sides} is empty or not finite")
    frames = line.get("n_frames") or "1"
    if not frames.isdecimal() or int(frames) < 1:
        raise DataInvalid(f"{where}: n_frames is {frames!r}, expected 1 or more")
    return Row(
        path=manifest.parent / line["path"],
        licence=line["licence"],
        split=line["split"],
        label=line["label"],
        box=box,
        task=line.get("task") or task,
        domain=line.get("domain") or manifest.parent.name,
        group=line.get("group") or line["path"],
        is_complete="incomplete" not in line.get("label_origin", ""),
        where=f"{manifest.name}:{number}",
        frames=int(frames),
    )
