"""What a decoder returns, and how large it may become."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from edge.errors import FrameRejected
from edge.frames import Counts

MAX_MEGAPIXELS = 200.0
# A file may be larger than its pixels: metadata, a thumbnail, bytes after its end.
_SPARE_BYTES = 64 * 2**20
_LARGEST_PIXEL_BYTES = 8  # four channels of 16 bits, not compressed


@dataclass(frozen=True, slots=True, eq=False)
class DecodedImage:
    """Counts `pixels` (H, W, 3) uint8 or uint16 RGB, upright.

    `notes` say what of the file was not looked at, or could not be checked; whoever
    shows a result of these pixels shows the notes with it. `filler_bytes` lie between
    the last pixel and the end marker: some cameras send them with each good frame.
    `orientation` is that of EXIF, by which the pixels were turned; 1 is upright.
    """

    pixels: Counts
    notes: tuple[str, ...] = ()
    filler_bytes: int = 0
    orientation: int = 1


def refuse_large(
    name: str, width_px: int, height_px: int, max_megapixels: float
) -> None:
    """Refuse a picture by the size that its header tells, before it takes memory.

    Raises
    ------
    FrameRejected
        It has more pixels than the limit, or none.
    """
    megapixels = width_px * height_px / 1e6
    if min(width_px, height_px) < 1:
        raise FrameRejected(
            f"{name}: the header says {width_px}x{height_px} px; copy it again"
        )
    if megapixels > max_megapixels:
        raise FrameRejected(
            f"{name}: {width_px}x{height_px} px are {megapixels:.3g} megapixels, "
            f"expected at most {max_megapixels:g}; decoded it takes at least "
            f"{megapixels * 3 / 1000:.1f} GB of memory: divide the picture, or raise "
            "max_megapixels"
        )


def refuse_long(name: str, size_bytes: int, width_px: int, height_px: int) -> None:
    """Refuse a file that is much longer than its pixels can make it.

    Raises
    ------
    FrameRejected
        It is; reading it would take memory for nothing.
    """
    most = width_px * height_px * _LARGEST_PIXEL_BYTES + _SPARE_BYTES
    if size_bytes > most:
        raise FrameRejected(
            f"{name}: the file has {size_bytes} bytes for {width_px}x{height_px} px, "
            f"expected at most {most}; save the picture anew"
        )


def rgb_of(decoded: Counts, name: str) -> Counts:
    """Bring grey (H, W), BGR or BGRA (H, W, C) of OpenCV to (H, W, 3) RGB.

    Raises
    ------
    FrameRejected
        Parts of the picture are transparent: their colour means nothing.
    """
    channels = 1 if decoded.ndim == 2 else decoded.shape[2]
    if channels == 1:
        return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_GRAY2RGB))
    if channels == 4:
        refuse_transparent(decoded[..., 3], name)
        return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGRA2RGB))
    # In place: a second copy of a scan would take as much memory again.
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB, dst=decoded))


def refuse_transparent(alpha: Counts, name: str) -> None:
    """Refuse a picture whose `alpha` (H, W) is not opaque everywhere.

    Raises
    ------
    FrameRejected
        Some pixels are transparent.
    """
    opaque = np.iinfo(alpha.dtype).max
    lowest = int(alpha.min())
    if lowest != opaque:
        raise FrameRejected(
            f"{name}: parts of it are transparent (alpha {lowest}, expected {opaque} "
            "everywhere); save it without an alpha channel"
        )


def upright(pixels: Counts, orientation: int) -> Counts:
    """Turn pixels (H, W, 3) as EXIF tag 274 says: 1 is upright, 2 to 8 are turned."""
    turned: Counts = pixels
    if orientation >= 5:  # rows and columns are exchanged
        turned = turned.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        turned = turned[::-1]
    if orientation in (2, 3, 6, 7):
        turned = turned[:, ::-1]
    return turned if turned.flags.c_contiguous else turned.copy()
