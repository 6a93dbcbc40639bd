"""An OME-Zarr that grows frame by frame and is whole after each of them.

Version 0.5 of OME-Zarr in Zarr 3: a folder that holds one image of one scale with the
axes t, c, y, x, a chunk for each frame. Chunks are on the disk before `0/zarr.json`,
which is replaced in one step, counts them: so whenever power fails, others read all
frames but those just being written, and never a torn one. What is said of a frame
stands in that same file.

https://ngff.openmicroscopy.org/0.5/, https://zarr-specs.readthedocs.io/en/latest/v3/
"""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec
import numpy as np

from edge.errors import FrameRejected
from edge.frames import Counts
from edge.recording.frame_encoding import EncodedFrame, FrameFileDamaged, prove
from edge.recording.fsync import sync_folder
from edge.recording.ome_xml import Image, Plane
from edge.schema.codec import PayloadInvalid, decode
from edge.settings.run import Compression

_META, _DRAFT, _ARRAY = "zarr.json", "zarr.new", "0"
_CHUNK = "c.{number}.0.0.0"  # as separator "." puts it: one folder, one sync
_LEVEL = 1  # of gzip: higher ones take long and find only noise
_COLOURS = (("red", "FF0000"), ("green", "00FF00"), ("blue", "0000FF"))
_GZIP = {"name": "gzip", "configuration": {"level": _LEVEL}}


class Disk(Protocol):
    """What a growing Zarr is written to."""

    def put(self, path: Path, data: bytes) -> None:
        """Write a file; what is in it is on the disk when this returns."""

    def rename(self, old: Path, new: Path) -> None:
        """Give a file another name, in the place of one that had it."""

    def settle(self, folder: Path) -> None:
        """Return when the names in a folder are on the disk."""


