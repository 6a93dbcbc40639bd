"""Boxes of Pascal VOC: Annotations/*.xml, JPEGImages, perhaps ImageSets."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

from training.choices import SPLITS
from training.data.layouts.cells import Cell, read_box
from training.data.layouts.files import images_in, read_text
from training.data.rows import DataInvalid


def read_voc(source: Path) -> Iterator[Cell]:
    """Read the boxes of every annotation; every image must have one.

    Raises
    ------
    DataInvalid
        A file cannot be read, or an image has no annotation.
    """
    files = sorted((source / "Annotations").glob("*.xml"))
    split_of = _splits(source, {file.stem for file in files})
    annotated = set()
    for file in files:
        tree = _parse_xml(file)
        name = (tree.findtext("filename") or "").strip()
        if not name or Path(name).name != name:
            raise DataInvalid(f"{file}: filename is {name!r}, expected a plain name")
        path = source / "JPEGImages" / name
        annotated.add(path)
        for number, cell in enumerate(tree.findall("object"), 1):
            where = f"{file.relative_to(source).as_posix()}, object {number}"
            sides = [
                cell.findtext(f"bndbox/{side}", "")
                for side in ("xmin", "ymin", "xmax", "ymax")
            ]
            label = cell.findtext("name", "").strip()
            box = read_box(sides, where)
            yield Cell(path, label, split_of.get(file.stem), box, where)
    for path in images_in(source / "JPEGImages"):
        if path not in annotated:
            raise DataInvalid(
                f"{path}: no file of Annotations names it; annotate it or move it away"
            )


def _splits(source: Path, stems: set[str]) -> dict[str, str]:
    """Return the split of each image, by its stem; empty if there are no lists.

    Raises
    ------
    DataInvalid
        An image is in two lists, or in none, or has no annotation.
    """
    splits: dict[str, str] = {}
    for split in SPLITS:
        file = source / "ImageSets" / "Main" / f"{split}.txt"
        for stem in read_text(file).split() if file.exists() else ():
            if splits.setdefault(stem, split) != split:
                raise DataInvalid(
                    f"{file}: {stem} is in the list of {splits[stem]} too; leave it in "
                    "one"
                )
            if stem not in stems:
                raise DataInvalid(f"{file}: {stem} has no file Annotations/{stem}.xml")
    for stem in sorted(stems - splits.keys()) if splits else ():
        raise DataInvalid(
            f"{source / 'Annotations' / stem}.xml: is in no list of ImageSets/Main "
            "(train, val, test); add it to one or remove the lists"
        )
    return splits


class _NoDocumentType(ET.TreeBuilder):
    """Refuses entities, which can read other files and fill the memory."""

    def doctype(self, name: str, *_: str | None) -> None:
        raise DataInvalid(f"declares a document type {name!r}; remove its DOCTYPE")


def _parse_xml(file: Path) -> ET.Element:
    """Read an XML file without entities.

    Raises
    ------
    DataInvalid
        It is not XML, or declares a document type.
    """
    parser = ET.XMLParser(target=_NoDocumentType())  # noqa: S314
    try:
        return ET.fromstring(file.read_bytes(), parser)  # noqa: S314
    except (ET.ParseError, LookupError, ValueError) as error:  # also unknown encodings
        raise DataInvalid(f"{file}: not XML that can be read: {error}") from error
    except DataInvalid as error:
        raise DataInvalid(f"{file}: {error}") from error
