"""A TIFF that grows frame by frame and is whole after each of them.

Frames are written in three steps, each on the disk before the next one begins: the
frame, its directory and a new OME-XML behind all that is there; four bytes that link
the directory; eight bytes that point to the new OME-XML. What is changed in place never
crosses a sector. So whenever power fails, the file reads with all frames but those just
being written.

TIFF 6.0, little-endian, RGB, one strip for each frame, at most 4 GB.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from edge.errors import FrameRejected
from edge.frames import Counts
from edge.recording.frame_encoding import EncodedFrame, FrameFileDamaged, prove
from edge.settings.run import Compression

MOST_BYTES = 2**32 - 2**24  # of one file: offsets have 32 bits
_HEADER = struct.Struct("<2sHL")
_ENTRY = struct.Struct("<HHL4s")
_ASCII, _SHORT, _LONG, _RATIONAL, _BYTES = 2, 3, 4, 5, 7
_SIZES = {_ASCII: 1, _SHORT: 2, _LONG: 4, _RATIONAL: 8, _BYTES: 1}
_CODES: dict[Compression, int] = {"none": 1, "deflate": 8}
_DESCRIPTION, _NOTE, _CRC32 = 270, 65001, 65002
_MOST_TAGS, _MOST_PAGES = 64, 65536
_Tags = Mapping[int, tuple[int, bytes]]  # number: type, value


class File(Protocol):
    """What a growing TIFF is written to."""

    def pwrite(self, data: bytes, offset: int) -> None:
        """Write all of `data`."""

    def sync(self) -> None:
        """Return when all that was written is on the disk."""


class DiskFile:
    """A file on a disk."""

    def __init__(self, path: Path, *, is_new: bool = True) -> None:
        flags = os.O_WRONLY | (os.O_CREAT | os.O_TRUNC if is_new else 0)
        self._fd = os.open(path, flags, 0o640)

    def pwrite(self, data: bytes, offset: int) -> None:
        """See `File`."""
        rest = memoryview(data)
        while rest:
            done = os.pwrite(self._fd, rest, offset)
            rest, offset = rest[done:], offset + done

    def sync(self) -> None:
        """See `File`."""
        os.fdatasync(self._fd)

    def close(self) -> None:
        """Let go of the file. Safe to call twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def pack(pixels: Counts, compression: Compression) -> EncodedFrame:
    """Store a frame without loss.

    Parameters
    ----------
    pixels
        (H, W, 3), uint8 or uint16, RGB.
    compression
        "deflate": differences between neighbours (TIFF predictor 2), Huffman-coded.
        Searching for repetitions, as deflate usually does, takes longer and finds only
        noise.
    """
    counts = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<"))
    height, width, samples = counts.shape
    shape, dtype = (height, width, samples), pixels.dtype.name
    if compression == "none":
        return EncodedFrame(counts.tobytes(), shape, dtype, compression)
    steps = counts.copy()
    np.subtract(counts[:, 1:], counts[:, :-1], out=steps[:, 1:])  # modulo its range
    packer = zlib.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_HUFFMAN_ONLY)
    data = packer.compress(memoryview(steps).cast("B")) + packer.flush()
    return EncodedFrame(data, shape, dtype, compression)


