"""A replay says what was said live, to the last bit; and a comparison sees what not."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from edge.artifacts.profile import ProfileRecord, load_profile, save_profile
from edge.cli.recordings import record_command, replay_command
from edge.errors import FrameRejected
from edge.frames import Counts, Exposure, Gap, Planned, SourceEnded
from edge.ledger.reader import LedgerReader
from edge.ledger.writer import Ledger
from edge.pipeline.parts import Parts, read_parts
from edge.pipeline.pixel_size import Origin, PixelSize, Scale
from edge.pipeline.scale_reading import CellsAtScale, Reading
from edge.recording.format import (
    SETTINGS,
    FailedFrame,
    Frame,
    GapLine,
    RecordedItem,
    Recording,
    recordings_in,
)
from edge.recording.ome_tiff import TiffFrame
from edge.recording.opening import open_recorder
from edge.recording.writer import missing_frames_of
from edge.replay.comparison import (
    Comparison,
    NotComparable,
    compare,
    compare_rows,
    first_difference,
    require_comparable,
    results_of,
)
from edge.replay.recorded import RecordedScale, RecordedSource, RecordedTimeline
from edge.replay.replay import replay
from edge.schema.codec import decode, encode, read_toml, write_toml
from edge.schema.results import Point, Result
from edge.settings.files import DeviceFile, ReplaySettings
from edge.settings.models import ModelSettings, SequenceSettings
from edge.settings.run import Format, LedgerSettings, RecordingSettings, RunSettings
from edge.settings.sources import SimulatedSettings
from edge.settings.timelapse import PauseSettings, TrackingSettings
from edge.slide.run_state import RunState
from edge.timelapse.resume_state import ResumeState
from tests.conftest import shot

FRAMES = 10


@dataclass(frozen=True)
class Lived:
    """A run that was recorded and killed: the driver drops frames, a hand moves."""

    recording: Recording
    ledger: Path

    @property
    def settings(self) -> ReplaySettings:
        return read_toml(self.recording.folder / SETTINGS, ReplaySettings)

    def replay(self, folder: Path, recording: Recording | None = None) -> Comparison:
        recording = recording or self.recording
        parts = read_parts(sequence=self.settings.sequence)
        replay(recording, parts, self.settings, folder, threading.Event())
        return compare(recording, self.ledger, folder)


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Lived:
    return live(tmp_path_factory.mktemp("lived"), "ome-tiff")


def live(folder: Path, kind: Format) -> Lived:
    device = DeviceFile(
        device="scope-01",
        source=SimulatedSettings(
            width_px=480,
            height_px=360,
            pixel_size_um=0.1,
            rate_hz=8,
            drop_share=0.15,
            hand_move_every_s=0.8,
            seed=10,
        ),
        ledger=LedgerSettings(folder / "ledger"),
        run=RunSettings(workers=2),
        tracking=TrackingSettings(),
        sequence=SequenceSettings(),
        recording=RecordingSettings(
            folder / "recordings", format=kind, least_free_gb=0
        ),
    )
    write_toml(folder / "device.toml", device)
    run_until_killed(folder / "device.toml", device)
    (recording,) = recordings_in(folder / "recordings")
    return Lived(recording, folder / "ledger")


def run_until_killed(config: Path, device: DeviceFile) -> None:
    """Run the process as it is, and kill it once enough frames are recorded."""
    write_toml(config, device)
    assert device.recording is not None
    command = [sys.executable, "-m", "edge", "run", "--config", str(config)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        deadline_s = time.monotonic() + 60
        while time.monotonic() < deadline_s and process.poll() is None:
            found = recordings_in(device.recording.folder)
            items = found[0].items() if found else []
            if sum(r.stored_frame is not None for r in items) >= FRAMES:
                break
            time.sleep(0.1)
        process.kill()


def rows(ledger: Path) -> list[Result]:
    with closing(LedgerReader(ledger)) as reader:
        return list(results_of(reader))


def test_a_replay_is_the_same_to_the_last_bit(lived: Lived, tmp_path: Path) -> None:
    folder, out = lived.recording.folder, tmp_path / "again"
    result = CliRunner().invoke(
        replay_command,
        [str(folder), "--out", str(out), "--compare", str(lived.ledger)],
        catch_exceptions=False,
    )

    now, was = rows(out), rows(lived.ledger)
    # The kill may come between a row and its frame.
    is_short = "the recording ends before" in result.output
    assert result.exit_code == int(is_short), result.output
    assert f"{len(now)} rows are the same, 0 are the same but for" in result.output
    assert len(now) == len(was) or is_short
    assert sum(row.status != "gap" for row in now) >= FRAMES
    assert any(row.status == "gap" for row in now)
    assert any(cell.track_id and cell.course for row in now for cell in row.cells)
    # The kill may come after a gap or a rejected frame, which have no drift.
    assert any(row.differential is not None for row in now)
    assert any(row.drift is not None for row in now)


def test_frames_in_ome_zarr_are_replayed_the_same(tmp_path: Path) -> None:
    lived = live(tmp_path, "ome-zarr")

    found = lived.replay(tmp_path / "again")

    assert lived.recording.files[0].name == "frames-00001.ome.zarr"
    assert (found.different, found.partly_same) == ([], 0)
    assert found.same >= FRAMES


@dataclass(frozen=True)
class _Altered(TiffFrame):
    """A frame in which the lowest bit of each red count is another one."""

    def read(self) -> Counts:
        pixels = super().read()
        pixels[..., 0] ^= 1
        return pixels


@dataclass(frozen=True)
class _OneFrameAltered(Recording):
    number: int = 3

    def items(self) -> list[RecordedItem]:
        recorded = super().items()
        frames = [n for n, r in enumerate(recorded) if r.stored_frame is not None]
        at = frames[self.number]
        page = recorded[at].stored_frame
        assert isinstance(page, TiffFrame)
        altered = _Altered(*(getattr(page, f.name) for f in fields(page)))
        recorded[at] = RecordedItem(recorded[at].item, altered)
        return recorded


@dataclass(frozen=True)
class _OneFrameMissing(Recording):
    """As if the disk had been too slow for one frame."""

    number: int = 5

    def items(self) -> list[RecordedItem]:
        recorded = super().items()
        frames = [n for n, r in enumerate(recorded) if r.stored_frame is not None]
        at = frames[self.number]
        frame = recorded[at].item
        assert isinstance(frame, Frame)
        recorded[at] = RecordedItem(missing_frames_of(frame, "the disk is too slow"))
        return recorded


def test_the_lowest_bit_of_one_frame_is_seen_in_the_comparison(
    lived: Lived, tmp_path: Path
) -> None:
    """The control: a replay of other pixels is not the same."""
    recording = _OneFrameAltered(lived.recording.folder, lived.recording.head)
    frames = [r.item for r in lived.recording.items() if isinstance(r.item, Frame)]

    found = lived.replay(tmp_path / "again", recording)

    assert found.different
    row, told = found.different[0]
    assert row == frames[3].seq
    assert " then, " in told


def test_after_a_frame_that_lacks_only_what_frames_tell_alone_is_compared(
    lived: Lived, tmp_path: Path
) -> None:
    recording = _OneFrameMissing(lived.recording.folder, lived.recording.head)
    frames = [r.item for r in lived.recording.items() if isinstance(r.item, Frame)]

    found = lived.replay(tmp_path / "again", recording)

    assert found.different == []
    assert found.not_compared[0] == f"row {frames[5].seq}: the disk is too slow"
    total = len(lived.recording.items())
    assert found.same + found.partly_same + 1 == total
    assert found.partly_same >= FRAMES - 7


def test_results_of_other_models_or_settings_are_not_compared(
    lived: Lived, parts: Parts
) -> None:
    then = lived.settings
    now = msgspec.structs.replace(then, pauses=PauseSettings(reset_after_s=1.0))
    head = msgspec.structs.replace(
        lived.recording.head, calibration_id="5f" * 32, model="another@1"
    )

    with pytest.raises(NotComparable) as refused:
        require_comparable(head, parts, now, then)

    told = str(refused.value)
    assert "model was another@1, is inception" in told
    assert f"profile was {'5f' * 32}, is none" in told
    assert "sequence was rnn-change" in told
    assert "[pauses] was" in told
    assert "locator" not in told


def test_a_ledger_that_was_not_written_with_it_is_refused(
    lived: Lived, tmp_path: Path
) -> None:
    Ledger(tmp_path / "other", "scope-01").close()

    with pytest.raises(NotComparable, match=r"name the ledger that was written"):
        compare(lived.recording, tmp_path / "other", lived.ledger)


def test_rows_beyond_the_recording_are_named(lived: Lived) -> None:
    items = [r.item for r in lived.recording.items()]
    was = rows(lived.ledger)[: len(items)]

    found = compare_rows(items[2:-3], was, was[2:-3])

    first, last = was[0].seq, was[-1].seq
    assert found.not_compared == [
        f"rows {first} to {was[1].seq}: not in the recording",
        f"rows {was[-3].seq} to {last}: the recording ends before",
    ]
    assert found.partly_same == len(was) - 5


def test_a_replay_takes_gaps_and_bad_frames_as_they_were(lived: Lived) -> None:
    taken = shot(8)
    bad = FailedFrame(seq=4, shot=taken, reason="cut short; copy it again")
    gap = GapLine(seq=5, gap=Gap(9, 2, "2 frames skipped by the camera", 7, taken.utc))
    lack = missing_frames_of(bad, "deleted")
    source = RecordedSource(
        [RecordedItem(bad), RecordedItem(gap), RecordedItem(lack)], "x"
    )

    first, second, third = (source.read(0) for _ in range(3))

    assert isinstance(first, Exposure)
    assert first.shot == taken
    with pytest.raises(FrameRejected, match=r"^cut short; copy it again$"):
        first.develop()
    assert second == gap.gap
    assert isinstance(third, Gap)
    assert (third.first, third.missed, third.reason) == (8, 1, "not recorded: deleted")
    with pytest.raises(SourceEnded):
        source.read(0)


def test_a_frame_of_a_plan_is_the_same_frame_of_it_again() -> None:
    when = shot(3).utc
    point = Point(index=2, frame=0, phase=1, due=when, late_ms=4.5)
    planned = Planned("20260101T000000Z-0a1b2c", point)
    kept = encode(Frame(seq=4, shot=shot(3), planned=planned))
    unseen = FailedFrame(seq=5, shot=shot(4), planned=planned, reason="cut short")
    frame = decode(kept, Frame)
    source = RecordedSource([RecordedItem(frame), RecordedItem(unseen)], "x")

    again = [source.read(0), source.read(0)]

    assert [getattr(exposure, "planned", None) for exposure in again] == [planned] * 2
    assert RecordedTimeline(None, []).is_under_way(planned.run)
    assert not RunState().is_under_way(planned.run)


def test_a_scale_that_was_read_off_the_cells_is_not_read_again() -> None:
    settled = PixelSize(0.07, "estimated")
    doubted = PixelSize(0.2, "estimated", "not settled")
    told = PixelSize(0.1, "source")
    frames = [
        RecordedItem(Frame(seq=n + 1, shot=shot(n), scale=size))
        for n, size in enumerate([doubted, settled, told])
    ]
    scale = RecordedScale(Scale(None), frames)

    assert scale.of(None, lambda: Reading(9.0, 30, 0.02), 1) == settled
    assert scale.of(None, lambda: Reading(9.0, 30, 0.02), 0) == doubted
    assert scale.of(0.1, lambda: Reading(9.0, 30, 0.02), 2) == told


@pytest.mark.parametrize("origin", ["estimated", "source"])
def test_a_recorded_pixel_size_that_no_microscope_has_rejects_the_frame(
    origin: Origin,
) -> None:
    frame = Frame(seq=1, shot=shot(0), scale=PixelSize(1e-9, origin))
    scale = RecordedScale(Scale(None), [RecordedItem(frame)])

    with pytest.raises(FrameRejected, match="1e-09 µm is not possible"):
        scale.of(1e-9, lambda: Reading(9.0, 30, 0.02), 0)


def test_a_doubt_of_a_told_scale_is_that_of_the_recording() -> None:
    """Workers pool the cells of frames as they come to them."""
    told, doubted = PixelSize(0.1, "source"), PixelSize(0.1, "source", "doubtful")
    frames = [
        RecordedItem(Frame(seq=n + 1, shot=shot(n), scale=size))
        for n, size in enumerate([told, doubted])
    ]
    scale = RecordedScale(Scale(None), frames)

    def checked(size: PixelSize, sequence: int) -> PixelSize:
        reading = Reading(0.05, 30, 0.02)
        return scale.check(
            size, lambda: CellsAtScale(np.full(30, 2.0), 0.8), lambda: reading, sequence
        )

    assert checked(told, 0) == told
    assert checked(told, 1) == doubted
    assert checked(PixelSize(0.2, "profile"), 1).doubt != "doubtful"  # told anew
    assert checked(PixelSize(0.2, "profile"), 1).doubt


def test_the_first_difference_is_named_with_its_place() -> None:
    was = {"a": 1, "cells": [{"box": [1, 2]}, {"box": [3, 4]}]}

    assert first_difference(was, was) is None
    assert (
        first_difference(was, {"a": 1, "cells": [{"box": [1, 2]}, {"box": [3, 5]}]})
        == "cells[1].box[1]: 4 then, 5 now"
    )
    assert first_difference(was, {"a": 1, "cells": []}) == "cells: 2 then, 0 now"
    assert first_difference(was, was | {"b": 0.5}) == "b: None then, 0.5 now"


def test_recordings_are_listed_pinned_and_repaired(lived: Lived) -> None:
    folder, name = lived.recording.folder.parent, lived.recording.head.id
    run = rows(lived.ledger)[0].run
    assert run is not None

    def say(*words: str) -> str:
        result = CliRunner().invoke(record_command, words, catch_exceptions=False)
        assert result.exit_code == 0
        return result.output

    assert say("pin", str(folder), run) == f"{name}: pinned\n"
    count = sum(r.stored_frame is not None for r in lived.recording.items())
    assert f"{name}  {count} frames" in say("list", str(folder))
    assert say("list", str(folder)).endswith("pinned\n")
    say("unpin", str(folder), name)
    assert not lived.recording.is_pinned
    told = say("repair", str(lived.recording.folder))
    assert told == f"{name}: {count} frames can be read\n"


def _device(folder: Path, **changes: object) -> DeviceFile:
    fields: dict[str, object] = {
        "device": "scope-01",
        "source": SimulatedSettings(),
        "ledger": LedgerSettings(folder / "ledger"),
        "recording": RecordingSettings(folder / "recordings", least_free_gb=0),
    }
    return DeviceFile(**(fields | changes))  # type: ignore[arg-type]


def test_a_disk_that_is_not_there_costs_the_recording_and_not_the_results(
    parts: Parts, tmp_path: Path
) -> None:
    (tmp_path / "recordings").write_text("no folder")

    with closing(Ledger(tmp_path / "ledger", "scope-01")) as ledger:
        opened = open_recorder(
            _device(tmp_path), parts, ledger, ResumeState(), is_live=True
        )

    assert opened.recorder is None
    assert "nothing is recorded" in opened.conditions()["not-recorded"].text


def test_a_recording_brings_its_profile_and_names_bundles_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = save_profile(
        tmp_path / "profile",
        ProfileRecord(pixel_size_um=0.1, camera_serial="A17"),
        np.full((4, 5, 3), 0.9, np.float32),
    )
    monkeypatch.chdir(tmp_path)
    device = _device(
        tmp_path,
        profile=Path("profile"),
        model=ModelSettings(bundle=Path("bundles/mine")),
    )
    bare = read_parts(profile=Path("profile"))

    with closing(Ledger(tmp_path / "ledger", "scope-01")) as ledger:
        opened = open_recorder(device, bare, ledger, ResumeState(), is_live=True)
    assert opened.recorder is not None
    opened.recorder.close()
    shutil.rmtree(tmp_path / "profile")

    (recording,) = recordings_in(tmp_path / "recordings")
    settings = read_toml(recording.folder / SETTINGS, ReplaySettings)
    assert settings.profile is not None
    assert load_profile(settings.profile).calibration_id == saved.calibration_id
    assert recording.head.calibration_id == saved.calibration_id
    assert settings.model.bundle == tmp_path / "bundles" / "mine"
