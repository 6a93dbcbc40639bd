"""Examine a data set before a model is fitted to it: its problems and its contents.

A problem concerns a row that cannot be used as it is; a note is worth knowing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from rich.progress import track

from edge.errors import FrameRejected
from edge.taxonomy import TASKS, label_in_task
from training.choices import SPLITS
from training.data.boxes import box_problem
from training.data.contact_sheet import contact_sheet
from training.data.rows import Crops, DataInvalid, Row, count, read_counts

_MAX_SHOWN = 20  # problems in an error message


@dataclass(frozen=True, slots=True)
class Examined:
    """The rows of a data set with problems and notes; `usable` have no problem."""

    rows: tuple[Row, ...]
    usable: tuple[Row, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Image:
    """Properties of one image; for a strip, the size is that of one frame."""

    domain: str
    width_px: int
    height_px: int
    is_16_bit: bool
    is_grey: bool


def examine_rows(rows: Iterable[Row]) -> Examined:
    """Read every image once and collect problems and notes."""
    rows = tuple(rows)
    by_image: dict[tuple[str, str, int], list[Row]] = defaultdict(list)
    for row in rows:
        by_image[row.image].append(row)
    problems = _repeated(rows)
    images = []
    for members in track(by_image.values(), "images"):
        image = _read(members, problems)
        if image is not None:
            images.append(image)
    usable = tuple(row for row in rows if row not in problems)
    named = [f"{row.where}: {problems[row]}" for row in rows if row in problems]
    notes = (*_image_notes(images), *_label_notes(usable))
    return Examined(rows, usable, tuple(named), notes)


def _repeated(rows: Iterable[Row]) -> dict[Row, str]:
    """Find cells that are labelled twice.

    The second row is a problem; where the labels differ, the first one is, too.
    """
    first: dict[object, Row] = {}
    problems: dict[Row, str] = {}
    for row in rows:
        other = first.setdefault((row.image, row.task, row.box), row)
        if other is row:
            continue
        what = f"{row.path.name}: box {row.box}" if row.box else row.path.name
        problems[row] = f"{what} is labelled {other.label} in {other.where} already"
        if other.label != row.label:
            problems[other] = f"{what} is labelled {row.label} in {row.where} too"
    return problems


def _read(members: Sequence[Row], problems: dict[Row, str]) -> _Image | None:
    """Read one image and add what is wrong with its rows to `problems`.

    Returns None if it cannot be read.
    """
    one = members[0]
    try:
        counts = read_counts(one)
    except FrameRejected as error:
        problems.update((row, str(error)) for row in members)
        return None
    height, width = counts.shape[:2]
    for row in members:
        wrong = box_problem(row.box, width, height) if row.box else None
        if wrong is not None:
            problems[row] = f"{row.path.name}: {wrong}"
    return _Image(
        domain=one.domain,
        width_px=width // one.frames,
        height_px=height,
        is_16_bit=counts.dtype == np.uint16,
        is_grey=all(
            np.array_equal(counts[..., 0], counts[..., other]) for other in (1, 2)
        ),
    )


def _image_notes(images: Sequence[_Image]) -> list[str]:
    """Note depth, colour and sizes of the images of each domain."""
    notes = []
    for domain in sorted({image.domain for image in images}):
        here = [image for image in images if image.domain == domain]
        total = f"of {len(here)} images"
        if deep := sum(image.is_16_bit for image in here):
            notes.append(
                f"{domain}: {deep} {total} are 16-bit, scaled to 8 by the profile"
            )
        if grey := sum(image.is_grey for image in here):
            notes.append(
                f"{domain}: {grey} {total} are grey, their colour says nothing"
            )
        sizes = sorted({(image.width_px, image.height_px) for image in here})
        if len(sizes) > 1:
            low, high = ("x".join(map(str, size)) for size in (sizes[0], sizes[-1]))
            notes.append(f"{domain}: {len(sizes)} image sizes, {low} to {high} px")
    return notes


def _label_notes(rows: Iterable[Row]) -> list[str]:
    """Note classes that are missing, in a split or altogether, and unknown labels."""
    splits: dict[tuple[str, str], set[str]] = defaultdict(set)
    first: dict[tuple[str, str], Row] = {}
    for row in rows:
        splits[row.task, row.label].add(row.split)
        first.setdefault((row.task, row.label), row)
    notes = []
    for task in sorted({task for task, _ in first}):
        for label in TASKS.get(task, ()):
            missing = [s for s in SPLITS if s not in splits.get((task, label), ())]
            if len(missing) == len(SPLITS):
                notes.append(f"{task}: no row is labelled {label}, an empty class")
            elif missing:
                notes.append(f"{task}: no {label} in {' and '.join(missing)}")
    for (task, label), row in first.items():
        if task not in TASKS or label_in_task(label, task) is None:
            notes.append(f"{task}: {label!r} ({row.where}) is no class of this task")
    return notes


def refuse_problems(problems: Sequence[str]) -> None:
    """Refuse a data set that has any.

    Raises
    ------
    DataInvalid
        Lists the first of them and says how many there are.
    """
    if problems:
        shown = "\n".join(problems[:_MAX_SHOWN])
        raise DataInvalid(
            f"{len(problems)} rows cannot be used, correct them or leave them out; "
            f"the first {min(len(problems), _MAX_SHOWN)}:\n{shown}"
        )


def write_data_report(folder: Path, examined: Examined, crops: Crops) -> Path:
    """Write `data.md`, with what the data set holds, and `contact-sheet.png`.

    Returns the path of `data.md`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sheet = cv2.cvtColor(contact_sheet(crops), cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(folder / "contact-sheet.png"), sheet)
    usable, rows = examined.usable, examined.rows
    parts = [
        "# Data",
        f"{len(usable)} of {len(rows)} rows can be used, "
        f"{len({row.image for row in usable})} images, "
        f"{len({row.group for row in usable})} groups.",
        "![Crops of each class](contact-sheet.png)",
        *_count_tables(usable),
        "## Licences",
        _table(("licence", "rows"), count(row.licence for row in usable).items()),
        "## Notes",
        _items(examined.notes),
        "## Problems",
        _items(examined.problems),
    ]
    path = folder / "data.md"
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return path


def _count_tables(rows: Iterable[Row]) -> list[str]:
    """Write a table per domain and task: how often each class is in each split."""
    by_domain: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        by_domain[row.domain, row.task].append(row)
    parts = []
    for (domain, task), members in sorted(by_domain.items()):
        number = Counter((row.label, row.split) for row in members)
        labels = dict.fromkeys([*TASKS.get(task, ()), *(r.label for r in members)])
        lines = [
            (
                label,
                *(number[label, split] for split in SPLITS),
                len({row.group for row in members if row.label == label}),
            )
            for label in labels
        ]
        parts += [
            f"## {domain}, {task}",
            _table(("class", *SPLITS, "groups"), lines),
        ]
    return parts


def _table(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """Write a table in Markdown; all but the first column are numbers."""
    ruler = ["---", *["---:"] * (len(head) - 1)]
    cells = [[str(cell).replace("|", r"\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in [[*head], ruler, *cells])


def _items(texts: Sequence[str]) -> str:
    """Write a list in Markdown."""
    return "\n".join(f"- {text}" for text in texts) or "None."
