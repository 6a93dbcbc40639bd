"""Read image files, and refuse incomplete ones instead of showing half of them.

Each decoder is held to a second one by a table of formats, in the tests.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from edge.bounded_files import open_regular
from edge.errors import FrameRejected
from edge.frames import Counts
from edge.sources.decoding.decoded_image import (
    MAX_MEGAPIXELS,
    DecodedImage,
    refuse_large,
    refuse_long,
    upright,
)
from edge.sources.decoding.headers import is_tiff, read_header
from edge.sources.decoding.jpeg import decode_jpeg
from edge.sources.decoding.opencv_formats import decode_by_opencv
from edge.sources.decoding.tiff import decode_tiff

SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".png", ".tif", ".tiff", ".svs", ".bmp", ".webp", ".jp2", ".j2k"]
)


def read_image(path: Path) -> Counts:
    """Read one image as (H, W, 3) uint8 or uint16 RGB; see `read_picture`.

    Raises
    ------
    FrameRejected
        The file cannot be read, is no image, or is damaged.
    """
    return read_picture(path).pixels


def decode_image(data: bytes, name: str) -> Counts:
    """Decode one encoded image as (H, W, 3) uint8 or uint16 RGB.

    Raises
    ------
    FrameRejected
        It is no image, is damaged, or holds numbers that are not counts.
    """
    return decode_picture(data, name).pixels


def read_picture(path: Path, max_megapixels: float = MAX_MEGAPIXELS) -> DecodedImage:
    """Read one image with what there is to say of it.

    Of what is no image, or is too large, only the header is read.

    Raises
    ------
    FrameRejected
        The file cannot be read, is no image, is damaged or has more megapixels.
    """
    name = printable(path)
    try:
        with open_regular(path) as stream:
            return _decode(stream, name, max_megapixels)
    except OSError as error:
        raise FrameRejected(f"{name}: {error.strerror}") from error


def decode_picture(
    data: bytes, name: str, max_megapixels: float = MAX_MEGAPIXELS
) -> DecodedImage:
    """Decode one encoded image with what there is to say of it; see `read_picture`.

    Raises
    ------
    FrameRejected
        It is no image, is damaged or has more megapixels.
    """
    return _decode(BytesIO(data), name, max_megapixels)


def count_passed_over(files: Iterable[Path]) -> Counter[str]:
    """Count the files that are no images to us, by their suffix or what they are."""
    return Counter(_kind_of(path) for path in files if not is_image_name(path))


def is_image_name(path: Path) -> bool:
    """Whether a file of a folder is read: by its suffix, and it is not hidden."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def printable(path: Path) -> str:
    """Return a path as text that can be written as UTF-8, whatever bytes it holds."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _decode(stream: BinaryIO, name: str, max_megapixels: float) -> DecodedImage:
    """Decode by the format that the first bytes name, whatever the suffix says."""
    start = stream.read(4)
    stream.seek(0)
    if is_tiff(start):
        return _turned(decode_tiff(stream, name, max_megapixels))
    header = read_header(stream, name)
    refuse_large(name, header.width_px, header.height_px, max_megapixels)
    size_bytes = stream.seek(0, os.SEEK_END)
    refuse_long(name, size_bytes, header.width_px, header.height_px)
    stream.seek(0)
    data = stream.read()
    if header.format == "JPEG":
        decoded = decode_jpeg(data, name)
    else:
        decoded = DecodedImage(decode_by_opencv(data, header, name))
    notes = decoded.notes
    if header.pictures > 1:
        notes += (
            f"picture 1 of {header.pictures} was read; save the others as files of "
            "their own",
        )
    return _turned(replace(decoded, notes=notes, orientation=header.orientation))


def _turned(decoded: DecodedImage) -> DecodedImage:
    return replace(decoded, pixels=upright(decoded.pixels, decoded.orientation))


def _kind_of(path: Path) -> str:
    if path.name.startswith("."):
        return "hidden"
    return printable(Path(path.suffix.lower())) if path.suffix else "without suffix"
