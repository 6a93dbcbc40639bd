"""Read the directories of a TIFF, whose sizes and offsets may be damaged or hostile."""

from __future__ import annotations

import os
import struct
from typing import BinaryIO

from edge.recording.frame_encoding import MAX_FRAME_BYTES

ENTRY = struct.Struct("<HHL4s")  # tag, type, count, value or its offset
ASCII, SHORT, LONG, RATIONAL, BYTES = 2, 3, 4, 5, 7  # types of TIFF 6.0, p. 15
TYPE_BYTES = {ASCII: 1, SHORT: 2, LONG: 4, RATIONAL: 8, BYTES: 1}
_MAX_TAGS = 64  # more is damage
MAX_READ = MAX_FRAME_BYTES + (1 << 20)  # incompressible frames become a little larger


def read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    """Return `size` bytes at an offset; raises `ValueError` where they are not."""
    # Compared first: `read` would make room for all that a damaged size says.
    if size > MAX_READ or offset + size > os.fstat(file.fileno()).st_size:
        raise ValueError(f"it ends before byte {offset + size}, or that is too much")
    file.seek(offset)
    data = file.read(size)
    if len(data) < size:
        raise ValueError(f"it ends before byte {offset + size}")
    return data


def read_ifd(file: BinaryIO, at: int) -> tuple[dict[int, tuple[int, int, bytes]], int]:
    """Return type, count, and value or offset of each tag; and where the link is."""
    count = struct.unpack("<H", read_at(file, at, 2))[0]
    if not 0 < count <= _MAX_TAGS:
        raise ValueError(f"{count} tags at byte {at}")
    entries = ENTRY.iter_unpack(read_at(file, at + 2, 12 * count))
    link_at = at + 2 + 12 * count
    return {number: (kind, n, value) for number, kind, n, value in entries}, link_at


def value_of(
    file: BinaryIO, entry: tuple[int, int, bytes], most: int = MAX_READ
) -> bytes:
    """Return the value of a tag, of at most `most` bytes."""
    kind, count, value_or_offset = entry
    size = TYPE_BYTES[kind] * count
    if size > most:
        raise ValueError(f"a value of {size} bytes, expected at most {most}")
    if size <= 4:
        return value_or_offset[:size]
    return read_at(file, struct.unpack("<L", value_or_offset)[0], size)
