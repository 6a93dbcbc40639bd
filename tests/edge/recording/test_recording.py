"""Recordings: what is recorded, what is missing, and what is deleted first or never."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tifffile
from click.testing import CliRunner

from edge.cli.recordings import record_command
from edge.clock import utc_now
from edge.errors import ConfigurationInvalid
from edge.frames import Counts, Exposure, Gap, RawFrame
from edge.ledger.cursor import LedgerBusy
from edge.pipeline.pipeline import ExaminedFrame
from edge.pipeline.pixel_size import PixelSize
from edge.recording.format import (
    ROWS,
    FailedFrame,
    Frame,
    GapLine,
    Head,
    Item,
    MissingFrames,
    Recording,
    RecordingDamaged,
    open_recording,
    recordings_in,
)
from edge.recording.frame_encoding import EncodedFrame
from edge.recording.recorder import Recorder
from edge.recording.retention import find, pin, unpin
from edge.recording.writer import NoRoom, RecordingWriter
from edge.schema.results import FrameRange
from edge.settings.run import RecordingSettings
from tests.conftest import frame_result, shot
from tests.readers import by_zarr

FORMAT = "ome-tiff"
UTC = datetime(2026, 1, 1, tzinfo=timezone.utc)
RUN = "20260101T000000Z-abcdef"


def head(name: str) -> Head:
    return Head(
        id=name,
        device="scope-01",
        epoch="e",
        first_row=1,
        began=utc_now(),
        began_ns=0,
        boot_id="b",
        was_live=True,
        every=1,
        model="inception@1",
        locator="locator@2",
        sequence=None,
        calibration_id="5f" * 32,
        software="0",
    )


def settings(folder: Path, **changes: object) -> RecordingSettings:
    fields: dict[str, object] = {"folder": folder, "least_free_gb": 0}
    fields |= {"compression": "none", "format": FORMAT}
    return RecordingSettings(**(fields | changes))  # type: ignore[arg-type]


@pytest.fixture(params=["ome-tiff", "ome-zarr"], autouse=True)
def file_format(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run each test with both formats."""
    monkeypatch.setattr(f"{__name__}.FORMAT", request.param)
    return str(request.param)


def start(folder: Path, **changes: object) -> RecordingWriter:
    return RecordingWriter(settings(folder, **changes), head, lambda into: None)


def pixels(number: int, side: int = 32) -> Counts:
    rng = np.random.default_rng(number)
    return rng.integers(0, 255, (side, side, 3)).astype(np.uint8)


def frame(seq: int, run: str | None = RUN) -> Frame:
    return Frame(seq=seq, run=run, shot=shot(seq), scale=PixelSize(0.08, "profile"))


def write_frame(writer: RecordingWriter, seq: int, side: int = 32) -> None:
    assert (
        writer.write_frames([(frame(seq), writer.encode_frame(pixels(seq, side)))]) == 1
    )


def read_by_others(path: Path) -> Counts:
    """Read a frame file with another program's reader: (T, H, W, 3)."""
    if path.is_file():
        seen = tifffile.imread(path)
        return np.asarray(seen.reshape(-1, *seen.shape[-3:]))
    return by_zarr(path)


def items(recording: Recording) -> list[Item]:
    return [recorded.item for recorded in recording.items()]


def frames_in(recording: Recording) -> list[int]:
    return [item.seq for item in items(recording) if isinstance(item, Frame)]


def test_everything_comes_back_in_order_and_as_it_was(tmp_path: Path) -> None:
    gap = GapLine(seq=3, run=RUN, gap=Gap(2, None, "camera lost", 7, UTC))
    bad = FailedFrame(seq=4, run=RUN, shot=shot(4), reason="cut short")
    with closing(start(tmp_path)) as writer:
        write_frame(writer, 1)
        write_frame(writer, 2)
        writer.write_line(gap)
        writer.write_line(bad)
        write_frame(writer, 6)
        recording = open_recording(writer.recording.folder)

        assert items(recording) == [frame(1), frame(2), gap, bad, frame(6)]

    seen = [
        r.stored_frame.read() for r in recording.items() if r.stored_frame is not None
    ]
    np.testing.assert_array_equal(seen, [pixels(n) for n in (1, 2, 6)])
    assert recording.runs() == {RUN}
    (path,) = recording.files
    if path.is_file():
        with tifffile.TiffFile(path) as tiff:
            text = tiff.ome_metadata or ""
        assert 'PhysicalSizeX="0.08"' in text
    else:
        text = (path / "0" / "zarr.json").read_text()
        assert "0.08" in (path / "zarr.json").read_text()
    for value in ("inception@1", "locator@2", "5f" * 32, RUN, "1 to 6"):
        assert value in text


