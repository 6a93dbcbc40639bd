"""A growing OME-Zarr is read by other programs at any moment, whenever power fails."""

from __future__ import annotations

import json
import os
import random
import shutil
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest

from edge.errors import FrameRejected
from edge.frames import Counts
from edge.recording.frame_encoding import FrameFileDamaged
from edge.recording.frame_files import delete
from edge.recording.ome_xml import OmeImage, OmePlane
from edge.recording.ome_zarr import (
    GrowingZarr,
    RealDisk,
    declared_frames,
    encode_frame,
    read_frames,
    repair,
)
from edge.settings.run import Compression
from tests.readers import by_tensorstore, by_zarr

NAME = "frames-00001.ome.zarr"


def frames(count: int, dtype: str = "uint8") -> list[Counts]:
    rng = np.random.default_rng(1)
    top = np.iinfo(dtype).max
    return [rng.integers(0, top, (21, 34, 3)).astype(dtype) for _ in range(count)]


def image(dtype: str = "uint8", um: float | None = 0.07) -> OmeImage:
    return OmeImage(
        name="a µ-slide",
        acquired=datetime(2026, 1, 1, tzinfo=timezone.utc),
        width_px=34,
        height_px=21,
        dtype=dtype,
        pixel_size_um=um,
        software="hemascope 0",
        attributes={"calibration_id": "5f" * 32, "odd": "<&µ>"},
    )


def planes(count: int) -> list[OmePlane]:
    return [OmePlane(n * 0.5, 4.0) for n in range(count)]


def add(
    growing: GrowingZarr, written: list[Counts], compression: Compression = "deflate"
) -> None:
    """Append the frames of `written` that `growing` does not have yet, at once."""
    done = len(read_frames(growing.path)) if growing.path.exists() else 0
    encoded = [
        (encode_frame(p, compression), b'{"n":%d}' % n) for n, p in enumerate(written)
    ][done:]
    growing.append(encoded, image(written[0].dtype.name), planes(len(written)))


def write(
    path: Path, written: list[Counts], compression: Compression = "deflate"
) -> GrowingZarr:
    growing = GrowingZarr(path)
    for end in range(1, len(written) + 1):
        add(growing, written[:end], compression)
    return growing


def ours(path: Path) -> list[Counts]:
    return [frame.read() for frame in read_frames(path)]


@pytest.mark.parametrize(
    ("dtype", "compression"),
    [("uint8", "none"), ("uint8", "deflate"), ("uint16", "deflate")],
)
def test_two_other_readers_see_every_frame_as_it_came(
    tmp_path: Path, dtype: str, compression: Compression
) -> None:
    written, path = frames(5, dtype), tmp_path / NAME

    write(path, written, compression)

    np.testing.assert_array_equal(ours(path), written)
    np.testing.assert_array_equal(by_zarr(path), written)
    np.testing.assert_array_equal(by_tensorstore(path), written)


def test_it_describes_itself_as_ome_zarr_with_size_time_and_origin(
    tmp_path: Path,
) -> None:
    write(tmp_path / NAME, frames(3))
    zarr, models = (
        pytest.importorskip(name) for name in ("zarr", "ome_zarr_models.v05")
    )

    group = zarr.open_group(tmp_path / NAME, mode="r")
    (multiscale,) = models.Image.from_zarr(group).ome_attributes.multiscales
    attributes = group["0"].attrs["hemascope"]

    assert [(axis.name, axis.unit) for axis in multiscale.axes] == [
        ("t", None),
        ("c", None),
        ("y", "micrometer"),
        ("x", "micrometer"),
    ]
    (scale,) = multiscale.datasets[0].coordinateTransformations
    assert scale.scale == [1, 1, 0.07, 0.07]
    assert [frame["delta_t_s"] for frame in attributes["frames"]] == [0.0, 0.5, 1.0]
    assert {frame["exposure_ms"] for frame in attributes["frames"]} == {4.0}
    assert [frame["frame"]["n"] for frame in attributes["frames"]] == [0, 1, 2]
    assert (attributes["calibration_id"], attributes["odd"]) == ("5f" * 32, "<&µ>")
    assert attributes["acquired"] == "2026-01-01T00:00:00Z"


def test_a_pixel_size_that_becomes_known_later_is_written_then(tmp_path: Path) -> None:
    growing, (first, second) = GrowingZarr(tmp_path / NAME), frames(2)
    growing.append([(encode_frame(first, "none"), b"{}")], image(um=None), planes(1))
    head = growing.path / "zarr.json"
    assert "micrometer" not in head.read_text()

    growing.append([(encode_frame(second, "none"), b"{}")], image(um=0.07), planes(2))

    assert "0.07" in head.read_text()
    size = sum(p.stat().st_size for p in growing.path.rglob("*") if p.is_file())
    assert growing.size == size


