"""OME-Zarr that grows: read by others at any moment, whenever power fails."""

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
from edge.recording.ome_xml import Image, Plane
from edge.recording.ome_zarr import (
    GrowingZarr,
    RealDisk,
    claimed,
    mend,
    pack,
    read_pages,
)
from edge.settings.run import Compression
from tests.readers import by_tensorstore, by_zarr

NAME = "frames-00001.ome.zarr"


def frames(count: int, kind: str = "uint8") -> list[Counts]:
    rng = np.random.default_rng(1)
    top = np.iinfo(kind).max
    return [rng.integers(0, top, (21, 34, 3)).astype(kind) for _ in range(count)]


def image(kind: str = "uint8", um: float | None = 0.07) -> Image:
    return Image(
        name="a µ-slide",
        acquired=datetime(2026, 1, 1, tzinfo=timezone.utc),
        width_px=34,
        height_px=21,
        kind=kind,
        pixel_size_um=um,
        software="hemascope 0",
        attributes={"calibration_id": "5f" * 32, "odd": "<&µ>"},
    )


def planes(count: int) -> list[Plane]:
    return [Plane(n * 0.5, 4.0) for n in range(count)]


def add(roll: GrowingZarr, shown: list[Counts], how: Compression = "deflate") -> None:
    """Append what `roll` lacks of `shown`, at once."""
    done = len(read_pages(roll.path)) if roll.path.exists() else 0
    packed = [(pack(p, how), b'{"n":%d}' % n) for n, p in enumerate(shown)][done:]
    roll.append(packed, image(shown[0].dtype.name), planes(len(shown)))


def write(path: Path, shown: list[Counts], how: Compression = "deflate") -> GrowingZarr:
    roll = GrowingZarr(path)
    for end in range(1, len(shown) + 1):
        add(roll, shown[:end], how)
    return roll


def ours(path: Path) -> list[Counts]:
    return [page.read() for page in read_pages(path)]


@pytest.mark.parametrize(
    ("kind", "how"), [("uint8", "none"), ("uint8", "deflate"), ("uint16", "deflate")]
)
def test_two_other_readers_see_every_frame_as_it_came(
    tmp_path: Path, kind: str, how: Compression
) -> None:
    shown, path = frames(5, kind), tmp_path / NAME

    write(path, shown, how)

    np.testing.assert_array_equal(ours(path), shown)
    np.testing.assert_array_equal(by_zarr(path), shown)
    np.testing.assert_array_equal(by_tensorstore(path), shown)


def test_what_it_says_is_ome_zarr_with_size_time_and_origin(tmp_path: Path) -> None:
    write(tmp_path / NAME, frames(3))
    zarr, models = (
        pytest.importorskip(name) for name in ("zarr", "ome_zarr_models.v05")
    )

    group = zarr.open_group(tmp_path / NAME, mode="r")
    (shown,) = models.Image.from_zarr(group).ome_attributes.multiscales
    attributes = group["0"].attrs["hemascope"]

    assert [(axis.name, axis.unit) for axis in shown.axes] == [
        ("t", None),
        ("c", None),
        ("y", "micrometer"),
        ("x", "micrometer"),
    ]
    (scale,) = shown.datasets[0].coordinateTransformations
    assert scale.scale == [1, 1, 0.07, 0.07]
    assert [frame["delta_t_s"] for frame in attributes["frames"]] == [0.0, 0.5, 1.0]
    assert {frame["exposure_ms"] for frame in attributes["frames"]} == {4.0}
    assert [frame["frame"]["n"] for frame in attributes["frames"]] == [0, 1, 2]
    assert (attributes["calibration_id"], attributes["odd"]) == ("5f" * 32, "<&µ>")
    assert attributes["acquired"] == "2026-01-01T00:00:00Z"


def test_a_pixel_size_that_is_known_later_is_said_then(tmp_path: Path) -> None:
    roll, (first, second) = GrowingZarr(tmp_path / NAME), frames(2)
    roll.append([(pack(first, "none"), b"{}")], image(um=None), planes(1))
    head = roll.path / "zarr.json"
    assert "micrometer" not in head.read_text()

    roll.append([(pack(second, "none"), b"{}")], image(um=0.07), planes(2))

    assert "0.07" in head.read_text()
    size = sum(p.stat().st_size for p in roll.path.rglob("*") if p.is_file())
    assert roll.size == size


