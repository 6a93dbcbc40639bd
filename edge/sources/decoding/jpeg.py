"""JPEG: what libjpeg warns of decides whether a picture is whole."""

from __future__ import annotations

import re

import cv2
import numpy as np

from edge.errors import FrameRejected
from edge.sources.decoding.decoded_image import DecodedImage

try:
    import simplejpeg
except ImportError:  # an installation of before: read, and say that nobody checked
    simplejpeg = None

_END = b"\xff\xd9"
# Cameras that fill up their last packet do so with a few bytes. After a loss hundreds
# are left over: blocks that were decoded wrongly took fewer than they should.
_MOST_FILLER_BYTES = 16
_EXTRANEOUS = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
_UNKNOWN_SUBSAMPLING = "Could not determine subsampling"
_UNUSUAL = "its colour subsampling is unusual; save it as 4:4:4 or 4:2:0"
_NOT_INSTALLED = "simplejpeg is not installed; install the project's packages again"


def decode_jpeg(data: bytes, name: str) -> DecodedImage:
    """Decode a JPEG to (H, W, 3) uint8 RGB, as it lies in the file: not turned.

    OpenCV and Pillow fill missing data with grey or with neighbours, and say nothing.
    Here each warning of libjpeg refuses the picture, but for one: a few bytes between
    the last pixel and the end marker, which some cameras send with each good frame.

    Raises
    ------
    FrameRejected
        It is damaged.
    """
    return _decode(data, name)


def check_jpeg(data: bytes, name: str) -> DecodedImage:
    """Look for damage in a JPEG by decoding every eighth of its pixels.

    All its bytes are read, as `decode_jpeg` reads them, in a third of the time.

    Raises
    ------
    FrameRejected
        It is damaged.
    """
    return _decode(data, name, min_width=1, min_height=1)


def _decode(data: bytes, name: str, **least: int) -> DecodedImage:
    """Decode a JPEG; `least` are the width and height (px) that it may shrink to.

    Raises
    ------
    FrameRejected
        It is damaged.
    """
    if simplejpeg is None:
        return _decode_unchecked(data, name, _NOT_INSTALLED)
    try:
        return DecodedImage(simplejpeg.decode_jpeg(data, "RGB", **least))
    except ValueError as error:
        warning = str(error)
    filled = _EXTRANEOUS.search(warning)
    if filled is not None:
        return _decode_filled(data, int(filled[1]), name, **least)
    if _UNKNOWN_SUBSAMPLING in warning:
        return _decode_unchecked(data, name, _UNUSUAL)
    raise _damaged(name, warning)


def _decode_filled(
    data: bytes, extraneous: int, name: str, **least: int
) -> DecodedImage:
    """Decode a JPEG without the bytes between its last pixel and its end marker.

    libjpeg names its last warning only. Without those bytes it must have none.

    Raises
    ------
    FrameRejected
        There are more bytes than a camera fills up with, or other warnings.
    """
    end = data.rfind(_END)
    filler = data[max(0, end - extraneous) : end]
    if extraneous > _MOST_FILLER_BYTES and any(filler):
        raise _damaged(name, f"{extraneous} bytes are left over after the last pixel")
    try:
        whole = data[: end - extraneous] + _END
        pixels = simplejpeg.decode_jpeg(whole, "RGB", **least)
    except ValueError as error:
        raise _damaged(name, str(error)) from error
    return DecodedImage(pixels, filler_bytes=extraneous)


def _decode_unchecked(data: bytes, name: str, why: str) -> DecodedImage:
    """Decode a JPEG by OpenCV, which sees no damage, and note that.

    Raises
    ------
    FrameRejected
        OpenCV cannot read it, or it ends too early.
    """
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None:
        raise _damaged(name, "its header cannot be read")
    if _END not in data.rstrip(b"\0")[-64:]:
        raise _damaged(name, "it ends before its end marker")
    note = f"damage of this JPEG could not be looked for, as {why}"
    return DecodedImage(np.asarray(pixels), notes=(note,))


def _damaged(name: str, why: str) -> FrameRejected:
    return FrameRejected(
        f"{name}: the JPEG is damaged ({why}); copy it again, or check the cable of "
        "the camera"
    )