class GrowingTiff:
    """The writer of one file, empty at first. Nothing may follow a failed `append`."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._described_at = self._next_at = 0
        self.size, self.pages = _HEADER.size, 0

    def append(
        self,
        shown: Sequence[tuple[EncodedFrame, bytes]],
        description: bytes,
        pixel_size_um: float | None = None,
    ) -> None:
        """Add frames, all or none; they are on the disk when this returns.

        Parameters
        ----------
        shown
            Frames, each with bytes that belong to it; several cost no more waiting for
            the disk than one.
        description
            OME-XML of all frames up to the last of these, UTF-8.
        pixel_size_um
            For readers that know no OME-XML.

        Raises
        ------
        OSError
            They could not be written; the file reads as before.
        """
        text, end, link_at, first_at = description + b"\0", self.size, 0, 0
        described_at = self._described_at
        for packed, note in shown:
            start = end + end % 2
            tags = _tags(packed, start, note, pixel_size_um)
            if not described_at:
                tags[_DESCRIPTION] = (_ASCII, text)
            at = _aligned(start + len(packed.data), tags)
            directory = _directory(tags, at)
            self._file.pwrite(packed.data, start)
            self._file.pwrite(directory, at)
            if link_at:
                self._file.pwrite(struct.pack("<L", at), link_at)
            described_at = described_at or at + _pointer(tags)
            first_at, link_at = first_at or at, at + 2 + 12 * len(tags)
            end = at + len(directory)
        if self.pages == 0:
            self._file.pwrite(_HEADER.pack(b"II", 42, first_at), 0)
            self._file.sync()
        else:
            self._file.pwrite(text, end)
            self._file.sync()
            self._file.pwrite(struct.pack("<L", first_at), self._next_at)
            self._file.sync()
            _describe(self._file, described_at, len(text), end)
            end += len(text)
        self._described_at, self._next_at, self.size = described_at, link_at, end
        self.pages += len(shown)


@dataclass(frozen=True, slots=True)
class TiffFrame:
    """One frame of a file, and where it is stored; see `Page`."""

    path: Path
    shape: tuple[int, int, int]
    dtype: str
    compression: Compression
    offset: int
    size: int
    crc32: int
    note: bytes
    next_at: int  # where the link to the next frame stands

    def read(self) -> Counts:
        """See `Page`."""
        try:
            with self.path.open("rb") as file:
                data = _read(file, self.offset, self.size)
        except (OSError, ValueError) as error:
            raise FrameRejected(f"{self.path}: {error}; was it deleted?") from error
        prove(data, self.crc32, f"{self.path}: the frame at byte {self.offset}")
        kind = np.dtype(self.dtype).newbyteorder("<")
        if self.compression == "none":
            counts = np.frombuffer(data, kind).reshape(self.shape)
            return np.asarray(counts.astype(self.dtype))
        steps = np.frombuffer(zlib.decompress(data), kind).reshape(self.shape)
        return np.asarray(np.cumsum(steps, axis=1, dtype=self.dtype))


def read_pages(path: Path) -> list[TiffFrame]:
    """Return the frames of a growing TIFF that are wholly there, in order.

    Raises
    ------
    RollDamaged
        It is none, or holds no whole frame.
    """
    pages: list[TiffFrame] = []
    try:
        with path.open("rb") as file:
            magic, version, at = _HEADER.unpack(_read(file, 0, _HEADER.size))
            if (magic, version) != (b"II", 42):
                raise ValueError(f"begins with {magic!r}")
            while at != 0 and len(pages) < _MOST_PAGES:
                page, at = _read_page(file, path, at)
                pages.append(page)
    except OSError as error:
        raise FrameFileDamaged(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, struct.error) as error:
        if not pages:
            raise FrameFileDamaged(
                f"{path}: no whole frame: {error}; expected a recording of hemascope"
            ) from error
    return pages


def description_of(path: Path) -> bytes | None:
    """Return what a file says of its frames; None where that cannot be read."""
    try:
        with path.open("rb") as file:
            at = _HEADER.unpack(_read(file, 0, _HEADER.size))[2]
            entries, _ = _read_directory(file, at)
            text = _value(file, entries[_DESCRIPTION])
    except (ValueError, KeyError, struct.error):
        return None
    return text[:-1] if text.endswith(b"</OME>\0") else None


def mend(pages: list[TiffFrame], description: bytes) -> None:
    """Let a damaged file end after `pages`, which it begins with, and describe them.

    In the order of `GrowingTiff`, so that it may be interrupted as well.
    """
    path = pages[0].path
    with path.open("rb") as reader:
        at = _HEADER.unpack(_read(reader, 0, _HEADER.size))[2]
        numbers = list(_read_directory(reader, at)[0])
    where = at + 2 + 12 * numbers.index(_DESCRIPTION) + 4
    end = path.stat().st_size
    file = DiskFile(path, is_new=False)
    try:
        file.pwrite(description + b"\0", end + end % 2)
        file.sync()
        file.pwrite(bytes(4), pages[-1].next_at)
        file.sync()
        _describe(file, where, len(description) + 1, end + end % 2)
    finally:
        file.close()


def _tags(
    packed: EncodedFrame, start: int, note: bytes, pixel_size_um: float | None
) -> dict[int, tuple[int, bytes]]:
    """Return what stands in the directory of a frame, stored at `start`."""
    height, width, samples = packed.shape
    bits = 8 * np.dtype(packed.dtype).itemsize
    per_cm = 1 if pixel_size_um is None else round(1e7 / pixel_size_um)
    resolution = struct.pack("<LL", per_cm, 1 if pixel_size_um is None else 1000)
    tags = {
        256: (_LONG, struct.pack("<L", width)),
        257: (_LONG, struct.pack("<L", height)),
        258: (_SHORT, struct.pack("<3H", *[bits] * samples)),
        259: (_SHORT, struct.pack("<H", _CODES[packed.compression])),
        262: (_SHORT, struct.pack("<H", 2)),  # RGB
        273: (_LONG, struct.pack("<L", start)),
        277: (_SHORT, struct.pack("<H", samples)),
        278: (_LONG, struct.pack("<L", height)),
        279: (_LONG, struct.pack("<L", len(packed.data))),
        282: (_RATIONAL, resolution),
        283: (_RATIONAL, resolution),
        284: (_SHORT, struct.pack("<H", 1)),  # interleaved
        296: (_SHORT, struct.pack("<H", 1 if pixel_size_um is None else 3)),  # per cm
        _NOTE: (_BYTES, note),
        _CRC32: (_LONG, struct.pack("<L", zlib.crc32(packed.data))),
    }
    if packed.compression == "deflate":
        tags[317] = (_SHORT, struct.pack("<H", 2))  # differences to the left
    return tags


def _pointer(tags: _Tags) -> int:
    """Where in its directory length and place of the description stand."""
    return 2 + 12 * sorted(tags).index(_DESCRIPTION) + 4


def _aligned(at: int, tags: _Tags) -> int:
    """Return where a directory may begin, so that no sector cuts what will change."""
    at += (2 - at) % 4  # then the link to the next one is a multiple of 4
    if _DESCRIPTION in tags:
        at += (-(at + _pointer(tags))) % 8
    return at


def _directory(tags: _Tags, at: int) -> bytes:
    """Return an image file directory that stands at `at`, and what it points to."""
    entries, beyond = [], b""
    beyond_at = at + 2 + 12 * len(tags) + 4
    for number, (kind, value) in sorted(tags.items()):
        place = value
        if len(value) > 4:
            beyond += bytes(len(beyond) % 2)
            place = struct.pack("<L", beyond_at + len(beyond))
            beyond += value
        count = len(value) // _SIZES[kind]
        entries.append(_ENTRY.pack(number, kind, count, place.ljust(4, b"\0")))
    head = struct.pack("<H", len(tags))
    body = head + b"".join(entries) + bytes(4) + beyond
    return body + bytes(len(body) % 2)


def _describe(file: File, where: int, count: int, offset: int) -> None:
    file.pwrite(struct.pack("<LL", count, offset), where)
    file.sync()


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    data = file.read(size)
    if len(data) < size:
        raise ValueError(f"it ends before byte {offset + size}")
    return data


def _read_directory(
    file: BinaryIO, at: int
) -> tuple[dict[int, tuple[int, int, bytes]], int]:
    """Return number: type, count and place of each tag; and where the link stands."""
    count = struct.unpack("<H", _read(file, at, 2))[0]
    if not 0 < count <= _MOST_TAGS:
        raise ValueError(f"{count} tags at byte {at}")
    entries = _ENTRY.iter_unpack(_read(file, at + 2, 12 * count))
    return {number: (kind, n, place) for number, kind, n, place in entries}, (
        at + 2 + 12 * count
    )


def _value(file: BinaryIO, entry: tuple[int, int, bytes]) -> bytes:
    kind, count, place = entry
    size = _SIZES[kind] * count
    if size <= 4:
        return place[:size]
    return _read(file, struct.unpack("<L", place)[0], size)


def _read_page(file: BinaryIO, path: Path, at: int) -> tuple[TiffFrame, int]:
    """Return the frame whose directory is at `at`, and the place of the next one."""
    entries, next_at = _read_directory(file, at)

    def number(tag: int) -> int:
        return int.from_bytes(_value(file, entries[tag]), "little")

    bits = struct.unpack("<3H", _value(file, entries[258]))
    kinds: dict[int, Compression] = {code: name for name, code in _CODES.items()}
    page = TiffFrame(
        path=path,
        shape=(number(257), number(256), number(277)),
        dtype={8: "uint8", 16: "uint16"}[bits[0]],
        compression=kinds[number(259)],
        offset=number(273),
        size=number(279),
        crc32=number(_CRC32),
        note=_value(file, entries[_NOTE]),
        next_at=next_at,
    )
    _read(file, page.offset + page.size - 1, 1)
    return page, struct.unpack("<L", _read(file, next_at, 4))[0]