class RealDisk:
    """The file system."""

    def put(self, path: Path, data: bytes) -> None:
        """See `Disk`."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fdatasync(fd)

    def rename(self, old: Path, new: Path) -> None:
        """See `Disk`."""
        old.rename(new)

    def settle(self, folder: Path) -> None:
        """See `Disk`."""
        sync_folder(folder)


class _FrameNote(msgspec.Struct, frozen=True):
    """Of a frame, in the attributes of the array. `frame`: its note."""

    delta_t_s: float
    exposure_ms: float | None
    bytes: int
    crc32: int
    frame: msgspec.Raw


class _HemascopeAttributes(msgspec.Struct, frozen=True):
    frames: list[_FrameNote]


class _Attributes(msgspec.Struct, frozen=True):
    hemascope: _HemascopeAttributes


class _Group(msgspec.Struct, frozen=True):
    """What must be in `zarr.json`, or others find no array."""

    zarr_format: Literal[3]
    node_type: Literal["group"]


class _Array(msgspec.Struct, frozen=True):
    """What is read of `0/zarr.json`; the rest is as we write it."""

    zarr_format: Literal[3]
    shape: tuple[int, int, int, int]
    data_type: Literal["uint8", "uint16"]
    codecs: list[dict[str, Any]]
    attributes: _Attributes


def pack(pixels: Counts, compression: Compression) -> EncodedFrame:
    """Store a frame without loss, colour after colour.

    Parameters
    ----------
    pixels
        (H, W, 3), uint8 or uint16, RGB.
    compression
        "deflate": gzip, the codec that every reader of Zarr 3 has.
    """
    height, width, samples = pixels.shape
    shape, dtype = (height, width, samples), pixels.dtype.name
    planes = np.ascontiguousarray(
        np.moveaxis(pixels, -1, 0), pixels.dtype.newbyteorder("<")
    )
    if compression == "none":
        return EncodedFrame(planes.tobytes(), shape, dtype, compression)
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, 31)  # with the header of gzip
    data = packer.compress(planes.tobytes()) + packer.flush()
    return EncodedFrame(data, shape, dtype, compression)


class GrowingZarr:
    """The writer of one folder, which must not be there yet.

    It has its name once its first frame is whole. Nothing may follow a failed `append`.
    """

    def __init__(self, path: Path, disk: Disk | None = None) -> None:
        self.path, self._disk = path, disk or RealDisk()
        self._at = path.with_suffix(".new")
        self._told: list[_FrameNote] = []
        self._head = self._body = b""
        for folder in (self._at, self._at / _ARRAY):
            folder.mkdir(mode=0o750)

    @property
    def size(self) -> int:
        """Bytes of its files."""
        chunks = sum(told.bytes for told in self._told)
        return chunks + len(self._head) + len(self._body)

    def append(
        self,
        shown: Sequence[tuple[EncodedFrame, bytes]],
        image: Image,
        planes: Sequence[Plane],
    ) -> None:
        """Add frames, all packed alike; see `edge.recording.frame_files.FrameFile`."""
        like, array = shown[0][0], self._at / _ARRAY
        told = list(self._told)
        for (packed, note), plane in zip(shown, planes[len(told) :], strict=True):
            self._disk.put(array / _CHUNK.format(number=len(told)), packed.data)
            told.append(_tell(packed, note, plane))
        self._disk.settle(array)
        head = _group(image)
        if head != self._head:
            _replace(self._disk, self._at, head)
        body = _array(like, told, image)
        _replace(self._disk, array, body)
        if not self._told:
            self._disk.settle(self._at)
            self._disk.rename(self._at, self.path)
            self._at = self.path
            self._disk.settle(self.path.parent)
        self._told, self._head, self._body = told, head, body

    def close(self) -> None:
        """Nothing is held open."""

    def abandon(self) -> None:
        """Give back the room of a frame that could not be written."""
        if not self._told:
            shutil.rmtree(self._at, ignore_errors=True)
            return
        if claimed(self.path) != len(self._told):  # counted, and then not settled
            _replace(self._disk, self.path / _ARRAY, self._body)
        _remove_uncounted(self.path)


@dataclass(frozen=True, slots=True)
class ZarrFrame:
    """One frame of a folder; see `Page`."""

    path: Path
    number: int
    shape: tuple[int, int, int]
    dtype: str
    compression: Compression
    note: bytes
    told: _FrameNote

    @property
    def chunk(self) -> Path:
        """The file that holds the pixels."""
        return self.path / _ARRAY / _CHUNK.format(number=self.number)

    def read(self) -> Counts:
        """See `Page`."""
        try:
            data = self.chunk.read_bytes()
        except OSError as error:
            raise FrameRejected(f"{self.chunk}: {error}; was it deleted?") from error
        prove(data, self.told.crc32, str(self.chunk))
        kind = np.dtype(self.dtype).newbyteorder("<")
        if self.compression == "deflate":
            data = zlib.decompress(data, 31)
        height, width, samples = self.shape
        planes = np.frombuffer(data, kind).reshape(samples, height, width)
        return np.ascontiguousarray(np.moveaxis(planes, 0, -1).astype(self.dtype))


def read_pages(path: Path) -> list[ZarrFrame]:
    """Return the frames of a growing Zarr that are wholly there, in order.

    Raises
    ------
    RollDamaged
        It is none, or holds no whole frame.
    """
    array = _read(path)
    _, samples, height, width = array.shape
    compression: Compression = "deflate" if _GZIP in array.codecs else "none"
    pages: list[ZarrFrame] = []
    for number, told in enumerate(array.attributes.hemascope.frames):
        shape = (height, width, samples)
        kind, note = array.data_type, bytes(told.frame)
        page = ZarrFrame(path, number, shape, kind, compression, note, told)
        if _size_of(page.chunk) != told.bytes:
            break
        pages.append(page)
    if not pages:
        raise FrameFileDamaged(f"{path}: no whole frame: its first chunk is not there")
    return pages


def claimed(path: Path) -> int:
    """Return how many frames other readers see.

    Raises
    ------
    FrameFileDamaged
        The folder is no frame file.
    """
    array = _read(path)
    try:
        decode((path / _META).read_bytes(), _Group)
    except (OSError, PayloadInvalid):
        return 0
    return array.shape[0]


def mend(pages: Sequence[ZarrFrame], image: Image) -> None:
    """Let a damaged folder end after `pages`, which it begins with."""
    page = pages[0]
    like = EncodedFrame(b"", page.shape, page.dtype, page.compression)
    body = _array(like, [page.told for page in pages], image)
    for folder, data in ((page.path, _group(image)), (page.path / _ARRAY, body)):
        _replace(RealDisk(), folder, data)
    _remove_uncounted(page.path)


def _replace(disk: Disk, folder: Path, data: bytes) -> None:
    """Let `data` take the place of a folder's `zarr.json`, in one step."""
    draft = folder / _DRAFT
    disk.put(draft, data)
    disk.rename(draft, folder / _META)
    disk.settle(folder)


