"""`replay` does not end with 0 where frames are missing; hostile files are one line."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge.errors import FrameRejected
from edge.recording.format import ROWS, MissingFrames, open_recording
from edge.recording.frame_encoding import FrameFileDamaged
from edge.recording.frame_files import read_frames
from edge.replay.completeness import missing_in
from edge.schema.codec import encode

ROOT = Path(__file__).parents[3]
Damage = Callable[[Path], object]


def hemascope(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edge", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=120,
    )


def record(folder: Path, kind: str, every: int = 1) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "device.toml").write_text(
        'device = "scope-01"\n[source]\nkind = "simulated"\nwidth_px = 320\n'
        "height_px = 240\nrate_hz = 0\n"
        '[ledger]\nfolder = "ledger"\n[location]\nmode = "whole-field"\n'
        f'[recording]\nfolder = "recordings"\nformat = "{kind}"\nevery = {every}\n'
    )
    done = hemascope("run", "--config", folder / "device.toml", "--frames", "6")
    assert done.returncode == 0, done.stderr
    return next((folder / "recordings").glob("*/recording.json")).parent


@pytest.fixture(scope="module")
def tiff(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("tiff"), "ome-tiff")


@pytest.fixture(scope="module")
def zarr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("zarr"), "ome-zarr")


def copy_of(recording: Path, folder: Path) -> Path:
    copied: Path = shutil.copytree(recording.parents[1], folder / "copy")
    return copied / "recordings" / recording.name


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def cut_tiff(folder: Path) -> None:
    cut(folder / "frames-00001.ome.tif")


def drop_tiff(folder: Path) -> None:
    (folder / "frames-00001.ome.tif").unlink()


def rename_tiff(folder: Path) -> None:
    old = folder / "frames-00001.ome.tif"
    old.rename(folder / "frames-00002.ome.tif")


def flip_tiff(folder: Path) -> None:
    path = folder / "frames-00001.ome.tif"
    frame = read_frames(path)[2]
    data = bytearray(path.read_bytes())
    data[frame.offset + 10] ^= 1  # type: ignore[attr-defined]
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (cut_tiff, "declares others"),
        (drop_tiff, "holds no frame"),
        (rename_tiff, "files are not there: frames-00001"),
        (flip_tiff, "CRC-32"),
    ],
)
def test_a_replay_of_a_damaged_recording_does_not_end_well(
    tiff: Path, tmp_path: Path, damage: Damage, says: str
) -> None:
    recording = copy_of(tiff, tmp_path)
    damage(recording)

    done = hemascope("replay", recording)

    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_whole_recording_ends_well_and_a_shortened_one_does_not(
    tiff: Path, tmp_path: Path
) -> None:
    recording = copy_of(tiff, tmp_path)
    ledger = recording.parents[1] / "ledger"

    assert hemascope("replay", recording, "--compare", ledger).returncode == 0

    cut_tiff(recording)
    hemascope("record", "repair", recording)
    assert hemascope("replay", recording).returncode == 0  # nothing tells of them
    done = hemascope("replay", recording, "--compare", ledger)
    assert done.returncode == 1
    assert "the recording ends before" in done.stdout


def test_frames_left_out_on_purpose_are_not_missing(tmp_path: Path) -> None:
    recording = record(tmp_path / "every", "ome-tiff", every=2)

    done = hemascope("replay", recording, "--compare", tmp_path / "every" / "ledger")

    assert "one of 2 frames is recorded" in done.stdout
    assert done.returncode == 0, done.stderr


def test_a_line_on_frames_that_were_lost_counts_as_missing(
    tiff: Path, tmp_path: Path
) -> None:
    opened = open_recording(copy_of(tiff, tmp_path))
    frame = opened.items()[-1].item
    assert not missing_in(opened, opened.items())
    lost = MissingFrames(
        seq=frame.seq + 1,
        last_seq=10**15,
        count=3,
        first=100,
        last=102,
        monotonic_ns=1,
        utc=opened.head.began,
        reason="the disk is full",
    )
    with (opened.folder / ROWS).open("ab") as file:
        file.write(encode(lost) + b"\n")

    start_s = time.monotonic()
    (line,) = missing_in(opened, opened.items())

    assert "3 frames are missing: the disk is full" in line
    assert time.monotonic() - start_s < 2


def change_array(folder: Path, **changes: object) -> Path:
    path = folder / "frames-00001.ome.zarr"
    array = json.loads((path / "0" / "zarr.json").read_text())
    array.update(changes)
    (path / "0" / "zarr.json").write_text(json.dumps(array))
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": [6, 3, 10**6, 10**6]},
        {"shape": [6, 3, 0, 320]},
        {"shape": [6, 3, -1, 320]},
        {"shape": [6, 1, 240, 320]},
        {"shape": [10**12, 3, 240, 320]},
        {"codecs": []},
        {"codecs": [{"name": "blosc", "configuration": {}}]},
    ],
)
def test_a_hostile_zarr_is_refused(
    zarr: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    recording = copy_of(zarr, tmp_path)
    path = change_array(recording, **changes)

    with pytest.raises(FrameFileDamaged):
        read_frames(path)


def test_a_zarr_of_another_shape_than_its_chunks_is_rejected_frame_by_frame(
    zarr: Path, tmp_path: Path
) -> None:
    recording = copy_of(zarr, tmp_path)
    path = change_array(recording, shape=[6, 3, 4000, 4000])

    with pytest.raises(FrameRejected, match="of its shape"):
        read_frames(path)[0].read()
    done = hemascope("replay", recording)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_a_chunk_that_unpacks_to_much_more_is_not_unpacked(
    zarr: Path, tmp_path: Path
) -> None:
    path = copy_of(zarr, tmp_path) / "frames-00001.ome.zarr"
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(300))
    bomb += packer.flush()
    (path / "0" / "c.0.0.0.0").write_bytes(bomb)
    array = json.loads((path / "0" / "zarr.json").read_text())
    first = array["attributes"]["hemascope"]["frames"][0]
    first.update(bytes=len(bomb), crc32=zlib.crc32(bomb))
    (path / "0" / "zarr.json").write_text(json.dumps(array))

    with pytest.raises(FrameRejected, match="of its shape"):
        read_frames(path)[0].read()


def tag_at(data: bytes, number: int) -> int:
    """Return where the first IFD has the value of a tag."""
    at = struct.unpack_from("<L", data, 4)[0]
    count = struct.unpack_from("<H", data, at)[0]
    entries = [at + 2 + 12 * n for n in range(count)]
    entry = next(e for e in entries if struct.unpack_from("<H", data, e)[0] == number)
    return entry + 8


@pytest.mark.parametrize(
    ("tag", "back", "value"),
    [
        (257, 0, 10**6),  # height
        (277, 0, 1),  # samples
        (279, 0, 2**32 - 1),  # bytes of the strip
        (65001, 4, 2**32 - 1),  # length of the metadata
    ],
)
def test_a_hostile_tiff_is_refused_without_room_for_what_it_says(
    tiff: Path, tmp_path: Path, tag: int, back: int, value: int
) -> None:
    path = copy_of(tiff, tmp_path) / "frames-00001.ome.tif"
    data = bytearray(path.read_bytes())
    at = tag_at(bytes(data), tag) - back
    width = "<H" if tag == 277 else "<L"
    struct.pack_into(width, data, at, value)
    path.write_bytes(data)

    with pytest.raises(FrameFileDamaged):
        read_frames(path)


def test_a_tiff_whose_chain_leads_back_ends(tiff: Path, tmp_path: Path) -> None:
    path = copy_of(tiff, tmp_path) / "frames-00001.ome.tif"
    data = bytearray(path.read_bytes())
    frames = read_frames(path)
    first = struct.unpack_from("<L", data, 4)[0]
    struct.pack_into("<L", data, frames[-1].link_at, first)  # type: ignore[attr-defined]
    path.write_bytes(data)

    assert len(read_frames(path)) == len(frames)


def test_a_tiff_of_another_shape_than_its_data_is_rejected(
    tiff: Path, tmp_path: Path
) -> None:
    path = copy_of(tiff, tmp_path) / "frames-00001.ome.tif"
    data = bytearray(path.read_bytes())
    struct.pack_into("<L", data, tag_at(bytes(data), 257), 3000)
    path.write_bytes(data)

    with pytest.raises(FrameRejected, match="of its shape"):
        read_frames(path)[0].read()
    assert isinstance(read_frames(path)[1].read(), np.ndarray)
