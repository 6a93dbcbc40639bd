"""An OME-Zarr that grows frame by frame and is whole after each of them.

Written is OME-Zarr 0.5 in Zarr 3: a folder with one image of one resolution level, axes
t, c, y, x, and one chunk, that is one file, per frame:

    frames-00001.ome.zarr/
        zarr.json               the image: axes, pixel size, colours (OME-Zarr)
        0/zarr.json             the array: its shape, and what we know of each frame
        0/c.0.0.0.0             frame 0
        0/c.1.0.0.0             frame 1

The idea: a reader asks for the chunks that the shape in `0/zarr.json` counts, and for
no other. So a frame is added by writing its chunk, which nobody sees yet, and then
replacing `0/zarr.json` by one that counts it. POSIX replaces a file by `rename` in one
step: a reader sees the old file or the new one.

Invariant: a chunk that is counted is on the disk, its bytes and its name. It holds
whenever power fails, because each step is synced before the next one begins. Zarr needs
this more than other formats: a reader takes a missing chunk for a black frame, not for
an error (Zarr v3, section "Fill value").

What we know of a frame is in `0/zarr.json` too. A file per frame would be a second
file that can be lost or disagree; as it is, one `rename` publishes both.

https://ngff.openmicroscopy.org/0.5, https://zarr-specs.readthedocs.io/en/latest/v3/core
"""

from __future__ import annotations

import math
import os
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import msgspec
import numpy as np

from edge.bounded_files import read_bounded
from edge.errors import FrameRejected
from edge.frames import Counts
from edge.recording.frame_encoding import (
    MAX_FRAME_BYTES,
    EncodedFrame,
    FrameFileDamaged,
    check_crc,
    check_size,
    refuse_impossible,
    unpack,
)
from edge.recording.fsync import sync_folder
from edge.recording.ome_xml import OmeImage, OmePlane
from edge.recording.ome_zarr_metadata import image_metadata
from edge.schema.codec import PayloadInvalid, decode
from edge.settings.run import Compression

_METADATA, _DRAFT, _ARRAY = "zarr.json", "zarr.new", "0"
# With "/" as separator, the default, each frame would have folders of its own, and each
# folder would have to be synced. With "." all names are in one folder: one sync.
_CHUNK = "c.{number}.0.0.0"
_GZIP_LEVEL = 1  # higher levels take longer and find only noise
_MAX_METADATA_BYTES = 1 << 24  # 64 frames take some 100 kB
_BYTES: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}
_GZIP: dict[str, Any] = {"name": "gzip", "configuration": {"level": _GZIP_LEVEL}}


class Disk(Protocol):
    """What a growing Zarr is written to; tests put a disk that loses power here."""

    def write(self, path: Path, data: bytes) -> None:
        """Write a file; its bytes are on the disk when this returns."""

    def rename(self, old: Path, new: Path) -> None:
        """Rename a file; it replaces one that has the new name."""

    def sync_folder(self, folder: Path) -> None:
        """Return when the names in a folder are on the disk."""


