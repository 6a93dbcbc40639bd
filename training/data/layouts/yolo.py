"""Boxes of YOLO: images and labels, the splits inside them or around them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from edge.errors import FrameRejected
from edge.sources.image_files import read_image
from training.data.boxes import Box
from training.data.layouts.cells import Cell, read_box
from training.data.layouts.files import folders_in, images_in, read_text, splits_of
from training.data.rows import DataInvalid


def read_yolo(source: Path) -> Iterator[Cell]:
    """Read the boxes of every image; image and label file must come in pairs.

    Raises
    ------
    DataInvalid
        A file cannot be read, or one of a pair is missing.
    """
    names = _class_names(source)
    for images, labels, split in _folders(source):
        known = {"classes"}
        for path in images_in(images):
            known.add(path.stem)
            file = labels / f"{path.stem}.txt"
            if not file.exists():
                raise DataInvalid(
                    f"{path}: has no label file {file}; write an empty one if no cell "
                    "is in it"
                )
            for number, name, box in _boxes(path, file, names):
                where = f"{file.relative_to(source).as_posix()}:{number}"
                yield Cell(path, name, split, box, where)
        for file in sorted(labels.glob("*.txt")):
            if file.stem not in known:
                raise DataInvalid(f"{file}: has no image {images / file.stem}.*")


def _folders(source: Path) -> list[tuple[Path, Path, str | None]]:
    """List the folders of images and of their labels, with their split."""
    images, labels = source / "images", source / "labels"
    if images.is_dir() or labels.is_dir():  # images/train and labels/train, or none
        names = sorted({f.name for f in (*folders_in(images), *folders_in(labels))})
        pairs = {source / name: (images / name, labels / name) for name in names}
        if not pairs:
            return [(images, labels, None)]
    else:  # train/images and train/labels
        pairs = {f: (f / "images", f / "labels") for f in folders_in(source)}
    return [(*pairs[folder], split) for folder, split in splits_of(pairs).items()]


def _boxes(
    image: Path, file: Path, names: Mapping[int, str]
) -> Iterator[tuple[int, str, Box]]:
    """Yield the number, the name of the class and the box in pixels of each line.

    Raises
    ------
    DataInvalid
        A line is not a class and four numbers; names the line.
    """
    lines = enumerate(map(str.split, read_text(file).splitlines()), 1)
    filled = [(number, words) for number, words in lines if words]
    if not filled:
        return
    try:
        height, width = read_image(image).shape[:2]
    except FrameRejected as error:
        raise DataInvalid(f"{file}: its image: {error}") from error
    for number, words in filled:
        where = f"{file}:{number}"
        if len(words) != 5:
            raise DataInvalid(
                f"{where}: has {len(words)} numbers, expected 5: class, and centre x, "
                "y, width and height as shares of the image"
            )
        if not words[0].isdecimal() or int(words[0]) not in names:
            raise DataInvalid(
                f"{where}: class is {words[0]!r}, expected one of {sorted(names)}"
            )
        x, y, w, h = read_box(words[1:], where)
        left, top = (x - w / 2) * width, (y - h / 2) * height
        box = left, top, left + w * width, top + h * height
        yield number, names[int(words[0])], box


def _class_names(source: Path) -> dict[int, str]:
    """Read the names of the classes from data.yaml or classes.txt.

    Raises
    ------
    DataInvalid
        There is neither, or it has no names.
    """
    for file in (source / "data.yaml", source / "data.yml"):
        if file.exists():
            names = _yaml_names(read_text(file))
            if not names:
                raise DataInvalid(f"{file}: has no `names:` with a list of the classes")
            return names
    for file in (source / "classes.txt", source / "labels" / "classes.txt"):
        if file.exists():
            lines = read_text(file).splitlines()
            return dict(enumerate(line.strip() for line in lines))
    raise DataInvalid(f"{source}: has no data.yaml or classes.txt to name the classes")


def _yaml_names(text: str) -> dict[int, str]:
    """Read `names:` as tools write it: a list or a mapping, inline or below.

    A library for YAML would be needed for this one key alone.
    """
    text = re.sub(r"(^|\s)#.*", "", text)
    inline = re.search(r"^names:\s*[\[{](.*?)[\]}]", text, re.MULTILINE | re.DOTALL)
    below = re.search(r"^names:\s*\n((?:\s*(?:-|\d+\s*:).*\n?)+)", text, re.MULTILINE)
    listed = inline[1].replace(",", "\n") if inline else below[1] if below else ""
    items = re.findall(
        r"^[ \t]*(?:(\d+)\s*:|-)?[ \t]*(\S.*?)[ \t]*$", listed, re.MULTILINE
    )
    return {
        int(number) if number else index: name.strip("'\"")
        for index, (number, name) in enumerate(items)
    }
