"""What the header of an image file says, read before any pixel is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

from PIL import Image

from edge.errors import FrameRejected

# Our own limit stands in its place, with the setting to raise it in its error.
Image.MAX_IMAGE_PIXELS = None

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "JPEG2000")
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ORIENTATION = 0x0112  # EXIF tag 274
_COLOURLESS = {"CMYK": "CMYK", "YCCK": "CMYK", "LAB": "L*a*b*", "F": "floating point"}


@dataclass(frozen=True, slots=True)
class Header:
    """Format, size, EXIF orientation, and how many pictures the file holds."""

    format: str
    width_px: int
    height_px: int
    orientation: int
    pictures: int


def is_tiff(start: bytes) -> bool:
    """Whether a file begins as TIFF or BigTIFF, of either order of bytes."""
    return start[:4] in _TIFF_STARTS


def read_header(stream: BinaryIO, name: str) -> Header:
    """Read the header of a JPEG, PNG, BMP, WebP or JPEG 2000.

    Raises
    ------
    FrameRejected
        It is none of them, or its colours are not RGB, grey or a palette.
    """
    try:
        with Image.open(stream, formats=FORMATS) as image:
            header = Header(
                "JPEG" if image.format == "MPO" else str(image.format),
                image.width,
                image.height,
                _orientation(image),
                int(getattr(image, "n_frames", 1)),
            )
            mode = image.mode
    except (OSError, SyntaxError, ValueError, OverflowError) as error:
        raise FrameRejected(
            f"{name}: not an image that can be read; expected JPEG, PNG, TIFF, BMP, "
            "WebP or JPEG 2000, whole; copy it again, or convert it"
        ) from error
    if mode in _COLOURLESS:
        raise FrameRejected(
            f"{name}: its pixels are {_COLOURLESS[mode]}, expected RGB or grey; "
            "convert it"
        )
    return header


def _orientation(image: Image.Image) -> int:
    """Return EXIF's orientation, 1 to 8; 1 where there is none or it makes no sense."""
    try:
        exif = Image.Exif()
        # Not `getexif`, which decodes all pixels of a PNG to look behind them.
        exif.load(image.info.get("exif", b""))
        value = exif.get(_ORIENTATION, 1)
    except (OSError, SyntaxError, ValueError, KeyError, TypeError):
        return 1  # other EXIF that is damaged says nothing about the pixels
    return value if value in range(1, 9) else 1