class RealDisk:
    """The file system."""

    def write(self, path: Path, data: bytes) -> None:
        """See `Disk`."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            # Not fsync: it also waits for times that nobody reads. The size, which a
            # reader needs, is written by fdatasync as well (fdatasync(2)).
            os.fdatasync(fd)

    def rename(self, old: Path, new: Path) -> None:
        """See `Disk`."""
        old.rename(new)

    def sync_folder(self, folder: Path) -> None:
        """See `Disk`."""
        sync_folder(folder)


_Frames = Annotated[int, msgspec.Meta(ge=0, le=65536)]


class _FrameAttributes(msgspec.Struct, frozen=True):
    """One frame, in the attributes of the array. `frame`: its metadata."""

    delta_t_s: float
    exposure_ms: float | None
    bytes: Annotated[int, msgspec.Meta(gt=0, le=MAX_FRAME_BYTES + (1 << 20))]
    crc32: int
    frame: msgspec.Raw


class _HemascopeAttributes(msgspec.Struct, frozen=True):
    frames: list[_FrameAttributes]


class _Attributes(msgspec.Struct, frozen=True):
    hemascope: _HemascopeAttributes


class _Group(msgspec.Struct, frozen=True):
    """What `zarr.json` must hold, or other readers find no array."""

    zarr_format: Literal[3]
    node_type: Literal["group"]


class _Array(msgspec.Struct, frozen=True):
    """What is read from `0/zarr.json`; the rest is always as we write it."""

    zarr_format: Literal[3]
    shape: tuple[_Frames, int, int, int]
    data_type: Literal["uint8", "uint16"]
    codecs: list[dict[str, Any]]
    attributes: _Attributes


def encode_frame(pixels: Counts, compression: Compression) -> EncodedFrame:
    """Encode a frame without loss, colour plane after colour plane.

    Parameters
    ----------
    pixels
        (H, W, 3), uint8 or uint16, RGB.
    compression
        "deflate": gzip, the codec that every reader of Zarr 3 has. No codec that all
        of them have stores differences of neighbours, as our TIFF does, so an OME-Zarr
        is larger than a TIFF.
    """
    height, width, samples = pixels.shape
    shape, dtype = (height, width, samples), pixels.dtype.name
    planes = np.ascontiguousarray(  # (3, H, W): OME-Zarr wants channels before space
        np.moveaxis(pixels, -1, 0), pixels.dtype.newbyteorder("<")
    )
    if compression == "none":
        return EncodedFrame(planes.tobytes(), shape, dtype, compression)
    gzip_header = 16  # added to zlib's window bits, it asks for gzip (RFC 1952)
    compressor = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, 15 + gzip_header)
    data = compressor.compress(planes.tobytes()) + compressor.flush()
    return EncodedFrame(data, shape, dtype, compression)


class GrowingZarr:
    """The writer of one folder, which must not exist yet.

    The folder has its name once its first frame is whole. Until then its name ends with
    ".new". Nothing may follow a failed `append` but `abandon`.
    """

    def __init__(self, path: Path, disk: Disk | None = None) -> None:
        self.path, self._disk = path, disk or RealDisk()
        self._folder = path.with_suffix(".new")
        self._frames: list[_FrameAttributes] = []
        self._group_json = self._array_json = b""
        for folder in (self._folder, self._folder / _ARRAY):
            folder.mkdir(mode=0o750)

    @property
    def size(self) -> int:
        """Bytes of its files."""
        chunks = sum(frame.bytes for frame in self._frames)
        return chunks + len(self._group_json) + len(self._array_json)

    def append(
        self,
        frames: Sequence[tuple[EncodedFrame, bytes]],
        image: OmeImage,
        planes: Sequence[OmePlane],
    ) -> None:
        """Add frames, all encoded alike; see `edge.recording.frame_files.FrameFile`."""
        like, array = frames[0][0], self._folder / _ARRAY
        known = list(self._frames)  # a copy: after an error the old list still holds
        # 1. The chunks: nobody asks for them before they are counted.
        for (encoded, metadata), plane in zip(
            frames, planes[len(known) :], strict=True
        ):
            self._disk.write(array / _CHUNK.format(number=len(known)), encoded.data)
            known.append(_frame_attributes(encoded, metadata, plane))
        # One sync for the names of all of them, however many there are.
        self._disk.sync_folder(array)
        # 2. The image: only when it changes, as when the pixel size becomes known.
        group_json = image_metadata(image, _ARRAY)
        if group_json != self._group_json:
            _replace_metadata(self._disk, self._folder, group_json)
        # 3. The array: from here on the new frames are counted.
        array_json = _array(like, known, image)
        _replace_metadata(self._disk, array, array_json)
        # 4. Once: the folder's final name. Before it, nobody takes it for a recording.
        #    A folder is renamed with all that is in it, but the names in it are its own
        #    and must be on the disk before.
        if not self._frames:
            self._disk.sync_folder(self._folder)
            self._disk.rename(self._folder, self.path)
            self._folder = self.path
            self._disk.sync_folder(self.path.parent)
        self._frames = known
        self._group_json, self._array_json = group_json, array_json

    def close(self) -> None:
        """Nothing is open between two calls."""

    def abandon(self) -> None:
        """Free the bytes of frames that could not be written.

        `append` may have failed after it counted them, if only the last sync failed.
        They are reported as missing, so they must not be there: count them out again.
        """
        if not self._frames:
            shutil.rmtree(self._folder, ignore_errors=True)
            return
        if declared_frames(self.path) != len(self._frames):
            _replace_metadata(self._disk, self.path / _ARRAY, self._array_json)
        _remove_uncounted(self.path)


@dataclass(frozen=True, slots=True)
class ZarrFrame:
    """One frame of a folder; see `StoredFrame`."""

    path: Path
    number: int
    shape: tuple[int, int, int]
    dtype: str
    compression: Compression
    metadata: bytes
    attributes: _FrameAttributes

    @property
    def chunk(self) -> Path:
        """The file that holds the pixels."""
        return self.path / _ARRAY / _CHUNK.format(number=self.number)

    def read(self) -> Counts:
        """See `StoredFrame`."""
        try:
            data = read_bounded(self.chunk, self.attributes.bytes)
        except OSError as error:
            raise FrameRejected(f"{self.chunk}: {error}; was it deleted?") from error
        check_crc(data, self.attributes.crc32, str(self.chunk))
        stored_type = np.dtype(self.dtype).newbyteorder("<")
        size = math.prod(self.shape) * stored_type.itemsize
        if self.compression == "deflate":
            gzip_header = 16  # see `encode_frame`
            data = unpack(data, size, 15 + gzip_header, str(self.chunk))
        check_size(data, size, str(self.chunk))
        height, width, samples = self.shape
        planes = np.frombuffer(data, stored_type).reshape(samples, height, width)
        return np.ascontiguousarray(np.moveaxis(planes, 0, -1).astype(self.dtype))


def read_frames(path: Path) -> list[ZarrFrame]:
    """Return the whole frames of a growing Zarr, in order.

    It stops at the first chunk whose size is wrong: frames after a hole would shift in
    time for everyone who counts.

    Raises
    ------
    FrameFileDamaged
        It is not a growing Zarr, or holds no whole frame.
    """
    array = _read_array(path)
    _, samples, height, width = array.shape
    compression = _compression_of(path, array)
    try:
        refuse_impossible((height, width, samples), array.data_type)
    except ValueError as error:
        raise _no_frame(path, error) from error
    frames: list[ZarrFrame] = []
    for number, attributes in enumerate(array.attributes.hemascope.frames):
        frame = ZarrFrame(
            path=path,
            number=number,
            shape=(height, width, samples),
            dtype=array.data_type,
            compression=compression,
            metadata=bytes(attributes.frame),
            attributes=attributes,
        )
        # The size is enough here: it finds chunks that are missing or cut off without
        # reading hundreds of megabytes. `read` compares the CRC.
        if _size_of(frame.chunk) != attributes.bytes:
            break
        frames.append(frame)
    if not frames:
        raise FrameFileDamaged(f"{path}: no whole frame: its first chunk is not there")
    return frames


def declared_frames(path: Path) -> int:
    """Return how many frames other programs see.

    Raises
    ------
    FrameFileDamaged
        The folder is not a frame file.
    """
    array = _read_array(path)
    try:
        decode((path / _METADATA).read_bytes(), _Group)
    except (OSError, PayloadInvalid):
        return 0  # without the group nobody finds the array
    return array.shape[0]


def repair(frames: Sequence[ZarrFrame], image: OmeImage) -> None:
    """Make a damaged folder end after `frames`, with which it begins."""
    first = frames[0]
    like = EncodedFrame(b"", first.shape, first.dtype, first.compression)
    array_json = _array(like, [frame.attributes for frame in frames], image)
    _replace_metadata(RealDisk(), first.path, image_metadata(image, _ARRAY))
    _replace_metadata(RealDisk(), first.path / _ARRAY, array_json)
    # Only now, when nobody counts them any more.
    _remove_uncounted(first.path)


def _replace_metadata(disk: Disk, folder: Path, data: bytes) -> None:
    """Replace a folder's `zarr.json` in one step.

    Writing into the file itself would leave half of it after a power cut.
    """
    draft = folder / _DRAFT
    disk.write(draft, data)
    disk.rename(draft, folder / _METADATA)
    disk.sync_folder(folder)


def _remove_uncounted(path: Path) -> None:
    """Remove what a failed write left: chunks that are not counted, and drafts."""
    array = path / _ARRAY
    frames = _read_array(path).shape[0]
    counted = {_CHUNK.format(number=number) for number in range(frames)}
    for file in array.iterdir():
        if file.name not in {*counted, _METADATA}:
            file.unlink()
    (path / _DRAFT).unlink(missing_ok=True)


def _compression_of(path: Path, array: _Array) -> Compression:
    known: dict[Compression, list[dict[str, Any]]]
    known = {"none": [_BYTES], "deflate": [_BYTES, _GZIP]}
    for compression, codecs in known.items():
        if array.codecs == codecs:
            return compression
    raise _no_frame(path, f"its codecs are {array.codecs!r:.200}, expected ours")


def _read_array(path: Path) -> _Array:
    file = path / _ARRAY / _METADATA
    try:
        return decode(read_bounded(file, _MAX_METADATA_BYTES), _Array)
    except OSError as error:
        raise _no_frame(path, error.strerror) from error
    except PayloadInvalid as error:
        raise _no_frame(path, error) from error


def _no_frame(path: Path, reason: object) -> FrameFileDamaged:
    return FrameFileDamaged(
        f"{path}: no whole frame: {_ARRAY}/{_METADATA}: {reason}; expected a recording "
        "of hemascope"
    )


def _size_of(file: Path) -> int | None:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return None


def _frame_attributes(
    encoded: EncodedFrame, metadata: bytes, plane: OmePlane
) -> _FrameAttributes:
    return _FrameAttributes(
        delta_t_s=plane.delta_t_s,
        exposure_ms=plane.exposure_ms,
        bytes=len(encoded.data),
        crc32=zlib.crc32(encoded.data),
        frame=msgspec.Raw(metadata),
    )


def _array(
    like: EncodedFrame, frames: Sequence[_FrameAttributes], image: OmeImage
) -> bytes:
    """Return the `zarr.json` of the array, with what we know of each frame.

    Zarr v3, section "Array metadata". All keys are those of the specification but
    "hemascope", in "attributes", which is free for users.
    """
    height, width, samples = like.shape
    attributes = {
        "acquired": image.acquired,
        "software": image.software,
        **image.attributes,
        "frames": frames,
    }
    array = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [len(frames), samples, height, width],
        "data_type": like.dtype,
        # A chunk is what a reader must fetch as a whole. A frame per chunk makes one
        # frame the cheapest to read, and a chunk is never written twice.
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [1, samples, height, width]},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": 0,  # required; no chunk that is counted is ever missing
        "codecs": [
            _BYTES,
            *([_GZIP] if like.compression == "deflate" else []),
        ],
        "dimension_names": ["t", "c", "y", "x"],
        "attributes": {"hemascope": attributes},
    }
    return msgspec.json.encode(array)