def test_a_new_file_begins_with_another_size_and_after_64_frames(
    tmp_path: Path,
) -> None:
    with closing(start(tmp_path)) as writer:
        for seq in range(1, 66):
            write_frame(writer, seq)
        write_frame(writer, 66, side=16)

    lengths = [len(read_by_others(path)) for path in writer.recording.files[:1]]
    assert lengths == [64]
    assert len(writer.recording.files) == 3
    assert frames_in(writer.recording) == list(range(1, 67))


def test_missing_frames_are_one_line_before_what_follows(
    tmp_path: Path,
) -> None:
    with closing(start(tmp_path)) as writer:
        write_frame(writer, 1)
        for seq in (2, 3, 5):
            writer.add_missing(_missing(seq, "too slow"))
        writer.add_missing(_missing(6, "no room"))
        write_frame(writer, 7)
        writer.add_missing(_missing(8, "too slow"))

    lines = [
        item for item in items(writer.recording) if isinstance(item, MissingFrames)
    ]
    found = [(item.seq, item.last_seq, item.count, item.reason) for item in lines]
    assert found == [
        (2, 5, 3, "too slow"),
        (6, 6, 1, "no room"),
        (8, 8, 1, "too slow"),
    ]


def _missing(seq: int, reason: str) -> MissingFrames:
    return MissingFrames(
        seq=seq,
        last_seq=seq,
        count=1,
        first=seq,
        last=seq,
        monotonic_ns=seq,
        utc=UTC,
        reason=reason,
    )


def test_the_oldest_frames_are_deleted_first_and_pinned_ones_never(
    tmp_path: Path,
) -> None:
    first, pinned = (_recording(tmp_path, n, 10) for n in (1, 11))
    pin(pinned)
    with closing(start(tmp_path, most_gb=0.01)) as writer:
        for seq in range(21, 71):
            write_frame(writer, seq, side=256)  # 9.8 MB, with the 3.9 that are there

    assert first.files == []
    assert frames_in(pinned) == list(range(11, 21))
    assert sum(r.size for r in recordings_in(tmp_path)) <= 10_000_000
    deleted = [
        item for item in items(writer.recording) if isinstance(item, MissingFrames)
    ]
    assert {item.reason for item in deleted} == {"deleted to make room for newer ones"}
    left = frames_in(writer.recording)
    assert left == list(range(deleted[-1].last_seq + 1, 71))
    assert sum(item.count for item in deleted) + len(left) == 50


def test_a_recording_is_read_while_it_grows_and_its_oldest_frames_are_deleted(
    tmp_path: Path,
) -> None:

    def record() -> None:
        with closing(start(tmp_path, most_gb=0.01)) as writer:
            for seq in range(1, 200):
                write_frame(writer, seq, side=192)  # 0.1 MB, and so 80 are kept

    thread = threading.Thread(target=record)
    thread.start()
    counts = []
    while thread.is_alive():
        for recording in recordings_in(tmp_path):
            counts.append(len(frames_in(recording)))
            assert recording.size < 10_500_000
    thread.join()

    assert max(counts) > 50


def test_where_all_is_pinned_nothing_is_written_until_something_is_unpinned(
    tmp_path: Path,
) -> None:
    with closing(start(tmp_path, most_gb=0.01)) as writer:
        pin(writer.recording)
        for seq in range(1, 13):
            write_frame(writer, seq, side=512)
        with pytest.raises(NoRoom, match=r"at most 0\.01 .* is pinned"):
            write_frame(writer, 13, side=512)
        unpin(writer.recording)

        write_frame(writer, 13, side=512)

    assert frames_in(writer.recording)[-1] == 13


def test_after_a_clock_was_set_back_the_oldest_frames_are_deleted_first(
    tmp_path: Path,
) -> None:
    first = _recording(tmp_path, 1, 10)

    def later(name: str) -> Head:
        return msgspec.structs.replace(
            head(name), began=UTC - timedelta(days=365), first_row=11
        )

    full = settings(tmp_path, most_gb=0.01)
    with closing(RecordingWriter(full, later, lambda into: None)) as writer:
        for seq in range(11, 61):
            write_frame(writer, seq, side=256)  # 9.8 MB, with the 2 that are there

    assert recordings_in(tmp_path)[-1] == writer.recording
    assert first.files == []
    assert frames_in(writer.recording)[-1] == 60