def _remove_uncounted(path: Path) -> None:
    """Remove what a folder does not count as its own, of a write that failed."""
    array = path / _ARRAY
    counted = {_CHUNK.format(number=number) for number in range(_read(path).shape[0])}
    for file in array.iterdir():
        if file.name not in {*counted, _META}:
            file.unlink()
    (path / _DRAFT).unlink(missing_ok=True)


def _read(path: Path) -> _Array:
    try:
        return decode((path / _ARRAY / _META).read_bytes(), _Array)
    except OSError as error:
        raise FrameFileDamaged(
            f"{path}: no whole frame: {_ARRAY}/{_META}: {error.strerror}; expected a "
            "recording of hemascope"
        ) from error
    except PayloadInvalid as error:
        raise FrameFileDamaged(
            f"{path}: no whole frame: {_ARRAY}/{_META}: {error}; expected a recording "
            "of hemascope"
        ) from error


def _size_of(file: Path) -> int | None:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return None


def _tell(packed: EncodedFrame, note: bytes, plane: Plane) -> _FrameNote:
    return _FrameNote(
        delta_t_s=plane.delta_t_s,
        exposure_ms=plane.exposure_ms,
        bytes=len(packed.data),
        crc32=zlib.crc32(packed.data),
        frame=msgspec.Raw(note),
    )


def _group(image: Image) -> bytes:
    """Return the `zarr.json` of the image: axes, pixel size, colours.

    The time of a frame stands with the frame: the steps are not all alike.
    """
    um = image.pixel_size_um
    unit = {} if um is None else {"unit": "micrometer"}
    axes = [
        {"name": "t", "type": "time"},
        {"name": "c", "type": "channel"},
        *({"name": name, "type": "space", **unit} for name in "yx"),
    ]
    scale = [1.0, 1.0, um or 1.0, um or 1.0]
    most = int(np.iinfo(image.kind).max)
    window = {"start": 0, "end": most, "min": 0, "max": most}
    channels = [
        {"label": label, "color": colour, "active": True, "window": window}
        for label, colour in _COLOURS
    ]
    dataset = {
        "path": _ARRAY,
        "coordinateTransformations": [{"type": "scale", "scale": scale}],
    }
    ome = {
        "version": "0.5",
        "multiscales": [{"name": image.name, "axes": axes, "datasets": [dataset]}],
        "omero": {"channels": channels, "rdefs": {"model": "color"}},
    }
    attributes = {"ome": ome}
    group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    return msgspec.json.format(msgspec.json.encode(group), indent=1)


def _array(like: EncodedFrame, told: Sequence[_FrameNote], image: Image) -> bytes:
    """Return the `zarr.json` of the frames, with what is said of them."""
    height, width, samples = like.shape
    attributes = {
        "acquired": image.acquired,
        "software": image.software,
        **image.attributes,
        "frames": told,
    }
    array = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [len(told), samples, height, width],
        "data_type": like.dtype,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [1, samples, height, width]},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": 0,
        "codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}},
            *([_GZIP] if like.compression == "deflate" else []),
        ],
        "dimension_names": ["t", "c", "y", "x"],
        "attributes": {"hemascope": attributes},
    }
    return msgspec.json.encode(array)