@pytest.mark.parametrize("rest", [None, b"", b"{}"])
def test_a_folder_whose_own_description_is_lost_is_described_again(
    tmp_path: Path, rest: bytes | None
) -> None:
    written, path = frames(2), tmp_path / NAME
    write(path, written)
    head = (path / "zarr.json").read_bytes()
    (path / "zarr.json").unlink()
    if rest is not None:
        (path / "zarr.json").write_bytes(rest)
    assert (declared_frames(path), len(read_frames(path))) == (0, 2)

    repair(read_frames(path), image())

    assert (declared_frames(path), (path / "zarr.json").read_bytes()) == (2, head)
    np.testing.assert_array_equal(by_zarr(path), written)


@dataclass
class LoggedDisk:
    """A disk that logs what was done to it, and can lose power."""

    done: list[tuple[str, Path, Path | bytes]] = field(default_factory=list)

    def write(self, path: Path, data: bytes) -> None:
        self.done.append(("write", path, data))

    def rename(self, old: Path, new: Path) -> None:
        self.done.append(("rename", old, new))

    def sync_folder(self, folder: Path) -> None:
        self.done.append(("sync_folder", folder, b""))

    def after_power_cut(self, at: int, rng: random.Random) -> dict[Path, bytes]:
        """Return what is on the disk when power fails during step `at`.

        Names that were not synced are there or not. Of the file that was being
        written, a part is there.
        """
        logical: dict[Path, bytes] = {}
        disk: dict[Path, bytes] = {}
        for number, (what, path, other) in enumerate(self.done[: at + 1]):
            is_synced = any(
                later == "sync_folder" and folder == path.parent
                for later, folder, _ in self.done[number:at]
            )
            is_there = is_synced or rng.random() < 0.5
            if what == "write":
                assert isinstance(other, bytes)
                is_whole = number < at
                data = other if is_whole else other[: rng.randrange(len(other) + 1)]
                logical[path] = data
                if is_there:
                    disk[path] = data
            elif what == "rename" and number < at:
                assert isinstance(other, Path)
                _move(logical, logical, path, other)
                if is_there:
                    _move(disk, logical, path, other)
        return disk


def _move(
    disk: dict[Path, bytes], logical: dict[Path, bytes], old: Path, new: Path
) -> None:
    """Rename a folder, or a file, whose bytes are there whatever became of its name."""
    if new in logical and disk is not logical:
        disk[new] = logical[new]
        disk.pop(old, None)
    for path in list(disk):
        if path == old or old in path.parents:
            disk[new / path.relative_to(old) if path != old else new] = disk.pop(path)


def _put_on(folder: Path, disk: dict[Path, bytes]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for path, data in disk.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _logged(
    path: Path, written: list[Counts]
) -> tuple[LoggedDisk, list[int], list[int]]:
    """Write batches; return the log, and after which step how many frames are whole."""
    path.parent.mkdir()
    log, steps, done = LoggedDisk(), [0], [0]
    growing = GrowingZarr(path, log)
    for count in (1, 1, 3, 1, 2):
        begin, end = done[-1], done[-1] + count
        encoded = [(encode_frame(p, "deflate"), b"{}") for p in written[begin:end]]
        growing.append(encoded, image(), planes(end))
        steps.append(len(log.done))
        done.append(end)
    return log, steps, done


def test_after_a_power_cut_others_read_all_frames_but_those_being_written(
    tmp_path: Path,
) -> None:
    written, path = frames(8), tmp_path / "disk" / NAME
    log, steps, done = _logged(path, written)
    rng = random.Random(5)  # noqa: S311

    for at in range(len(log.done)):
        whole = sum(step <= at for step in steps) - 1
        for _ in range(5):
            _put_on(tmp_path / "disk", log.after_power_cut(at, rng))
            if not (path / "zarr.json").exists():
                assert whole == 0
                continue
            seen = by_zarr(path)

            assert len(seen) in done[whole : whole + 2]
            np.testing.assert_array_equal(seen, written[: len(seen)])
            np.testing.assert_array_equal(ours(path), seen)


def test_the_same_power_cut_harms_a_folder_that_is_written_in_one_go(
    tmp_path: Path,
) -> None:
    """The control: where nothing is synced, others read what was never written."""
    written, path = frames(8), tmp_path / "disk" / NAME
    log, _, _ = _logged(path, written)
    log.done = [step for step in log.done if step[0] != "sync_folder"]
    rng, harmed = random.Random(5), 0  # noqa: S311

    for _ in range(20):
        _put_on(tmp_path / "disk", log.after_power_cut(len(log.done) - 1, rng))
        harmed += not _is_whole(path, written)

    assert harmed >= 10


def _is_whole(path: Path, written: list[Counts]) -> bool:
    zarr = pytest.importorskip("zarr")
    try:
        seen = by_zarr(path)
    except (zarr.errors.BaseZarrError, FileNotFoundError, KeyError, ValueError):
        return False
    return np.array_equal(seen, written[: len(seen)])


def test_a_repaired_folder_ends_before_the_first_damaged_chunk(tmp_path: Path) -> None:
    written, path = frames(5), tmp_path / NAME
    write(path, written)
    os.truncate(path / "0" / "c.3.0.0.0", 40)
    (path / "0" / "zarr.new").write_bytes(b"half")
    assert (declared_frames(path), len(read_frames(path))) == (5, 3)

    repair(read_frames(path), image())

    np.testing.assert_array_equal(by_zarr(path), written[:3])
    rest = sorted(file.name for file in (path / "0").iterdir())
    assert rest == ["c.0.0.0.0", "c.1.0.0.0", "c.2.0.0.0", "zarr.json"]


def test_a_deleted_folder_loses_its_name_before_its_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / NAME, frames(3))
    synced: list[set[str]] = []

    def sync(fd: int) -> None:
        folder = Path(f"/proc/self/fd/{fd}").readlink()
        synced.append({str(file.relative_to(folder)) for file in folder.rglob("c.*")})

    monkeypatch.setattr(os, "fsync", sync)

    delete(tmp_path / NAME)

    assert synced == [{f"frames-00001.ome.gone/0/c.{n}.0.0.0" for n in range(3)}]
    assert not list(tmp_path.iterdir())