@pytest.mark.parametrize("left", [None, b"", b"{}"])
def test_a_folder_whose_own_description_is_lost_is_described_again(
    tmp_path: Path, left: bytes | None
) -> None:
    shown, path = frames(2), tmp_path / NAME
    write(path, shown)
    head = (path / "zarr.json").read_bytes()
    (path / "zarr.json").unlink()
    if left is not None:
        (path / "zarr.json").write_bytes(left)
    assert (claimed(path), len(read_pages(path))) == (0, 2)

    mend(read_pages(path), image())

    assert (claimed(path), (path / "zarr.json").read_bytes()) == (2, head)
    np.testing.assert_array_equal(by_zarr(path), shown)


@dataclass
class Log:
    """A disk that remembers what was done to it, and can lose power."""

    done: list[tuple[str, Path, Path | bytes]] = field(default_factory=list)

    def put(self, path: Path, data: bytes) -> None:
        self.done.append(("put", path, data))

    def rename(self, old: Path, new: Path) -> None:
        self.done.append(("rename", old, new))

    def settle(self, folder: Path) -> None:
        self.done.append(("settle", folder, b""))

    def after_power_cut(self, at: int, rng: random.Random) -> dict[Path, bytes]:
        """What is on the disk when step `at` was begun.

        Names that were not settled are there or not; of the file that was just being
        written there is a part.
        """
        logical: dict[Path, bytes] = {}
        disk: dict[Path, bytes] = {}
        for number, (what, path, other) in enumerate(self.done[: at + 1]):
            is_sure = any(
                later == "settle" and folder == path.parent
                for later, folder, _ in self.done[number:at]
            )
            is_there = is_sure or rng.random() < 0.5
            if what == "put":
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
    """Rename a file, which was there whatever became of its name, or a folder."""
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


def _logged(path: Path, shown: list[Counts]) -> tuple[Log, list[int], list[int]]:
    """Write batches; return what was done, and frames by the step after which."""
    path.parent.mkdir()
    log, steps, done = Log(), [0], [0]
    roll = GrowingZarr(path, log)
    for count in (1, 1, 3, 1, 2):
        begin, end = done[-1], done[-1] + count
        packed = [(pack(p, "deflate"), b"{}") for p in shown[begin:end]]
        roll.append(packed, image(), planes(end))
        steps.append(len(log.done))
        done.append(end)
    return log, steps, done


def test_whenever_power_fails_others_read_all_frames_but_those_in_work(
    tmp_path: Path,
) -> None:
    shown, path = frames(8), tmp_path / "disk" / NAME
    log, steps, done = _logged(path, shown)
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
            np.testing.assert_array_equal(seen, shown[: len(seen)])
            np.testing.assert_array_equal(ours(path), seen)


def test_the_same_power_cut_harms_a_folder_that_is_written_in_one_go(
    tmp_path: Path,
) -> None:
    """The control: where nothing is settled, others read what was never written."""
    shown, path = frames(8), tmp_path / "disk" / NAME
    log, _, _ = _logged(path, shown)
    log.done = [step for step in log.done if step[0] != "settle"]
    rng, harmed = random.Random(5), 0  # noqa: S311

    for _ in range(20):
        _put_on(tmp_path / "disk", log.after_power_cut(len(log.done) - 1, rng))
        harmed += not _is_whole(path, shown)

    assert harmed >= 10


def _is_whole(path: Path, shown: list[Counts]) -> bool:
    zarr = pytest.importorskip("zarr")
    try:
        seen = by_zarr(path)
    except (zarr.errors.BaseZarrError, FileNotFoundError, KeyError, ValueError):
        return False
    return np.array_equal(seen, shown[: len(seen)])


def test_what_is_missing_or_cut_ends_a_folder_that_is_mended(tmp_path: Path) -> None:
    shown, path = frames(5), tmp_path / NAME
    write(path, shown)
    os.truncate(path / "0" / "c.3.0.0.0", 40)
    (path / "0" / "zarr.new").write_bytes(b"half")
    assert (claimed(path), len(read_pages(path))) == (5, 3)

    mend(read_pages(path), image())

    np.testing.assert_array_equal(by_zarr(path), shown[:3])
    left = sorted(file.name for file in (path / "0").iterdir())
    assert left == ["c.0.0.0.0", "c.1.0.0.0", "c.2.0.0.0", "zarr.json"]