def _recording(folder: Path, first: int, count: int) -> Recording:
    with closing(start(folder)) as writer:
        for seq in range(first, first + count):
            write_frame(writer, seq, side=256)
    return writer.recording


def test_a_recording_is_found_by_its_own_id_or_that_of_a_run(tmp_path: Path) -> None:
    with closing(start(tmp_path)) as writer:
        write_frame(writer, 1)

    assert find(tmp_path, RUN) == find(tmp_path, writer.recording.head.id)
    with pytest.raises(ConfigurationInvalid, match=r"neither a recording nor a run"):
        find(tmp_path, "20260101T000000Z-000000")


def test_a_full_disk_costs_the_oldest_frames_and_harms_no_file(
    small_disk: Path,
) -> None:
    with closing(start(small_disk, most_gb=1)) as writer:
        for seq in range(1, 31):  # 24 MB on a disk of 12
            try:
                write_frame(writer, seq, side=512)
            except NoRoom:
                writer.add_missing(_missing(seq, "full"))

    recorded = items(writer.recording)
    covered = [
        seq
        for item in recorded
        for seq in range(item.seq, getattr(item, "last_seq", item.seq) + 1)
    ]
    assert covered == list(range(1, 31))
    assert frames_in(writer.recording)
    for path in writer.recording.files:
        assert len(read_by_others(path)) > 0


def test_a_file_that_somebody_removed_does_not_end_the_recording(
    tmp_path: Path,
) -> None:
    with closing(start(tmp_path)) as writer:
        write_frame(writer, 1)
        (path,) = writer.recording.files
        path.unlink() if path.is_file() else shutil.rmtree(path)
        with pytest.raises(OSError, match="No such file"):
            write_frame(writer, 2)

        write_frame(writer, 3)

    assert frames_in(writer.recording) == [3]


