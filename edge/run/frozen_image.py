"""Tell a live picture from a frozen one: no camera sends the same noise twice."""

from __future__ import annotations

import zlib

import msgspec

from edge.frames import Counts
from edge.schema.results import FrameResult

_EVERY_PX = 8


def digest_of(pixels: Counts) -> int:
    """Return a checksum of every eighth pixel of every eighth row.

    Parameters
    ----------
    pixels
        (H, W, 3) uint8 or uint16, counts as they came.
    """
    return zlib.crc32(pixels[::_EVERY_PX, ::_EVERY_PX].tobytes())


class FrozenImageCheck:
    """Rejects frames of a live source that are identical several times in a row.

    Used by the main thread, frame by frame in order.
    """

    def __init__(self, max_identical: int) -> None:
        self._max_identical = max_identical
        self._last: int | None = None
        self._identical = 0

    def judge(self, result: FrameResult, digest: int | None) -> FrameResult:
        """Return the result, rejected if its picture is frozen.

        `digest` is the checksum of the frame's pixels, None where there are none.
        """
        if digest is None:
            return result
        self._identical = self._identical + 1 if digest == self._last else 1
        self._last = digest
        if self._identical < self._max_identical:
            return result
        reason = (
            f"frozen image: the last {self._identical} frames are identical; unplug "
            "the camera and plug it in again"
        )
        return msgspec.structs.replace(
            result, status="rejected", reason=reason, cells=(), counts={}
        )
