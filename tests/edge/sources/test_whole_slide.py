"""Slides made here, held to the pixels that they were made of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import tifffile
from numpy.typing import NDArray

from edge.errors import FrameRejected
from edge.frames import Counts
from edge.sources.image_files import read_image
from edge.sources.whole_slide import open_whole_slide

Pixels = NDArray[np.uint8]
TILE = 64
APERIO = "Aperio Image Library v12.0.0\n320x200|AppMag = 40|MPP = 0.2500"


@pytest.fixture(scope="module")
def scan() -> Pixels:
    """Glass with stained cells in its left half."""
    pixels = np.full((200, 320, 3), 240, np.uint8)
    random = np.random.default_rng(0)
    pixels[20:180, 10:150] = random.integers(60, 200, (160, 140, 3))
    return pixels


def write_ome(path: Path, scan: Counts, **options: object) -> None:
    layout = {"tile": (TILE, TILE), "photometric": "rgb", **options}
    with tifffile.TiffWriter(path, ome=True) as file:
        told = {"axes": "YXS", "PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "µm"}
        file.write(scan, subifds=1, metadata=told, **layout)
        file.write(scan[::4, ::4], subfiletype=1, **layout)


def write_generic(path: Path, scan: Pixels) -> None:
    with tifffile.TiffWriter(path) as file:
        for step, kind in ((1, 0), (4, 1)):
            file.write(
                scan[::step, ::step], tile=(TILE, TILE), photometric="rgb",
                subfiletype=kind, resolution=(40_000, 40_000),
                resolutionunit="CENTIMETER", metadata=None,
            )  # fmt: skip


def jpeg_tiles(scan: Pixels) -> Iterator[bytes]:
    high, wide = (-(-side // TILE) * TILE for side in scan.shape[:2])
    padded = np.full((high, wide, 3), 240, np.uint8)
    padded[: scan.shape[0], : scan.shape[1]] = scan
    for y in range(0, high, TILE):
        for x in range(0, wide, TILE):
            tile = np.ascontiguousarray(padded[y : y + TILE, x : x + TILE])
            yield simplejpeg.encode_jpeg(tile, quality=98, colorsubsampling="444")


def write_svs(path: Path, scan: Pixels) -> None:
    """Write JPEG tiles; tifffile alone does not, so they are named so afterwards."""
    with tifffile.TiffWriter(path) as file:
        for step in (1, 4):
            level = np.ascontiguousarray(scan[::step, ::step])
            file.write(
                jpeg_tiles(level), shape=level.shape, dtype=np.uint8, metadata=None,
                tile=(TILE, TILE), photometric="rgb", compression="zlib",
                description=APERIO,
            )  # fmt: skip
    with tifffile.TiffFile(path, mode="r+b") as file:
        for page in file.pages:
            page.tags["Compression"].overwrite(7)
            page.tags["PhotometricInterpretation"].overwrite(6)


@pytest.mark.parametrize(
    ("write", "suffix", "off"),
    [(write_ome, ".ome.tif", 0), (write_generic, ".tif", 0), (write_svs, ".svs", 12)],
)
def test_windows_are_the_pixels_of_the_scan(
    write: object, suffix: str, off: int, scan: Pixels, tmp_path: Path
) -> None:
    path = tmp_path / f"slide{suffix}"
    write(path, scan)  # type: ignore[operator]

    with open_whole_slide(path) as slide:
        assert slide is not None
        assert slide.size_px == (320, 200)
        assert slide.pixel_size_um == pytest.approx(0.25)
        for x0, y0, x1, y1 in (
            (0, 0, 320, 200),
            (50, 60, 131, 129),
            (300, 190, 320, 200),
        ):
            window = slide.window(x0, y0, x1, y1).astype(int)
            assert np.abs(window - scan[y0:y1, x0:x1]).max() <= off
        assert slide.overview.shape == (50, 80, 3)
        assert slide.is_blank(170, 0, 320, 200)
        assert not slide.is_blank(0, 0, 170, 200)


def test_compressed_tiles_are_read(scan: Pixels, tmp_path: Path) -> None:
    path = tmp_path / "slide.ome.tif"
    write_ome(path, scan, compression="zlib", predictor=True)

    with open_whole_slide(path) as slide:
        assert slide is not None
        np.testing.assert_array_equal(slide.window(0, 0, 320, 200), scan)


def test_a_tiff_without_smaller_copies_is_an_image(
    scan: Pixels, tmp_path: Path
) -> None:
    path = tmp_path / "field.tif"
    tifffile.imwrite(path, scan, photometric="rgb")

    with open_whole_slide(path) as slide:
        assert slide is None


def test_a_pyramid_of_16_bits_is_read_at_once(scan: Pixels, tmp_path: Path) -> None:
    path = tmp_path / "slide.ome.tif"
    write_ome(path, scan.astype(np.uint16) * 257)

    with open_whole_slide(path) as slide:
        assert slide is None
    np.testing.assert_array_equal(read_image(path), scan.astype(np.uint16) * 257)


def test_a_damaged_tile_is_refused(scan: Pixels, tmp_path: Path) -> None:
    path = tmp_path / "slide.svs"
    write_svs(path, scan)
    with tifffile.TiffFile(path) as file:
        offset, size = file.pages[0].dataoffsets[6], file.pages[0].databytecounts[6]
    data = bytearray(path.read_bytes())
    rest = size - size // 2
    data[offset + size // 2 : offset + size] = b"\xff\xd9".ljust(rest, b"\0")
    path.write_bytes(data)

    with open_whole_slide(path) as slide:
        assert slide is not None
        with pytest.raises(FrameRejected, match=r"tile 6: the JPEG is damaged"):
            slide.window(0, 0, 320, 200)


def test_a_slide_that_is_cut_short_is_refused(scan: Pixels, tmp_path: Path) -> None:
    path = tmp_path / "slide.tif"
    write_generic(path, scan)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])

    with open_whole_slide(path) as slide:
        assert slide is None  # its smaller copy is gone
    with pytest.raises(FrameRejected, match="damaged or cut short"):
        read_image(path)


def test_a_tile_that_says_to_be_larger_is_refused(scan: Pixels, tmp_path: Path) -> None:
    path = tmp_path / "slide.svs"
    write_svs(path, scan)
    data = path.read_bytes()
    size = b"\x00\x40\x00\x40\x03"  # height and width of a tile, and its components
    path.write_bytes(data.replace(size, b"\xff\x00\xff\x00\x03"))

    with pytest.raises(FrameRejected, match="65280x65280 px"), open_whole_slide(path):
        pass
