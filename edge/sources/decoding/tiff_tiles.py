"""Windows of a TIFF page that is stored in tiles: the page is never whole in memory."""

from __future__ import annotations

import math
from io import BytesIO
from typing import BinaryIO

import numpy as np
import tifffile

from edge.errors import FrameRejected
from edge.frames import Counts
from edge.sources.decoding.headers import read_header
from edge.sources.decoding.jpeg import decode_jpeg

JPEG = 7
_RGB = 2
_MAX_TILE_PX = 4096  # a side; scanners write 240 to 2048
_START = b"\xff\xd8"
# Adobe's marker: the three components are RGB. Without it libjpeg takes them for YCbCr.
_IS_RGB = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
_BLANK = 255  # scanners leave tiles out where there is only glass


def is_tiled_rgb(page: tifffile.TiffPage) -> bool:
    """Whether a page is stored in tiles of three channels of 8 bits, pixel by pixel."""
    kind = page.bitspersample, page.samplesperpixel, page.planarconfig
    return page.is_tiled and kind == (8, 3, 1)


class TiledPage:
    """A page of 8-bit RGB tiles.

    Parameters
    ----------
    page, stream
        The page, and the file that it is in.
    name
        Of the file, for errors.

    Raises
    ------
    FrameRejected
        The page is not stored in tiles of 8-bit RGB.
    """

    def __init__(self, page: tifffile.TiffPage, stream: BinaryIO, name: str) -> None:
        self._page, self._stream, self._name = page, stream, name
        self.size_px = page.imagewidth, page.imagelength
        self._tile_px = page.tilewidth, page.tilelength
        self._across = math.ceil(page.imagewidth / max(page.tilewidth, 1))
        if not is_tiled_rgb(page) or not 16 <= max(self._tile_px) <= _MAX_TILE_PX:
            raise FrameRejected(
                f"{name}: its tiles are {page.tilewidth}x{page.tilelength} px of "
                f"{page.samplesperpixel} channels of {page.bitspersample} bits, "
                f"expected 8-bit RGB of at most {_MAX_TILE_PX} px; convert it"
            )

    def window(self, x0: int, y0: int, x1: int, y1: int) -> Counts:
        """Decode a window: x0, y0, x1, y1 in pixels, x1 and y1 exclusive.

        Returns
        -------
        Counts
            (y1 - y0, x1 - x0, 3) uint8 RGB; what the file leaves out is white.

        Raises
        ------
        FrameRejected
            A tile is damaged, or of a compression that is not installed.
        """
        pixels = np.full((y1 - y0, x1 - x0, 3), _BLANK, np.uint8)
        wide, high = self._tile_px
        for row in range(y0 // high, math.ceil(y1 / high)):
            for column in range(x0 // wide, math.ceil(x1 / wide)):
                tile = self._tile(row * self._across + column)
                if tile is None:
                    continue
                left, top = column * wide, row * high
                low = max(x0, left), max(y0, top)
                end = min(x1, left + tile.shape[1]), min(y1, top + tile.shape[0])
                pixels[low[1] - y0 : end[1] - y0, low[0] - x0 : end[0] - x0] = tile[
                    low[1] - top : end[1] - top, low[0] - left : end[0] - left
                ]
        return pixels

    def _tile(self, index: int) -> Counts | None:
        """Decode one tile to (h, w, 3) uint8 RGB; None where the file leaves it out."""
        page = self._page
        if index >= len(page.dataoffsets) or index >= len(page.databytecounts):
            raise self._damaged(f"it has no tile {index}")
        offset, size = page.dataoffsets[index], page.databytecounts[index]
        if size == 0:
            return None
        self._stream.seek(offset)
        data = self._stream.read(size)
        if len(data) < size:
            raise self._damaged(f"tile {index} lies behind the end of the file")
        if page.compression == JPEG:
            return self._decode_jpeg(data, index)
        try:
            decoded = page.decode(data, index)[0]
        except (ValueError, RuntimeError) as error:
            raise self._not_decoded(index, error) from error
        if decoded is None or decoded.ndim != 4 or decoded.shape[3] != 3:
            raise self._damaged(f"tile {index} holds no colours")
        return np.asarray(decoded[0], np.uint8)

    def _decode_jpeg(self, data: bytes, index: int) -> Counts:
        """Decode a JPEG, whose tables may lie in the page, as strictly as a file."""
        name, tables = f"{self._name}, tile {index}", self._page.jpegtables or b""
        between = tables[2:-2] if tables.startswith(_START) else b""
        is_rgb = _IS_RGB if self._page.photometric == _RGB else b""
        whole = _START + is_rgb + between + data[2:]
        self._check_size(whole, index)
        return decode_jpeg(whole, name).pixels

    def _check_size(self, data: bytes, index: int) -> None:
        """Refuse a tile whose own header says that it is larger than its page does."""
        header = read_header(BytesIO(data), f"{self._name}, tile {index}")
        wide, high = self._tile_px
        if header.width_px > wide or header.height_px > high:
            raise self._damaged(
                f"tile {index} says {header.width_px}x{header.height_px} px, expected "
                f"{wide}x{high}"
            )

    def _not_decoded(self, index: int, error: Exception) -> FrameRejected:
        if "imagecodecs" in str(error):
            kind = getattr(self._page.compression, "name", str(self._page.compression))
            return FrameRejected(
                f"{self._name}: its compression is {kind}, which needs a package more; "
                "pip install 'hemascope[slides]'"
            )
        return self._damaged(f"tile {index}: {error}")

    def _damaged(self, why: str) -> FrameRejected:
        return FrameRejected(
            f"{self._name}: the slide is damaged or cut short ({why}); copy it again"
        )
