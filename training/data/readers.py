"""Read labelled blood cells in the layouts that they come in.

The meaning of a data set's names, its groups and its splits are determined here, in one
place for all layouts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from edge.taxonomy import TASKS, label_in_task
from training.data.layouts.bloodmnist import read_bloodmnist
from training.data.layouts.cells import Cell
from training.data.layouts.classes import read_class_folders
from training.data.layouts.files import folders_in
from training.data.layouts.manifest import read_manifest
from training.data.layouts.voc import read_voc
from training.data.layouts.yolo import read_yolo
from training.data.rows import DataInvalid, Row
from training.data.splits import split_by_group

NOT_STATED = "not stated"
_EXPECTED = (
    "a manifest (.csv), BloodMNIST (.npz), or a folder with Annotations/*.xml (VOC), "
    "with images and labels (YOLO), or with one folder per class"
)
_ALIASES = {
    "redbloodcell": "RBC",
    "redcell": "RBC",
    "erythrocyte": "RBC",
    "whitebloodcell": "WBC",
    "whitecell": "WBC",
    "leukocyte": "WBC",
    "leucocyte": "WBC",
    "thrombocyte": "Platelet",
    "ig": "immature granulocyte",
}
_MAX_SHOWN = 20


def read_rows(
    source: Path,
    *,
    task: str,
    licence: str | None = None,
    group: str | None = None,
    seed: int = 0,
) -> list[Row]:
    r"""Read a data set in any known layout.

    Parameters
    ----------
    source
        A manifest; an npz with the arrays of BloodMNIST; a folder of VOC, of YOLO, or
        with one folder per class.
    task
        The task that the labels belong to; for a manifest, where a row has none.
    licence
        Of data in a layout that states none.
    group
        Regular expression, searched in each file name; what its first capture group
        finds is the slide or the patient, as in `^(\w+?)_`. None: each image is alone.
    seed
        Of the split, where the layout has none.

    Raises
    ------
    DataInvalid
        Something is wrong in a file; names the file and the line.
    """
    if task not in TASKS:
        raise DataInvalid(f"task is {task!r}, expected one of {[*TASKS]}")
    if source.suffix.lower() == ".csv":
        if licence is not None or group is not None:
            raise DataInvalid(
                f"{source}: a manifest states licence and group itself; write them "
                "into its columns and leave the options out"
            )
        return read_manifest(source, task)
    cells = list(_reader(source)(source))
    if not cells:
        raise DataInvalid(f"{source}: no cell is labelled in it")
    rows = _rows(cells, source, task, licence or NOT_STATED, group)
    return rows if rows[0].split else split_by_group(rows, seed=seed)


def _reader(source: Path) -> Callable[[Path], Iterator[Cell]]:
    """Return the reader of the layout.

    Raises
    ------
    DataInvalid
        The layout is not known.
    """
    if source.suffix.lower() == ".npz":
        return read_bloodmnist
    if (source / "Annotations").is_dir():
        return read_voc
    if any((source / name).is_dir() for name in ("images", "labels")) or any(
        source.glob("*/images")
    ):
        return read_yolo
    if folders_in(source):
        return read_class_folders
    raise DataInvalid(f"{source}: not a known layout; expected {_EXPECTED}")


def _rows(
    cells: Sequence[Cell], source: Path, task: str, licence: str, group: str | None
) -> list[Row]:
    labels = _labels(cells, source, task)
    return [
        Row(
            path=cell.path,
            licence=licence,
            split=cell.split or "",
            label=labels[cell.name],
            box=cell.box,
            task=task,
            domain=source.stem if cell.index is not None else source.resolve().name,
            group=_group(cell, source, group),
            is_complete=True,
            where=cell.where,
            index=cell.index,
        )
        for cell in cells
    ]


def _labels(cells: Sequence[Cell], source: Path, task: str) -> dict[str, str]:
    """Return the label of `task` for each name of the data set.

    Raises
    ------
    DataInvalid
        The task has no label for a name.
    """
    first: dict[str, Cell] = {}
    for cell in cells:
        first.setdefault(cell.name, cell)
    labels = {}
    unknown = []
    for name, cell in first.items():
        label = label_named(name, task)
        if label is None:
            unknown.append(f"{name!r} ({cell.where})")
        else:
            labels[name] = label
    if unknown:
        raise DataInvalid(
            f"{source}: task {task} does not know {', '.join(unknown[:_MAX_SHOWN])} "
            f"({len(unknown)} labels); it knows {', '.join(TASKS[task])}"
        )
    return labels


def label_named(name: str, task: str) -> str | None:
    """Return the label of `task` for a name such as "Platelets" or "red blood cell"."""
    known = {_bare(label): label for labels in TASKS.values() for label in labels}
    known |= _ALIASES
    bare = _bare(name)
    label = known.get(bare) or known.get(bare.removesuffix("s"))
    return None if label is None else label_in_task(label, task)


def _bare(name: str) -> str:
    """Reduce a name to its letters and digits, in lower case."""
    return re.sub(r"[\W_]", "", name.casefold())


def _group(cell: Cell, source: Path, pattern: str | None) -> str:
    """Return the slide or patient that the file name states; else the image itself.

    Raises
    ------
    DataInvalid
        The pattern is no regular expression with a group, or finds nothing.
    """
    if pattern is None:
        if cell.index is not None:
            return cell.where
        return cell.path.relative_to(source).as_posix()
    if cell.index is not None:
        raise DataInvalid(
            f"{source}: its images have no file names to find {pattern!r} in; leave "
            "the group out"
        )
    try:
        found = re.search(pattern, cell.path.name)
        name = found and found.group(1)
    except (re.error, IndexError) as error:
        raise DataInvalid(
            f"group is {pattern!r}, expected a regular expression with a capture "
            f"group such as '^(\\w+?)_': {error}"
        ) from error
    if not name:
        raise DataInvalid(
            f"{cell.path}: group {pattern!r} finds nothing in its name; expected "
            "the slide or patient of every image"
        )
    return name
