"""A growing OME-TIFF is read by other programs at any moment, whenever power fails."""

from __future__ import annotations

import io
import itertools
import random
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from edge.errors import FrameRejected
from edge.frames import Counts
from edge.recording.frame_encoding import FrameFileDamaged
from edge.recording.ome_tiff import (
    DiskFile,
    GrowingTiff,
    description_of,
    encode_frame,
    read_frames,
    repair,
)
from edge.recording.ome_xml import OmeImage, OmePlane, ome_xml
from edge.settings.run import Compression

SECTOR = 512


def frames(count: int, dtype: str = "uint8") -> list[Counts]:
    rng = np.random.default_rng(1)
    top = np.iinfo(dtype).max
    return [rng.integers(0, top, (21, 34, 3)).astype(dtype) for _ in range(count)]


def description(count: int, dtype: str = "uint8") -> bytes:
    image = OmeImage(
        name="a µ-slide",
        acquired=datetime(2026, 1, 1, tzinfo=timezone.utc),
        width_px=34,
        height_px=21,
        dtype=dtype,
        pixel_size_um=0.07,
        software="hemascope 0",
        attributes={"calibration_id": "5f" * 32, "odd": "<&µ>"},
    )
    return ome_xml(image, [OmePlane(n * 0.5, 4.0) for n in range(count)])


def write(
    tiff: GrowingTiff, written: list[Counts], compression: Compression = "deflate"
) -> None:
    for number, pixels in enumerate(written):
        text = description(number + 1, pixels.dtype.name)
        tiff.append(
            [(encode_frame(pixels, compression), b"note %d" % number)], text, 0.07
        )


def read_by_tifffile(path: Path) -> NDArray[np.generic]:
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_ome
        series = tiff.series[0]
        return np.asarray(series.asarray()).reshape(-1, *series.shape[-3:])


def read_by_libtiff(path: Path) -> list[Counts]:
    """OpenCV's reader, in a process of its own: libtiff warns of tags not its own."""
    out = path.with_suffix(".npy")
    code = (
        "import cv2, sys, numpy; "
        "_, pages = cv2.imreadmulti(sys.argv[1], flags=cv2.IMREAD_UNCHANGED); "
        "numpy.save(sys.argv[2], numpy.stack(pages)[..., ::-1])"
    )
    command = [sys.executable, "-c", code, str(path), str(out)]
    subprocess.run(command, check=True, capture_output=True)
    return list(np.load(out))


@pytest.mark.parametrize(
    ("dtype", "compression"),
    [("uint8", "none"), ("uint8", "deflate"), ("uint16", "deflate")],
)
def test_two_other_readers_see_every_frame_as_it_came(
    tmp_path: Path, dtype: str, compression: Compression
) -> None:
    written, path = frames(5, dtype), tmp_path / "a.ome.tif"

    write(GrowingTiff(DiskFile(path)), written, compression)

    np.testing.assert_array_equal(read_by_tifffile(path), written)
    np.testing.assert_array_equal(read_by_libtiff(path), written)
    np.testing.assert_array_equal(
        [frame.read() for frame in read_frames(path)], written
    )


