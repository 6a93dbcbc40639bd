"""Images of one cell each, in a folder per class, perhaps inside one per split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from training.data.layouts.cells import Cell
from training.data.layouts.files import folders_in, images_in, is_split, splits_of
from training.data.rows import DataInvalid


def read_class_folders(source: Path) -> Iterator[Cell]:
    """Read the cells of every folder."""
    folders = folders_in(source)
    if not any(map(is_split, folders)):
        yield from _read_classes(folders, source, None)
        return
    for folder, split in splits_of(folders).items():
        yield from _read_classes(folders_in(folder), source, split)


def _read_classes(
    folders: Sequence[Path], source: Path, split: str | None
) -> Iterator[Cell]:
    """Read the images in folders that are named after classes."""
    for folder in folders:
        images = images_in(folder)
        if not images:
            raise DataInvalid(
                f"{folder}: folder of a class without an image; put images into it or "
                "remove it"
            )
        for path in images:
            where = path.relative_to(source).as_posix()
            yield Cell(path, folder.name, split, None, where)