def test_a_line_that_a_power_cut_left_unfinished_does_not_count(tmp_path: Path) -> None:
    with closing(start(tmp_path)) as writer:
        writer.write_line(GapLine(seq=1, gap=Gap(0, 1, "skipped", 7, UTC)))
        rows = writer.recording.folder / ROWS
        whole = rows.read_bytes()
        rows.write_bytes(whole + whole[: len(whole) // 2])
        assert [item.seq for item in items(writer.recording)] == [1]

        writer.write_line(GapLine(seq=2, gap=Gap(1, 1, "skipped", 8, UTC)))

    assert [item.seq for item in items(writer.recording)] == [1, 2]


def test_the_next_start_repairs_what_the_last_one_left(tmp_path: Path) -> None:
    with closing(start(tmp_path)) as writer:
        for seq in range(1, 6):
            write_frame(writer, seq)
    folder, (path,) = writer.recording.folder, writer.recording.files
    if path.is_file():
        (folder / "frames-00002.ome.new").write_bytes(b"half a frame")
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 7 // 10])
    else:
        (folder / "frames-00002.ome.new" / "0").mkdir(parents=True)
        os.truncate(path / "0" / "c.3.0.0.0", 99)

    start(tmp_path).close()

    assert frames_in(writer.recording) == [1, 2, 3]
    assert read_by_others(path).shape == (3, 32, 32, 3)
    assert not list(folder.glob("*.new"))


def test_frames_of_another_version_do_not_prevent_a_start(tmp_path: Path) -> None:
    with closing(start(tmp_path)) as writer:
        write_frame(writer, 1)
    (path,) = writer.recording.files
    metadata_file = path if path.is_file() else path / "0" / "zarr.json"
    other = metadata_file.read_bytes().replace(b'"passed_over"', b'"passed_away"')
    metadata_file.write_bytes(other)

    with closing(start(tmp_path)) as later:
        write_frame(later, 2)

    assert metadata_file.read_bytes() == other
    assert frames_in(later.recording) == [2]
    (message,) = writer.recording.repair()
    assert "left as it is" in message


def test_two_processes_do_not_record_into_one_folder(tmp_path: Path) -> None:
    with closing(start(tmp_path)), pytest.raises(LedgerBusy):
        start(tmp_path)


def test_a_damaged_recording_is_named_and_others_are_listed(tmp_path: Path) -> None:
    damaged, whole = (_recording(tmp_path, n, 2) for n in (1, 11))
    (path,) = damaged.files
    (path if path.is_file() else path / "0" / "zarr.json").write_bytes(b"")

    result = CliRunner().invoke(record_command, ["list", str(tmp_path)])

    assert result.exit_code == 0
    first, second = result.output.splitlines()
    assert first.startswith(damaged.head.id)
    assert first.endswith("see `hemascope record repair`")
    assert second.startswith(f"{whole.head.id}  2 frames")


def test_what_is_being_recorded_is_not_repaired(tmp_path: Path) -> None:
    """It would be cut to what it was a moment before."""
    with closing(start(tmp_path)) as writer:
        write_frame(writer, 1)
        folder = writer.recording.folder
        draft = folder / "frames-00002.ome.new"
        draft.mkdir()
        result = CliRunner().invoke(record_command, ["repair", str(folder)])
        assert isinstance(result.exception, LedgerBusy)
        assert draft.exists()

    result = CliRunner().invoke(record_command, ["repair", str(folder)])
    assert result.output == f"{writer.recording.head.id}: 1 frames can be read\n"
    assert not draft.exists()


def test_a_folder_that_is_no_recording_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordingDamaged, match=r"expected the folder of a recording"):
        open_recording(tmp_path)


class _SlowWriter(RecordingWriter):
    """A writer on a disk that takes nothing until it may."""

    may_write: threading.Event

    def write_frames(self, frames: Sequence[tuple[Frame, EncodedFrame]]) -> int:
        self.may_write.wait()
        return super().write_frames(frames)


def test_a_slow_disk_costs_frames_of_the_recording_and_no_time(tmp_path: Path) -> None:
    writer = _SlowWriter(settings(tmp_path), head, lambda into: None)
    writer.may_write = threading.Event()
    recorder = Recorder(writer)
    still = np.zeros((2048, 2048, 3), np.uint8)  # 12.6 MB: the queue holds seven
    begin = time.monotonic()

    for seq in range(1, 31):
        _take(recorder, seq, still)
    spent_s = time.monotonic() - begin
    conditions = recorder.conditions()
    writer.may_write.set()
    recorder.close()

    assert spent_s < 0.2
    assert "too slow" in conditions["not-recorded"].text
    recorded = items(writer.recording)
    assert [item.seq for item in recorded] == [
        *range(1, len(recorded)),
        len(recorded),
    ]
    assert isinstance(recorded[-1], MissingFrames)
    assert recorded[-1].last_seq == 30
    assert recorder.recorded + recorder.lost == 30
    assert recorder.recorded in (7, 8)


def test_frames_that_still_wait_at_the_end_are_reported_as_missing(
    tmp_path: Path,
) -> None:
    writer = _SlowWriter(settings(tmp_path), head, lambda into: None)
    writer.may_write = threading.Event()
    recorder = Recorder(writer, close_timeout_s=0.1)
    for seq in range(1, 30):
        _take(recorder, seq, pixels(seq))
    timer = threading.Timer(0.5, writer.may_write.set)
    timer.start()

    recorder.close()

    *before, last = items(writer.recording)
    assert isinstance(last, MissingFrames)
    assert last.reason == "the run ended before they were written"
    assert [item.seq for item in before] == [*range(1, last.seq)]
    assert (last.last_seq, recorder.lost) == (29, last.count)


def test_one_of_so_many_frames_is_recorded(tmp_path: Path) -> None:
    with closing(start(tmp_path)) as writer:
        pass
    writer = start(tmp_path)
    recorder = Recorder(writer, every=4)
    for seq in range(1, 10):
        _take(recorder, seq, np.zeros((8, 8, 3), np.uint8))
    recorder.close()

    assert frames_in(writer.recording) == [1, 5, 9]
    assert recorder.conditions() == {}


def test_a_disk_that_fails_ends_neither_the_recorder_nor_the_run(
    tmp_path: Path,
) -> None:
    writer = start(tmp_path, most_gb=0.01)
    pin(writer.recording)
    recorder = Recorder(writer)
    for seq in range(1, 30):
        _take(recorder, seq, np.zeros((512, 512, 3), np.uint8))
    recorder.close()

    assert "pinned" in recorder.conditions()["not-recorded"].text
    assert recorder.recorded == len(frames_in(writer.recording)) == 12


def _take(recorder: Recorder, seq: int, counts: Counts) -> None:
    exposed = shot(seq)
    result = frame_result(frame=FrameRange(first=seq, last=seq))
    raw = RawFrame(exposed, counts)
    recorder.take(
        seq, Exposure(exposed, lambda: raw), result, ExaminedFrame(raw, result)
    )
