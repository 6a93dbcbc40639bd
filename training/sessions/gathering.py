"""From a data set, in whatever layout, to the cells that a family is fitted to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from edge.artifacts.bundle import LOCATOR, load_bundle
from edge.artifacts.profile import Profile
from edge.engines.opening import open_engine
from edge.taxonomy import TASKS
from training.choices import SPLITS, Colour
from training.data.clips import Clips, read_clips
from training.data.colour_normalisation import colour_profiles
from training.data.data_report import Examined, examine_rows, refuse_problems
from training.data.readers import read_rows
from training.data.rows import (
    DataInvalid,
    Row,
    cut_task_crops,
    free_rows,
    join,
    rows_of_task,
)
from training.data.splits import mend_cut_groups
from training.data.unlabelled_red_cells import find_red_cells
from training.fitting.augmentation import STOCK_CONTEXT, WHOLE, Jitter
from training.fitting.classifier import BatchSampling, as_clips, as_frames, stock_px
from training.fitting.families import Family
from training.synthetic.smears import simulated_crops
from training.synthetic.timelapse_clips import simulated_timelapse

_MAX_UNUSABLE = 0.05  # share of rows with a problem above which nothing is trusted
_FRAMES, _WINDOW = 20, 8  # frames of a clip: kept, and shown at once in training
SLIDES = 60  # simulated, added to the real cells of task cells4
_SIMULATED = {"train": 6000, "val": 320, "test": 480}  # clips of task `change`
Labelled = list[tuple[Row, int]]


@dataclass(frozen=True, slots=True)
class CellSource:
    """Where cells come from, and which of them may be used.

    `path` is a file or folder that `read_rows` knows, None for the simulation. Where
    `is_any_licence` is false, rows of a manifest count only if their licence lets
    weights be shipped.
    """

    path: Path | None
    task: str
    is_any_licence: bool = False
    without: tuple[str, ...] = ()
    licence: str | None = None
    group: str | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class GatheredRows:
    """Rows of a task by split, each with its class index.

    `notes` say what was left out; `examined` is None for simulated cells.
    """

    task: str
    parts: Mapping[str, Labelled]
    examined: Examined | None
    notes: tuple[str, ...]

    @property
    def moves(self) -> bool:
        """Whether the cells are seen in more than one frame."""
        return self.task == "change" or any(
            row.frames > 1 for part in self.parts.values() for row, _ in part
        )


def gather(source: CellSource) -> GatheredRows:
    """Read, check and sort the rows of a data set, to fit to.

    Rows with a problem are named and left out; nothing is skipped silently.

    Raises
    ------
    DataInvalid
        There is nothing to fit to or to evaluate on; a class has no cell in `train`;
        more than one row in twenty has a problem.
    """
    gathered = read_usable(source)
    if source.path is None:
        return gathered
    gaps = _refuse_gaps(gathered.parts, source.task)
    return replace(gathered, notes=(*gathered.notes, *gaps))


def read_usable(source: CellSource) -> GatheredRows:
    """Read, check and sort the rows of a data set, as many as there are.

    Raises
    ------
    DataInvalid
        There are no data, or more than one row in twenty has a problem.
    """
    if source.path is None:
        _refuse_unsimulated(source.task)
        return GatheredRows(source.task, {}, None, ())
    rows = read_rows(
        source.path,
        task=source.task,
        licence=source.licence,
        group=source.group,
        seed=source.seed,
    )
    fitting = {id(row) for row, _ in rows_of_task(rows, source.task)}
    rows = [r for r in rows if id(r) in fitting and r.domain not in source.without]
    rows, notes = _leave_out_unfree(rows, source)
    rows, mended = mend_cut_groups(rows)
    examined = examine_rows(rows)
    if len(examined.problems) > _MAX_UNUSABLE * len(rows):
        refuse_problems(examined.problems)
    usable = rows_of_task(examined.usable, source.task)
    parts = {s: [p for p in usable if p[0].split == s] for s in SPLITS}
    notes += [*mended, *(f"left out: {text}" for text in examined.problems)]
    return GatheredRows(source.task, parts, examined, tuple(notes))


def _refuse_unsimulated(task: str) -> None:
    """Refuse a task without data, unless its cells can be simulated.

    Raises
    ------
    DataInvalid
        It is not `change`.
    """
    if task != "change":
        raise DataInvalid(
            f"task {task!r} needs data, only 'change' is simulated; name some with "
            "--data"
        )


def _leave_out_unfree(
    rows: list[Row], source: CellSource
) -> tuple[list[Row], list[str]]:
    """Leave out rows of a manifest whose weights may not be shipped, with a note."""
    if source.is_any_licence or source.path is None or source.path.suffix != ".csv":
        return rows, []
    free = free_rows(rows)
    if len(free) == len(rows):
        return free, []
    note = (
        f"{len(rows) - len(free)} of {len(rows)} rows are left out: their licence does "
        "not let weights be shipped (--any-licence takes them)"
    )
    return free, [note]


def _refuse_gaps(parts: Mapping[str, Labelled], task: str) -> list[str]:
    """Note which classes are missing in which split.

    Raises
    ------
    DataInvalid
        `train` or `val` has no rows, or a class is missing in `train`.
    """
    notes = []
    for split in SPLITS:
        seen = {index for _, index in parts[split]}
        missing = [name for k, name in enumerate(TASKS[task]) if k not in seen]
        if split != "test" and not seen:
            raise DataInvalid(
                f"no {split} row has a free licence and fits task {task!r}, expected "
                "some; check licence, split and label"
            )
        if split == "train" and missing:
            raise DataInvalid(
                f"no train row is labelled {missing}, which task {task!r} names; add "
                "some, or move some from another split"
            )
        if missing and seen:
            notes.append(
                f"no {split} row is labelled {missing}: nothing is known of it"
            )
    return notes


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """The cells of a task, cut for one family.

    `sampling` draws what is fitted to; `val` and `test` are cut as the device cuts
    them; `added` counts the cells that nobody labelled.
    """

    sampling: BatchSampling
    val: Clips
    test: Clips
    added: dict[str, int]


def cut_cells(
    gathered: GatheredRows,
    family: Family,
    say: Callable[[str], None],
    *,
    profiles: Mapping[str, Profile] | None = None,
    is_enriched: bool = True,
) -> Cells:
    """Cut the cells of a task for one family.

    Parameters
    ----------
    gathered
        The rows.
    family
        Whose crops are cut.
    say
        Shows a line.
    profiles
        Of each laboratory.
    is_enriched
        Whether still cells of `cells4` are joined by simulated ones, and by red cells
        that the shipped locator finds where only white ones are labelled.

    Raises
    ------
    DataInvalid
        An image cannot be read, or a box reaches outside it.
    """
    if gathered.moves:
        return _cut_clips(gathered, family)
    size_px, context = family.size_px, family.context
    val, test = (
        clips_of(gathered.task, gathered.parts[s], s, size_px, context, profiles)
        for s in ("val", "test")
    )
    labelled = [row for row, _ in gathered.parts["train"]]
    is_enriched = is_enriched and gathered.task == "cells4"
    found = _find_unlabelled(labelled, say) if is_enriched else []
    added = {"found red cells": len(found), "simulated slides": SLIDES}
    is_boxed = any(row.box is not None for row in labelled)
    side = stock_px(size_px, context)
    rows = rows_of_task([*labelled, *found], gathered.task)
    stock_context = STOCK_CONTEXT if is_boxed else 1.0
    crops = cut_task_crops(rows, side, stock_context, profiles)
    if is_enriched:
        crops = join(crops, simulated_crops(SLIDES, side, STOCK_CONTEXT))
    view = family.view if is_boxed else WHOLE
    sampling = BatchSampling(
        as_clips(crops), size_px, view, family.jitter, family.frames
    )
    return Cells(sampling, val, test, added if is_enriched else {})


def _find_unlabelled(labelled: list[Row], say: Callable[[str], None]) -> list[Row]:
    """Find red cells with the shipped locator where only white ones are labelled."""
    locator = load_bundle(LOCATOR, task="location")
    found = find_red_cells(labelled, locator, open_engine(locator))
    say(f"{len(found)} red cells found by {locator.id} where nobody labelled them")
    return found


def _cut_clips(gathered: GatheredRows, family: Family) -> Cells:
    """Cut cells that are seen more than once, or simulate them."""
    size_px = family.size_px
    train, val, test = (
        clips_of(gathered.task, gathered.parts.get(split, []), split, size_px)
        for split in SPLITS
    )
    stock = train if family.has_memory else as_frames(train)
    added = {} if gathered.parts else {"simulated clips": len(train.rows)}
    # In task `change` the moment of a change matters, so whole clips are shown.
    window = None if gathered.task == "change" else _WINDOW
    sampling = BatchSampling(stock, size_px, WHOLE, Jitter(), window=window)
    return Cells(sampling, val, test, added)


def clips_of(
    task: str,
    rows: Labelled,
    split: str,
    size_px: int,
    context: float = 1.0,
    profiles: Mapping[str, Profile] | None = None,
) -> Clips:
    """Cut rows as the device sees them; a crop is a clip of one frame.

    Parameters
    ----------
    task
        `change` is simulated: no rows are read, and each split gets other clips.
    rows
        Rows with their class index.
    split
        Of the rows.
    size_px, context
        See `training.data.rows.cut_task_crops`.
    profiles
        Of each laboratory.

    Raises
    ------
    DataInvalid
        An image cannot be read.
    """
    if task == "change":
        clips = _SIMULATED[split]
        return simulated_timelapse(clips, _FRAMES, size_px, SPLITS.index(split))
    if any(row.frames > 1 for row, _ in rows):
        return read_clips(rows, size_px, _FRAMES)
    return as_clips(cut_task_crops(rows, size_px, context, profiles))


def profiles_of(gathered: GatheredRows, colour: Colour) -> dict[str, Profile]:
    """Profiles of the laboratories, over all splits: no label is looked at."""
    rows = [row for part in gathered.parts.values() for row, _ in part]
    return colour_profiles(rows, colour)