def test_the_name_of_a_roll_has_gone_from_the_disk_before_its_frames_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / NAME, frames(3))
    sure: list[set[str]] = []

    def settle(fd: int) -> None:
        folder = Path(f"/proc/self/fd/{fd}").readlink()
        sure.append({str(file.relative_to(folder)) for file in folder.rglob("c.*")})

    monkeypatch.setattr(os, "fsync", settle)

    delete(tmp_path / NAME)

    assert sure == [{f"frames-00001.ome.gone/0/c.{n}.0.0.0" for n in range(3)}]
    assert not list(tmp_path.iterdir())


class _FullDisk(RealDisk):
    """Takes so many files, and of the next one half."""

    def __init__(self, takes: int) -> None:
        self.takes = takes

    def put(self, path: Path, data: bytes) -> None:
        self.takes -= 1
        if self.takes < 0:
            super().put(path, data[: len(data) // 2])
            raise OSError(28, "No space left on device")
        super().put(path, data)


@pytest.mark.parametrize("takes", range(7))
def test_a_full_disk_leaves_what_was_there_and_nothing_else(
    tmp_path: Path, takes: int
) -> None:
    shown, path = frames(3), tmp_path / NAME
    roll = GrowingZarr(path, _FullDisk(takes))
    kept = 0 if takes < 3 else 1 if takes < 6 else 3

    for end in (1, 3):
        if end <= kept:
            add(roll, shown[:end])
    with pytest.raises(OSError, match="No space"):
        add(roll, [*shown, *shown][: {0: 1, 1: 3, 3: 5}[kept]])
    roll.abandon()

    if not kept:
        assert not list(tmp_path.iterdir())
        return
    np.testing.assert_array_equal(by_zarr(path), shown[:kept])
    assert roll.size == sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


class _Unsettled(RealDisk):
    """Settles so many folders, and the next one not."""

    def __init__(self, settles: int) -> None:
        self.settles = settles

    def settle(self, folder: Path) -> None:
        self.settles -= 1
        if self.settles == -1:
            raise OSError(5, "Input/output error")
        super().settle(folder)


@pytest.mark.parametrize("settles", range(7))
def test_frames_that_were_counted_and_not_settled_are_given_back(
    tmp_path: Path, settles: int
) -> None:
    """They are said to lack, and so must not be there either."""
    shown, path = frames(3), tmp_path / NAME
    roll = GrowingZarr(path, _Unsettled(settles))
    if settles >= 5:
        add(roll, shown[:1])

    with pytest.raises(OSError, match="Input/output"):
        add(roll, shown)
    roll.abandon()

    if settles < 5:
        assert not list(tmp_path.iterdir())
        return
    np.testing.assert_array_equal(by_zarr(path), shown[:1])
    np.testing.assert_array_equal(ours(path), shown[:1])
    assert roll.size == sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def test_a_flipped_bit_is_no_frame(tmp_path: Path) -> None:
    write(tmp_path / NAME, frames(2))
    first, page = read_pages(tmp_path / NAME)
    data = bytearray(page.chunk.read_bytes())
    data[len(data) // 2] ^= 1
    page.chunk.write_bytes(data)

    assert first.read() is not None
    with pytest.raises(FrameRejected, match=r"not what was written"):
        page.read()
    page.chunk.unlink()
    with pytest.raises(FrameRejected, match=r"was it deleted"):
        page.read()


@pytest.mark.parametrize(
    "said",
    [
        None,
        b"",
        b"[1]",
        b'{"zarr_format": 2}',
        json.dumps({"zarr_format": 3, "shape": [1, 3, 5, 5]}).encode(),
    ],
)
def test_what_is_no_recording_is_refused(
    tmp_path: Path, attributes: bytes | None
) -> None:
    (tmp_path / "0").mkdir()
    if attributes is not None:
        (tmp_path / "0" / "zarr.json").write_bytes(attributes)

    with pytest.raises(FrameFileDamaged, match=r"no whole frame"):
        read_pages(tmp_path)
