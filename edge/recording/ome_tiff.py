"""A TIFF that grows frame by frame and is whole after each of them.

A TIFF is a chain: the header points to the first image file directory (IFD), each IFD
describes one frame and ends with a link to the next IFD, and a link of zero ends the
chain (TIFF 6.0, section 2). So a frame can be added without moving anything: write it
behind the end, then change the last link. A frame file adds one thing to this: the
OME-XML of all frames, to which the first IFD points.

Frames are added in three steps, each on the disk before the next one begins:

1. Behind the end: the frames, their IFDs (linked with each other), a new OME-XML.
   Nothing points there, so every reader still sees the file as it was.
2. Four bytes: the last link now leads to the new IFDs. Readers that follow the chain
   see the new frames; readers of OME-XML still see the old ones, in full.
3. Eight bytes: length and offset of the OME-XML, in the first IFD. Everybody sees all.

Invariant: whenever power fails, all links and offsets lead to bytes that are on the
disk. It holds because of the order, and because the bytes that are changed in place lie
within one sector, which a disk writes as a whole or not at all.

The old OME-XML stays in the file as dead bytes, 10 to 50 kB per step. Rewriting it in
place would be smaller, but a power cut would tear it.

Written is TIFF 6.0, little-endian, RGB, one strip for each frame, at most 4 GB. BigTIFF
has no such limit, but fewer programs read it, and 64 frames seldom need it.
https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf
"""

from __future__ import annotations

import math
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
from edge.recording.frame_encoding import (
    EncodedFrame,
    FrameFileDamaged,
    check_crc,
    check_size,
    refuse_impossible,
    unpack,
)
from edge.recording.tiff_directory import (
    ASCII,
    BYTES,
    ENTRY,
    LONG,
    RATIONAL,
    SHORT,
    TYPE_BYTES,
    read_at,
    read_ifd,
    value_of,
)
from edge.settings.run import Compression

MAX_FILE_BYTES = 2**32 - 2**24  # offsets have 32 bits; 16 MiB stay for an OME-XML
_HEADER = struct.Struct("<2sHL")  # "II", 42, offset of the first IFD
# 8 is Adobe's Deflate (TIFF Technical Note 3, 2002), which all current readers know.
_COMPRESSION_CODES: dict[Compression, int] = {"none": 1, "deflate": 8}
# Tags from 32768 on are private (TIFF 6.0, p. 8): other readers skip ours.
_DESCRIPTION, _METADATA, _CRC32 = 270, 65001, 65002
_MAX_FRAMES = 4096  # more is damage; we write 64
_MAX_METADATA = 1 << 16  # bytes of one frame's, which we write with a few hundred
_Tags = Mapping[int, tuple[int, bytes]]  # number: type, value


