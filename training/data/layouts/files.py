"""Texts, images and folders of a data set; what would be overlooked is refused."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from edge.sources.image_files import SUFFIXES
from training.data.rows import DataInvalid

_LITTER = {"thumbs.db", "desktop.ini"}  # that file managers leave behind
_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


def read_text(file: Path) -> str:
    """Read a text file, UTF-8."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataInvalid(f"{file}: {error}; expected a text file, UTF-8") from error


def folders_in(folder: Path) -> list[Path]:
    """Folders of a folder in which images would be overlooked."""
    entries = _entries(folder)
    folders = [path for path in entries if path.is_dir()]
    for path in entries if folders else ():
        if path not in folders and path.suffix.lower() in SUFFIXES:
            raise DataInvalid(
                f"{path}: image beside folders of images; move it into one of them or "
                "away"
            )
    return folders


def images_in(folder: Path) -> list[Path]:
    """Images of a folder in which nothing else is expected."""
    entries = _entries(folder)
    for path in entries:
        if path.is_dir() or path.suffix.lower() not in SUFFIXES:
            raise DataInvalid(
                f"{path}: lies among images and is none; expected {sorted(SUFFIXES)}, "
                "convert it or move it away"
            )
    return entries


def _entries(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if not path.name.startswith(".") and path.name.casefold() not in _LITTER
    )


def is_split(folder: Path) -> bool:
    """Whether a folder has the name of a split."""
    return folder.name.casefold() in _SPLITS


def splits_of(folders: Iterable[Path]) -> dict[Path, str]:
    """Tell the split of each folder by its name."""
    splits = {}
    for folder in folders:
        if not is_split(folder):
            raise DataInvalid(
                f"{folder}: expected a folder of a split, {', '.join(_SPLITS)}; "
                "rename it or move it away"
            )
        splits[folder] = _SPLITS[folder.name.casefold()]
    return splits
