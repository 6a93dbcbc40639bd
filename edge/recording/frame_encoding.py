"""Frames as they are stored, whatever kind of file they lie in."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edge.errors import FrameRejected, HemascopeError
from edge.frames import Counts
from edge.settings.run import Compression


class FrameFileDamaged(HemascopeError):
    """A file of frames is none of ours, or not even its first frame is whole."""


@dataclass(frozen=True, slots=True, eq=False)
class EncodedFrame:
    """A frame as it is stored: its bytes, and what they are.

    `shape` (H, W, 3); `dtype` "uint8" or "uint16".
    """

    data: bytes
    shape: tuple[int, int, int]
    dtype: str
    compression: Compression


class StoredFrame(Protocol):
    """One frame that is stored: what it is, and the `note` that came with it."""

    @property
    def path(self) -> Path:
        """The file that holds it."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, 3."""

    @property
    def dtype(self) -> str:
        """Of the pixels, "uint8" or "uint16"."""

    @property
    def note(self) -> bytes:
        """What is said of it, JSON."""

    def read(self) -> Counts:
        """Return the frame (H, W, 3), uint8 or uint16, RGB, as it was packed.

        Raises
        ------
        FrameRejected
            It is not what was written.
        """


def prove(data: bytes, crc32: int, where: str) -> None:
    """Raise `FrameRejected` if these are not the bytes that were written."""
    if zlib.crc32(data) != crc32:
        raise FrameRejected(
            f"{where} is not what was written (CRC-32); restore the file from a copy"
        )
