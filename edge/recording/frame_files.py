"""The files that frames are recorded in: OME-TIFF or OME-Zarr, which grow alike."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from edge.frames import Counts
from edge.recording import ome_tiff, ome_zarr
from edge.recording.frame_encoding import EncodedFrame, StoredFrame
from edge.recording.fsync import sync_folder
from edge.recording.ome_xml import Image, Plane, ome_xml
from edge.settings.run import Compression, Format

_SUFFIXES: dict[Format, str] = {"ome-tiff": ".ome.tif", "ome-zarr": ".ome.zarr"}
_GONE = ".gone"


class FrameFile(Protocol):
    """A file, or a folder that stands for one, while it is written."""

    @property
    def path(self) -> Path:
        """What it is called once its first frame is whole."""

    @property
    def size(self) -> int:
        """Bytes that it takes."""

    def append(
        self,
        shown: Sequence[tuple[EncodedFrame, bytes]],
        image: Image,
        planes: Sequence[Plane],
    ) -> None:
        """Add frames, all or none; they are on the disk when this returns.

        Parameters
        ----------
        shown
            Frames, each with JSON that belongs to it.
        image, planes
            What is said of all frames up to the last of these.

        Raises
        ------
        OSError
            They could not be written; what was there reads as before.
        """

    def close(self) -> None:
        """Let go of it; it is whole as it is. Safe to call twice."""

    def abandon(self) -> None:
        """Give back the room of frames that could not be written, and let go."""


def begin(folder: Path, number: int, kind: Format) -> FrameFile:
    """Begin the roll of this number; raises `OSError`."""
    path = folder / f"frames-{number:05d}{_SUFFIXES[kind]}"
    return TiffFrameFile(path) if kind == "ome-tiff" else ome_zarr.GrowingZarr(path)


def pack(pixels: Counts, kind: Format, compression: Compression) -> EncodedFrame:
    """Store a frame (H, W, 3) as this format does, without loss."""
    how = ome_tiff.pack if kind == "ome-tiff" else ome_zarr.pack
    return how(pixels, compression)


def rolls_in(folder: Path) -> list[Path]:
    """Return the rolls of a folder, oldest first."""
    return sorted(
        path for end in _SUFFIXES.values() for path in folder.glob(f"frames-*{end}")
    )


def pages_in(path: Path) -> Sequence[StoredFrame]:
    """Return the frames of a roll that are wholly there, in order.

    Raises
    ------
    RollDamaged
        It is none, or holds no whole frame.
    """
    return ome_zarr.read_pages(path) if _is_zarr(path) else ome_tiff.read_pages(path)


def says(path: Path, frames: int) -> bool:
    """Whether a roll says to other readers that it holds so many frames."""
    if _is_zarr(path):
        return ome_zarr.claimed(path) == frames
    return f'SizeT="{frames}"'.encode() in (ome_tiff.description_of(path) or b"")


def mend(path: Path, image: Image, planes: Sequence[Plane]) -> None:
    """Let a damaged roll end after the frames that are wholly there."""
    if _is_zarr(path):
        ome_zarr.mend(ome_zarr.read_pages(path), image)
    else:
        ome_tiff.mend(ome_tiff.read_pages(path), ome_xml(image, planes))


def delete(path: Path) -> None:
    """Delete a roll; whatever dies meanwhile, it is either there or not."""
    if path.is_dir():
        gone = path.with_suffix(_GONE)
        path.rename(gone)
        sync_folder(path.parent)  # others would see black where a chunk is gone
        shutil.rmtree(gone)
    else:
        path.unlink()


def clear(folder: Path) -> None:
    """Remove what was never a whole roll, or is none any more."""
    for end in (".new", _GONE):
        for path in folder.glob(f"frames-*{end}"):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


class TiffFrameFile:
    """An OME-TIFF; see `FrameFile`."""

    def __init__(self, path: Path) -> None:
        self.path, self._draft = path, path.with_suffix(".new")
        self._disk = ome_tiff.DiskFile(self._draft)
        self._tiff = ome_tiff.GrowingTiff(self._disk)

    @property
    def size(self) -> int:
        """See `FrameFile`."""
        return self._tiff.size

    def append(
        self,
        shown: Sequence[tuple[EncodedFrame, bytes]],
        image: Image,
        planes: Sequence[Plane],
    ) -> None:
        """See `FrameFile`."""
        is_first = self._tiff.pages == 0
        if not is_first:
            self.path.stat()  # removed meanwhile, it takes frames that nobody sees
        self._tiff.append(shown, ome_xml(image, planes), image.pixel_size_um)
        if is_first:
            self._draft.rename(self.path)
            sync_folder(self.path.parent)

    def close(self) -> None:
        """See `FrameFile`."""
        self._disk.close()

    def abandon(self) -> None:
        """See `FrameFile`."""
        self.close()
        self._draft.unlink(missing_ok=True)
        pages = self._tiff.pages
        if pages and len(ome_tiff.read_pages(self.path)) == pages:
            os.truncate(self.path, self._tiff.size)


def _is_zarr(path: Path) -> bool:
    return path.suffix == ".zarr"
