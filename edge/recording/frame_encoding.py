"""A frame as it is stored, in whatever kind of file."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from edge.errors import FrameRejected, HemascopeError
from edge.frames import Counts
from edge.settings.run import Compression

MAX_FRAME_BYTES = 1 << 29  # of pixels: 89 million of 16 bits in three colours


class FrameFileDamaged(HemascopeError):
    """A file is not one of our frame files, or its first frame is not whole."""


@dataclass(frozen=True, slots=True, eq=False)
class EncodedFrame:
    """The bytes of one frame, ready to be written, and what they are.

    `shape` (H, W, 3); `dtype` "uint8" or "uint16".
    """

    data: bytes
    shape: tuple[int, int, int]
    dtype: str
    compression: Compression


class StoredFrame(Protocol):
    """One frame in a frame file. Its pixels stay on the disk until `read`."""

    @property
    def path(self) -> Path:
        """The frame file that holds it."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, 3."""

    @property
    def dtype(self) -> str:
        """Type of the pixels, "uint8" or "uint16"."""

    @property
    def metadata(self) -> bytes:
        """JSON that was stored with the frame."""

    def read(self) -> Counts:
        """Return the frame (H, W, 3), uint8 or uint16, RGB, as it was encoded.

        Raises
        ------
        FrameRejected
            The stored bytes are not those that were written.
        """


def check_crc(data: bytes, crc32: int, where: str) -> None:
    """Raise `FrameRejected` if these are not the bytes that were written."""
    if zlib.crc32(data) != crc32:
        raise FrameRejected(
            f"{where} is not what was written (CRC-32); restore the file from a copy"
        )


def refuse_impossible(shape: tuple[int, int, int], dtype: str) -> None:
    """Raise `ValueError` if no frame is of this shape, or it would fill the memory."""
    height, width, samples = shape
    size = height * width * samples * np.dtype(dtype).itemsize
    if min(height, width) < 1 or samples != 3 or size > MAX_FRAME_BYTES:
        raise ValueError(
            f"a frame of {shape} {dtype}, expected three colours and at most "
            f"{MAX_FRAME_BYTES:,} bytes"
        )


def unpack(data: bytes, size: int, window_bits: int, where: str) -> bytes:
    """Decompress a frame that has `size` bytes, and never more.

    Raises
    ------
    FrameRejected
        The data are not compressed, or it is of another size.
    """
    inflater = zlib.decompressobj(window_bits)
    try:
        unpacked = inflater.decompress(data, size + 1)
    except zlib.error as error:
        raise FrameRejected(f"{where} cannot be decompressed: {error}") from error
    check_size(unpacked, size, where)
    return unpacked


def check_size(pixels: bytes, size: int, where: str) -> None:
    """Raise `FrameRejected` if a frame's pixels are not as many as its shape says."""
    if len(pixels) != size:
        raise FrameRejected(
            f"{where} holds other than the {size:,} bytes of its shape; restore the "
            "file from a copy"
        )