def test_it_describes_itself_in_ome_xml_with_size_time_and_origin(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.ome.tif"
    write(GrowingTiff(DiskFile(path)), frames(3))

    assert b"&#" not in (description_of(path) or b"")  # Bio-Formats refuses those
    with tifffile.TiffFile(path) as tiff:
        text = tiff.ome_metadata
        resolution = tiff.pages[0].tags["XResolution"].value
        axes, shape = tiff.series[0].axes, tiff.series[0].shape

    assert text is not None
    root = ElementTree.fromstring(text)  # noqa: S314 our own
    name = {"o": "http://www.openmicroscopy.org/Schemas/OME/2016-06"}
    pixels = root.find(".//o:Pixels", name)
    assert pixels is not None
    assert pixels.get("PhysicalSizeX") == "0.07"
    assert pixels.get("PhysicalSizeXUnit") == "µm"
    planes = pixels.findall("o:Plane", name)
    assert [plane.get("DeltaT") for plane in planes] == ["0.0", "0.5", "1.0"]
    assert {plane.get("ExposureTime") for plane in planes} == {"4.0"}
    attributes = {m.get("K"): m.text for m in root.iterfind(".//o:M", name)}
    assert attributes == {"calibration_id": "5f" * 32, "odd": "<&µ>"}
    assert (axes, shape) == ("TYXS", (3, 21, 34, 3))
    assert resolution[0] / resolution[1] == pytest.approx(1e4 / 0.07)


@dataclass
class LoggedFile:
    """A file that remembers what was written between one `sync` and the next."""

    rounds: list[list[tuple[bytes, int]]] = field(default_factory=lambda: [[]])

    def pwrite(self, data: bytes, offset: int) -> None:
        self.rounds[-1].append((data, offset))

    def sync(self) -> None:
        self.rounds.append([])

    def after_power_cut(self, synced: int, rng: random.Random) -> bytes:
        """What is on the disk: all that was synced, and some sectors of the rest."""
        disk = bytearray()
        for data, offset in itertools.chain.from_iterable(self.rounds[:synced]):
            _put(disk, data, offset)
        before = bytes(disk)
        for data, offset in self.rounds[synced]:
            _put(disk, data, offset)
        for start in range(0, len(disk), SECTOR):
            if rng.random() < 0.5:
                old = before[start : start + SECTOR]
                old += bytes(min(SECTOR, len(disk) - start) - len(old))
                disk[start : start + SECTOR] = old
        keeps_size = rng.random() < 0.5
        return bytes(disk[: max(len(before), len(disk) if keeps_size else 0)])


def _put(disk: bytearray, data: bytes, offset: int) -> None:
    disk.extend(bytes(max(0, offset + len(data) - len(disk))))
    disk[offset : offset + len(data)] = data


def test_after_a_power_cut_others_read_all_frames_but_those_being_written(
    tmp_path: Path,
) -> None:
    written, log, path = frames(8), LoggedFile(), tmp_path / "a.ome.tif"
    tiff, ends, done = GrowingTiff(log), [0], [0]
    for count in (1, 1, 3, 1, 2):
        begin, end = done[-1], done[-1] + count
        encoded = [
            (encode_frame(pixels, "deflate"), b"note") for pixels in written[begin:end]
        ]
        tiff.append(encoded, description(end))
        ends.append(len(log.rounds) - 1)
        done.append(end)
    rng = random.Random(5)  # noqa: S311

    for synced in range(1, ends[-1] + 1):
        whole = sum(end <= synced for end in ends) - 1
        for _ in range(5):
            path.write_bytes(log.after_power_cut(synced, rng))
            seen = read_by_tifffile(path)

            assert len(seen) in done[whole : whole + 2]
            np.testing.assert_array_equal(seen, written[: len(seen)])
            ours = [frame.read() for frame in read_frames(path)]
            np.testing.assert_array_equal(ours, written[: len(ours)])
            assert len(ours) >= len(seen)


def test_the_same_power_cut_harms_a_file_that_is_written_in_one_go() -> None:
    """The control: without the order, what others read is not what was written."""
    written, log = frames(6), LoggedFile()
    tiff = GrowingTiff(log)
    log.sync = lambda: None  # type: ignore[method-assign]
    write(tiff, written)
    rng, harmed = random.Random(5), 0  # noqa: S311

    for _ in range(20):
        log.rounds = [[], log.rounds[-1]]
        disk = log.after_power_cut(1, rng)
        harmed += not _is_whole(disk, written)

    assert harmed >= 10


def _is_whole(disk: bytes, written: list[Counts]) -> bool:
    try:
        with tifffile.TiffFile(io.BytesIO(disk)) as tiff:
            seen = tiff.series[0].asarray().reshape(-1, 21, 34, 3)
    except Exception:  # noqa: BLE001 whatever a torn file makes of a reader
        return False
    return len(seen) > 0 and np.array_equal(seen, written[: len(seen)])


def test_a_file_cut_anywhere_gives_its_whole_frames_and_is_repaired(
    tmp_path: Path,
) -> None:
    written, path = frames(5), tmp_path / "a.ome.tif"
    write(GrowingTiff(DiskFile(path)), written)
    data = path.read_bytes()
    begins = [frame.offset for frame in read_frames(path)][
        1:
    ]  # and the one before ends
    rng = random.Random(2)  # noqa: S311

    for cut in sorted(rng.sample(range(begins[0], len(data)), 30)):
        path.write_bytes(data[:cut])
        stored = read_frames(path)
        repair(stored, description(len(stored)))

        assert len(stored) - sum(begin <= cut for begin in begins) in (0, 1)
        np.testing.assert_array_equal(read_by_tifffile(path), written[: len(stored)])
        assert description_of(path) == description(len(stored))


def test_a_frame_with_a_flipped_bit_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    write(GrowingTiff(DiskFile(path)), frames(2))
    second = read_frames(path)[1]
    data = bytearray(path.read_bytes())
    data[second.offset + second.size // 2] ^= 1
    path.write_bytes(data)

    assert read_frames(path)[0].read() is not None
    with pytest.raises(FrameRejected, match=r"not what was written"):
        second.read()


@pytest.mark.parametrize("data", [b"", b"II*\0", b"\xff\xd8 a picture", bytes(99)])
def test_a_file_that_is_not_a_recording_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.ome.tif"
    path.write_bytes(data)

    with pytest.raises(FrameFileDamaged, match=r"no whole frame"):
        read_frames(path)


def test_bytes_changed_in_place_never_cross_a_sector(tmp_path: Path) -> None:
    log = LoggedFile()
    write(GrowingTiff(log), frames(30))

    end = 0
    for data, offset in itertools.chain.from_iterable(log.rounds):
        if 0 < offset < end:
            assert offset // SECTOR == (offset + len(data) - 1) // SECTOR
        end = max(end, offset + len(data))