class WritableFile(Protocol):
    """What a growing TIFF is written to; tests put a disk that loses power here."""

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
        """See `WritableFile`."""
        rest = memoryview(data)
        while rest:
            done = os.pwrite(self._fd, rest, offset)
            rest, offset = rest[done:], offset + done

    def sync(self) -> None:
        """See `WritableFile`."""
        os.fdatasync(self._fd)

    def close(self) -> None:
        """Release the file. Safe to call twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def encode_frame(pixels: Counts, compression: Compression) -> EncodedFrame:
    """Encode a frame without loss.

    Parameters
    ----------
    pixels
        (H, W, 3), uint8 or uint16, RGB.
    compression
        "deflate": differences between horizontal neighbours, then Huffman codes.

    Notes
    -----
    The differences are d[x] = p[x] - p[x - 1], for each colour, modulo 256 or 65536:
    TIFF 6.0, section 14, predictor 2. Neighbours are alike, so differences are small
    and their Huffman codes short. Deflate usually also searches for repetitions. In
    frames of a camera it takes half as long again and finds only noise
    (docs/recording.md has the figures).
    """
    counts = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<"))
    height, width, samples = counts.shape
    shape, dtype = (height, width, samples), pixels.dtype.name
    if compression == "none":
        return EncodedFrame(counts.tobytes(), shape, dtype, compression)
    differences = counts.copy()  # (H, W, 3), little-endian; its first column stays
    np.subtract(counts[:, 1:], counts[:, :-1], out=differences[:, 1:])
    compressor = zlib.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_HUFFMAN_ONLY)
    data = compressor.compress(memoryview(differences).cast("B")) + compressor.flush()
    return EncodedFrame(data, shape, dtype, compression)


@dataclass(frozen=True, slots=True)
class _UnlinkedFrames:
    """Frames that lie behind the end of a file, and that nothing points to yet."""

    first_ifd: int
    last_link: int  # offset of the link that ends their chain
    description_pointer: int  # offset, in the file's first IFD, of the OME-XML's place
    end: int


class GrowingTiff:
    """The writer of one file, empty at first. Nothing may follow a failed `append`."""

    def __init__(self, file: WritableFile) -> None:
        self._file = file
        self._description_pointer = self._last_link = 0
        self.size, self.frame_count = _HEADER.size, 0

    def append(
        self,
        frames: Sequence[tuple[EncodedFrame, bytes]],
        description: bytes,
        pixel_size_um: float | None = None,
    ) -> None:
        """Add frames, all or none; they are on the disk when this returns.

        Parameters
        ----------
        frames
            Each frame with its metadata. Several frames wait for the disk no longer
            than one.
        description
            OME-XML of all frames up to the last of these, UTF-8.
        pixel_size_um
            For readers that know no OME-XML.

        Raises
        ------
        OSError
            They could not be written; the file reads as before.
        """
        text = description + b"\0"
        added = self._write_behind_end(frames, text, pixel_size_um)
        end = added.end
        if self.frame_count == 0:
            # The file has no name yet (see `TiffFrameFile`): nobody can see it torn,
            # so one step is enough.
            self._file.pwrite(_HEADER.pack(b"II", 42, added.first_ifd), 0)
            self._file.sync()
        else:
            self._file.pwrite(text, end)
            self._file.sync()
            self._file.pwrite(struct.pack("<L", added.first_ifd), self._last_link)
            self._file.sync()
            _point_to_description(
                self._file, added.description_pointer, len(text), offset=end
            )
            end += len(text)
        self._description_pointer = added.description_pointer
        self._last_link, self.size = added.last_link, end
        self.frame_count += len(frames)

    def _write_behind_end(
        self,
        frames: Sequence[tuple[EncodedFrame, bytes]],
        text: bytes,
        pixel_size_um: float | None,
    ) -> _UnlinkedFrames:
        """Write frames and their IFDs; `text` goes into the first IFD of a new file."""
        end, first_ifd, last_link = self.size, 0, 0
        description_pointer = self._description_pointer
        for encoded, metadata in frames:
            start = end + end % 2
            tags = _tags(encoded, start, metadata, pixel_size_um)
            if not description_pointer:
                tags[_DESCRIPTION] = (ASCII, text)
            at = _aligned_ifd(start + len(encoded.data), tags)
            ifd = _ifd(tags, at)
            self._file.pwrite(encoded.data, start)
            self._file.pwrite(ifd, at)
            if last_link:
                self._file.pwrite(struct.pack("<L", at), last_link)
            description_pointer = description_pointer or at + _pointer_in_ifd(tags)
            first_ifd, last_link = first_ifd or at, at + 2 + 12 * len(tags)
            end = at + len(ifd)
        return _UnlinkedFrames(first_ifd, last_link, description_pointer, end)


@dataclass(frozen=True, slots=True)
class TiffFrame:
    """One frame of a file, and where it lies; see `StoredFrame`."""

    path: Path
    shape: tuple[int, int, int]
    dtype: str
    compression: Compression
    offset: int
    size: int
    crc32: int
    metadata: bytes
    link_at: int  # offset of the link to the next frame's IFD

    def read(self) -> Counts:
        """See `StoredFrame`."""
        try:
            with self.path.open("rb") as file:
                data = read_at(file, self.offset, self.size)
        except (OSError, ValueError) as error:
            raise FrameRejected(f"{self.path}: {error}; was it deleted?") from error
        where = f"{self.path}: the frame at byte {self.offset}"
        check_crc(data, self.crc32, where)
        stored_type = np.dtype(self.dtype).newbyteorder("<")
        size = math.prod(self.shape) * stored_type.itemsize
        if self.compression == "none":
            check_size(data, size, where)
            counts = np.frombuffer(data, stored_type).reshape(self.shape)
            return np.asarray(counts.astype(self.dtype))
        differences = np.frombuffer(unpack(data, size, 15, where), stored_type)
        # The sum in the frame's own type wraps as the difference did.
        counts = np.cumsum(differences.reshape(self.shape), axis=1, dtype=self.dtype)
        return np.asarray(counts)


def read_frames(path: Path) -> list[TiffFrame]:
    """Return the whole frames of a growing TIFF, in order.

    It follows the links and does not look at the OME-XML. So, after a power cut between
    steps 2 and 3, it sees frames that other readers do not see yet.

    Raises
    ------
    FrameFileDamaged
        It is not a growing TIFF, or holds no whole frame.
    """
    frames: list[TiffFrame] = []
    try:
        with path.open("rb") as file:
            magic, version, at = _HEADER.unpack(read_at(file, 0, _HEADER.size))
            if (magic, version) != (b"II", 42):
                raise ValueError(f"begins with {magic!r}")
            while at != 0 and len(frames) < _MAX_FRAMES:
                frame, behind = _read_frame(file, path, at)
                frames.append(frame)
                if behind and behind <= at:
                    raise ValueError(f"the chain leads back to byte {behind}")
                at = behind
    except OSError as error:
        raise FrameFileDamaged(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, struct.error) as error:
        # A file that is cut short ends the chain with an error. The frames before it
        # are whole: each was read up to its last byte.
        if not frames:
            raise FrameFileDamaged(
                f"{path}: no whole frame: {error}; expected a recording of hemascope"
            ) from error
    return frames


def description_of(path: Path) -> bytes | None:
    """Return the OME-XML of a file; None where it is not whole."""
    try:
        with path.open("rb") as file:
            at = _HEADER.unpack(read_at(file, 0, _HEADER.size))[2]
            entries, _ = read_ifd(file, at)
            text = value_of(file, entries[_DESCRIPTION])
    except (ValueError, KeyError, struct.error):
        return None
    return text[:-1] if text.endswith(b"</OME>\0") else None


def repair(frames: list[TiffFrame], description: bytes) -> None:
    """Make a damaged file end after `frames`, with which it begins, and describe them.

    The steps are in an order that may be interrupted too: a new OME-XML behind the end,
    a link of zero after the last whole frame, then the pointer to the OME-XML.
    """
    path = frames[0].path
    with path.open("rb") as reader:
        at = _HEADER.unpack(read_at(reader, 0, _HEADER.size))[2]
        numbers = list(read_ifd(reader, at)[0])
    pointer = at + 2 + 12 * numbers.index(_DESCRIPTION) + 4
    end = path.stat().st_size
    offset = end + end % 2
    file = DiskFile(path, is_new=False)
    try:
        file.pwrite(description + b"\0", offset)
        file.sync()
        file.pwrite(bytes(4), frames[-1].link_at)
        file.sync()
        _point_to_description(file, pointer, len(description) + 1, offset)
    finally:
        file.close()


def _tags(
    encoded: EncodedFrame, start: int, metadata: bytes, pixel_size_um: float | None
) -> dict[int, tuple[int, bytes]]:
    """Return the tags of a frame that is stored at `start`.

    Those that TIFF 6.0 demands of an RGB image (section 6), with the predictor, our
    metadata and a CRC: TIFF has no checksum of its own.
    """
    height, width, samples = encoded.shape
    bits = 8 * np.dtype(encoded.dtype).itemsize
    # Pixels per cm as a fraction; 1 and "no unit" where the size is not known.
    per_cm = 1 if pixel_size_um is None else round(1e7 / pixel_size_um)
    resolution = struct.pack("<LL", per_cm, 1 if pixel_size_um is None else 1000)
    unit = 1 if pixel_size_um is None else 3
    tags = {
        256: (LONG, struct.pack("<L", width)),
        257: (LONG, struct.pack("<L", height)),
        258: (SHORT, struct.pack("<3H", *[bits] * samples)),
        259: (SHORT, struct.pack("<H", _COMPRESSION_CODES[encoded.compression])),
        262: (SHORT, struct.pack("<H", 2)),  # photometric interpretation: RGB
        273: (LONG, struct.pack("<L", start)),  # offset of the only strip
        277: (SHORT, struct.pack("<H", samples)),
        278: (LONG, struct.pack("<L", height)),  # rows of the only strip
        279: (LONG, struct.pack("<L", len(encoded.data))),
        282: (RATIONAL, resolution),
        283: (RATIONAL, resolution),
        284: (SHORT, struct.pack("<H", 1)),  # planar configuration: RGBRGB
        296: (SHORT, struct.pack("<H", unit)),
        _METADATA: (BYTES, metadata),
        _CRC32: (LONG, struct.pack("<L", zlib.crc32(encoded.data))),
    }
    if encoded.compression == "deflate":
        tags[317] = (SHORT, struct.pack("<H", 2))  # horizontal differences
    return tags


def _pointer_in_ifd(tags: _Tags) -> int:
    """Return where, in an IFD, count and offset of the description are.

    An IFD has 2 bytes of length, then 12 bytes per entry, sorted by tag; an entry
    begins with 4 bytes of tag and type (TIFF 6.0, p. 14).
    """
    return 2 + 12 * sorted(tags).index(_DESCRIPTION) + 4


def _aligned_ifd(at: int, tags: _Tags) -> int:
    """Return the first offset from `at` on at which an IFD may begin.

    What is changed in place must lie within one sector, whose size is a multiple of 8.
    The link has 4 bytes and is at `at + 2 + 12 * n`: a multiple of 4 if `at % 4 == 2`.
    Count and offset of the description have 8 bytes and get an offset that is a
    multiple of 8; `at % 4` stays 2 by that, since `_pointer_in_ifd` is 2 modulo 4 too.
    """
    at += (2 - at) % 4
    if _DESCRIPTION in tags:
        at += (-(at + _pointer_in_ifd(tags))) % 8
    return at


def _ifd(tags: _Tags, at: int) -> bytes:
    """Return an IFD that begins at `at`, with the values that do not fit into it.

    A value of up to 4 bytes is in its entry, left-justified; of a longer one there is
    the offset, which must be even (TIFF 6.0, p. 15).
    """
    entries, long_values = [], b""
    long_values_at = at + 2 + 12 * len(tags) + 4
    for number, (kind, value) in sorted(tags.items()):
        value_or_offset = value
        if len(value) > 4:
            long_values += bytes(len(long_values) % 2)
            value_or_offset = struct.pack("<L", long_values_at + len(long_values))
            long_values += value
        count = len(value) // TYPE_BYTES[kind]
        entries.append(ENTRY.pack(number, kind, count, value_or_offset.ljust(4, b"\0")))
    length, no_link = struct.pack("<H", len(tags)), bytes(4)
    ifd = length + b"".join(entries) + no_link + long_values
    return ifd + bytes(len(ifd) % 2)


def _point_to_description(
    file: WritableFile, pointer: int, count: int, offset: int
) -> None:
    """Change count and offset at once: eight bytes that lie within one sector."""
    file.pwrite(struct.pack("<LL", count, offset), pointer)
    file.sync()


def _read_frame(file: BinaryIO, path: Path, at: int) -> tuple[TiffFrame, int]:
    """Return the frame whose IFD is at `at`, and the offset of the next IFD."""
    entries, link_at = read_ifd(file, at)

    def number(tag: int) -> int:
        return int.from_bytes(value_of(file, entries[tag]), "little")

    bits = struct.unpack("<3H", value_of(file, entries[258]))
    names: dict[int, Compression] = {n: name for name, n in _COMPRESSION_CODES.items()}
    frame = TiffFrame(
        path=path,
        shape=(number(257), number(256), number(277)),
        dtype={8: "uint8", 16: "uint16"}[bits[0]],
        compression=names[number(259)],
        offset=number(273),
        size=number(279),
        crc32=number(_CRC32),
        metadata=value_of(file, entries[_METADATA], _MAX_METADATA),
        link_at=link_at,
    )
    refuse_impossible(frame.shape, frame.dtype)
    read_at(file, frame.offset + frame.size - 1, 1)  # raises where the frame is cut off
    return frame, struct.unpack("<L", read_at(file, link_at, 4))[0]
