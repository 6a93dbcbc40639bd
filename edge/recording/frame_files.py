"""Frame files: OME-TIFF files or OME-Zarr folders that grow frame by frame.

A kind of frame file must do three things. It stores every frame without loss. It is
whole after each `append`: at any moment, also after a power cut, programs that do not
know us read all frames but those just being written. And it stores the frame's own
metadata with the pixels, so that no second file can disagree.

Terms
-----
frame file
    One file (OME-TIFF), or one folder that stands for a file (OME-Zarr), with up to
    64 frames that are alike in size and type.
encoded frame
    The bytes of one frame as they are stored. Encoding takes processor time and no
    disk, so it is a step of its own.
metadata
    JSON that belongs to one frame (`edge.recording.format.Frame`).

Examples
--------
Write two frames into a new file, and read them back:

>>> import tempfile
>>> from datetime import datetime, timezone
>>> import numpy as np
>>> folder = Path(tempfile.mkdtemp())
>>> frames = [np.full((4, 6, 3), level, np.uint8) for level in (10, 20)]
>>> image = OmeImage(
...     name="an example",
...     acquired=datetime(2026, 1, 1, tzinfo=timezone.utc),
...     width_px=6,
...     height_px=4,
...     dtype="uint8",
...     pixel_size_um=0.07,
...     software="hemascope",
...     attributes={"device": "scope-01"},
... )
>>> planes = [OmePlane(delta_t_s=0.0), OmePlane(delta_t_s=0.5)]
>>> file = create(folder, number=1, file_format="ome-tiff")
>>> encoded = [encode_frame(frame, "ome-tiff", "deflate") for frame in frames]
>>> file.append([(encoded[0], b'{"seq":1}')], image, planes[:1])
>>> file.append([(encoded[1], b'{"seq":2}')], image, planes)
>>> file.close()
>>> [path.name for path in frame_files_in(folder)]
['frames-00001.ome.tif']
>>> for stored in read_frames(file.path):
...     print(stored.metadata, stored.shape, stored.read().max())
b'{"seq":1}' (4, 6, 3) 10
b'{"seq":2}' (4, 6, 3) 20
>>> shutil.rmtree(folder)
"""

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
from edge.recording.ome_xml import OmeImage, OmePlane, ome_xml
from edge.settings.run import Compression, Format

_SUFFIXES: dict[Format, str] = {"ome-tiff": ".ome.tif", "ome-zarr": ".ome.zarr"}
_UNFINISHED = ".new"  # suffix of a file that has no whole frame yet
_BEING_DELETED = ".gone"  # suffix of a folder whose frames are being deleted


class FrameFile(Protocol):
    """A frame file while it is written. Used from one thread."""

    @property
    def path(self) -> Path:
        """Its name, which it has as soon as its first frame is whole."""

    @property
    def size(self) -> int:
        """How many bytes it takes."""

    def append(
        self,
        frames: Sequence[tuple[EncodedFrame, bytes]],
        image: OmeImage,
        planes: Sequence[OmePlane],
    ) -> None:
        """Add frames, all or none; they are on the disk when this returns.

        After an error nothing more may be appended: call `abandon`.

        Parameters
        ----------
        frames
            Each frame with its metadata. All are alike in size and type.
        image
            Describes the whole file.
        planes
            One for each frame of the file, up to the last of these.

        Raises
        ------
        OSError
            They could not be written; the file reads as before.
        """

    def close(self) -> None:
        """Release the file, which is whole as it is. Safe to call twice."""

    def abandon(self) -> None:
        """Free the bytes of frames that could not be written, and release the file."""


def create(folder: Path, number: int, file_format: Format) -> FrameFile:
    """Create the frame file of this number; raises `OSError`."""
    path = folder / f"frames-{number:05d}{_SUFFIXES[file_format]}"
    if file_format == "ome-tiff":
        return TiffFrameFile(path)
    return ome_zarr.GrowingZarr(path)


def encode_frame(
    pixels: Counts, file_format: Format, compression: Compression
) -> EncodedFrame:
    """Encode a frame (H, W, 3), uint8 or uint16, as this format does, without loss."""
    if file_format == "ome-tiff":
        return ome_tiff.encode_frame(pixels, compression)
    return ome_zarr.encode_frame(pixels, compression)


def frame_files_in(folder: Path) -> list[Path]:
    """Return the frame files of a folder, oldest first."""
    return sorted(
        path for end in _SUFFIXES.values() for path in folder.glob(f"frames-*{end}")
    )


def read_frames(path: Path) -> Sequence[StoredFrame]:
    """Return the whole frames of a frame file, in order.

    Raises
    ------
    FrameFileDamaged
        It is not a frame file, or holds no whole frame.
    """
    return ome_zarr.read_frames(path) if _is_zarr(path) else ome_tiff.read_frames(path)


def declares(path: Path, frames: int) -> bool:
    """Whether other programs see exactly so many frames in a frame file."""
    if _is_zarr(path):
        return ome_zarr.declared_frames(path) == frames
    return f'SizeT="{frames}"'.encode() in (ome_tiff.description_of(path) or b"")


def repair(path: Path, image: OmeImage, planes: Sequence[OmePlane]) -> None:
    """Make a damaged frame file end after its last whole frame."""
    if _is_zarr(path):
        ome_zarr.repair(ome_zarr.read_frames(path), image)
    else:
        ome_tiff.repair(ome_tiff.read_frames(path), ome_xml(image, planes))


def delete(path: Path) -> None:
    """Delete a frame file; after a power cut it is there as a whole or not at all."""
    if path.is_dir():
        # A Zarr reader shows a missing chunk as black, not as an error (Zarr v3,
        # "fill value"). So the folder loses its name, for sure, before any chunk goes.
        deleted = path.with_suffix(_BEING_DELETED)
        path.rename(deleted)
        sync_folder(path.parent)
        shutil.rmtree(deleted)
    else:
        path.unlink()


def remove_leftovers(folder: Path) -> None:
    """Remove what a process left that died while it began or deleted a frame file."""
    for end in (_UNFINISHED, _BEING_DELETED):
        for path in folder.glob(f"frames-*{end}"):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


class TiffFrameFile:
    """An OME-TIFF; see `FrameFile`."""

    def __init__(self, path: Path) -> None:
        self.path, self._draft = path, path.with_suffix(_UNFINISHED)
        self._disk = ome_tiff.DiskFile(self._draft)
        self._tiff = ome_tiff.GrowingTiff(self._disk)

    @property
    def size(self) -> int:
        """See `FrameFile`."""
        return self._tiff.size

    def append(
        self,
        frames: Sequence[tuple[EncodedFrame, bytes]],
        image: OmeImage,
        planes: Sequence[OmePlane],
    ) -> None:
        """See `FrameFile`."""
        is_first = self._tiff.frame_count == 0
        if not is_first:
            # Somebody may have removed the file. We would go on writing, without any
            # error, into a file that has no name; `stat` raises instead.
            self.path.stat()
        self._tiff.append(frames, ome_xml(image, planes), image.pixel_size_um)
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
        whole = self._tiff.frame_count
        # Only where the failed frames were not linked yet: a link must not point
        # beyond the end of the file.
        if whole and len(ome_tiff.read_frames(self.path)) == whole:
            os.truncate(self.path, self._tiff.size)


def _is_zarr(path: Path) -> bool:
    return path.suffix == ".zarr"
