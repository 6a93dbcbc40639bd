"""Read texts, images and folders of a data set; unexpected files are refused."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from edge.sources.image_files import SUFFIXES
from training.data.rows import DataInvalid

_IGNORED = {"thumbs.db", "desktop.ini"}  # files that file managers leave behind
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
    """Read a text file in UTF-8.

    Raises
    ------
    DataInvalid
        It cannot be read.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataInvalid(f"{file}: {error}; expected a text file, UTF-8") from error


def folders_in(folder: Path) -> list[Path]:
    """List the folders in a folder that must not hold images itself.

    Raises
    ------
    DataInvalid
        An image lies beside them; it would be overlooked.
    """
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
    """List the images in a folder that must not hold anything else.

    Raises
    ------
    DataInvalid
        Another file or a folder lies among them.
    """
    entries = _entries(folder)
    for path in entries:
        if path.is_dir() or path.suffix.lower() not in SUFFIXES:
            raise DataInvalid(
                f"{path}: lies among images and is none; expected {sorted(SUFFIXES)}, "
                "convert it or move it away"
            )
    return entries


def _entries(folder: Path) -> list[Path]:
    """List a folder, in order, without hidden and ignored files."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if not path.name.startswith(".") and path.name.casefold() not in _IGNORED
    )


def is_split(folder: Path) -> bool:
    """Whether a folder has the name of a split."""
    return folder.name.casefold() in _SPLITS


def splits_of(folders: Iterable[Path]) -> dict[Path, str]:
    """Return the split of each folder by its name.

    Raises
    ------
    DataInvalid
        A folder has the name of no split.
    """
    splits = {}
    for folder in folders:
        if not is_split(folder):
            raise DataInvalid(
                f"{folder}: expected a folder of a split, {', '.join(_SPLITS)}; "
                "rename it or move it away"
            )
        splits[folder] = _SPLITS[folder.name.casefold()]
    return splits