class _FullDisk(RealDisk):
    """Takes so many files, and half of the next one."""

    def __init__(self, files: int) -> None:
        self.files = files

    def write(self, path: Path, data: bytes) -> None:
        self.files -= 1
        if self.files < 0:
            super().write(path, data[: len(data) // 2])
            raise OSError(28, "No space rest on device")
        super().write(path, data)


@pytest.mark.parametrize("files", range(7))
def test_a_full_disk_leaves_what_was_there_and_nothing_else(
    tmp_path: Path, files: int
) -> None:
    written, path = frames(3), tmp_path / NAME
    growing = GrowingZarr(path, _FullDisk(files))
    kept = 0 if files < 3 else 1 if files < 6 else 3

    for end in (1, 3):
        if end <= kept:
            add(growing, written[:end])
    with pytest.raises(OSError, match="No space"):
        add(growing, [*written, *written][: {0: 1, 1: 3, 3: 5}[kept]])
    growing.abandon()

    if not kept:
        assert not list(tmp_path.iterdir())
        return
    np.testing.assert_array_equal(by_zarr(path), written[:kept])
    assert growing.size == sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


class _FailingSync(RealDisk):
    """Syncs so many folders, and fails at the next one."""

    def __init__(self, syncs: int) -> None:
        self.syncs = syncs

    def sync_folder(self, folder: Path) -> None:
        self.syncs -= 1
        if self.syncs == -1:
            raise OSError(5, "Input/output error")
        super().sync_folder(folder)


@pytest.mark.parametrize("syncs", range(7))
def test_frames_that_were_counted_and_not_synced_are_removed(
    tmp_path: Path, syncs: int
) -> None:
    """They are reported as missing, so they must not be there."""
    written, path = frames(3), tmp_path / NAME
    growing = GrowingZarr(path, _FailingSync(syncs))
    if syncs >= 5:
        add(growing, written[:1])

    with pytest.raises(OSError, match="Input/output"):
        add(growing, written)
    growing.abandon()

    if syncs < 5:
        assert not list(tmp_path.iterdir())
        return
    np.testing.assert_array_equal(by_zarr(path), written[:1])
    np.testing.assert_array_equal(ours(path), written[:1])
    assert growing.size == sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def test_a_frame_with_a_flipped_bit_is_rejected(tmp_path: Path) -> None:
    write(tmp_path / NAME, frames(2))
    first, second = read_frames(tmp_path / NAME)
    data = bytearray(second.chunk.read_bytes())
    data[len(data) // 2] ^= 1
    second.chunk.write_bytes(data)

    assert first.read() is not None
    with pytest.raises(FrameRejected, match=r"not what was written"):
        second.read()
    second.chunk.unlink()
    with pytest.raises(FrameRejected, match=r"was it deleted"):
        second.read()


@pytest.mark.parametrize(
    "attributes",
    [
        None,
        b"",
        b"[1]",
        b'{"zarr_format": 2}',
        json.dumps({"zarr_format": 3, "shape": [1, 3, 5, 5]}).encode(),
    ],
)
def test_a_folder_that_is_not_a_recording_is_refused(
    tmp_path: Path, attributes: bytes | None
) -> None:
    (tmp_path / "0").mkdir()
    if attributes is not None:
        (tmp_path / "0" / "zarr.json").write_bytes(attributes)

    with pytest.raises(FrameFileDamaged, match=r"no whole frame"):
        read_frames(tmp_path)
