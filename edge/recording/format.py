"""What a recording is: raw frames as they came, and all that a replay needs to know.

Each start of `hemascope run` makes a folder of its own. It holds `recording.json` and
`settings.toml`, a copy of the profile, frame files (OME-TIFF or OME-Zarr) of up to 64
frames each, and `rows.jsonl`: a line for each row of the ledger that has no picture
here. The metadata of a frame is stored with its pixels, so that no two files can
disagree. Frames and lines are identified by their row numbers in the ledger.
"""

from __future__ import annotations

import logging
import os
from bisect import bisect_left
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from edge.bounded_files import read_bounded
from edge.errors import ConfigurationInvalid, HemascopeError
from edge.frames import Gap, Planned, Shot
from edge.pipeline.pixel_size import PixelSize
from edge.recording import frame_files
from edge.recording.frame_encoding import EncodedFrame, FrameFileDamaged, StoredFrame
from edge.recording.ome_xml import OmeImage, OmePlane
from edge.schema.codec import PayloadInvalid, decode, encode, read_json
from edge.schema.results import Count, Epoch, Name, Number, Point, RunId
from edge.timelapse.resume_state import NOTHING_TO_RESUME, ResumeState

log = logging.getLogger(__name__)

HEAD, SETTINGS, ROWS = "recording.json", "settings.toml", "rows.jsonl"
PROFILE = "profile"
PINNED = "PINNED"
LOCK = "recordings.lock"  # beside recordings; held by whoever changes their frames
_MAX_LINE_BYTES = 1 << 16
_MAX_LINES_BYTES = 1 << 28  # of all lines, each of some 200 bytes

RecordingId = RunId  # of the same form: when it began, and six random digits


class RecordingDamaged(HemascopeError):
    """A folder is not a recording, or a file in it holds something impossible."""


class _StrictStruct(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Head(_StrictStruct, frozen=True, kw_only=True):
    """`recording.json`: what was recorded, and what the results were made with.

    `first_row`: the ledger's next row when it began. `left`: the state that this
    process resumed from; its run goes on here if any frame belongs to it. `model`,
    `locator`, `sequence` and `calibration_id` are as in results. `every`: one of so
    many frames is recorded.
    """

    v: Literal[1] = 1
    id: RecordingId
    device: Name
    epoch: Epoch
    first_row: Number
    left: ResumeState = NOTHING_TO_RESUME
    began: datetime
    began_ns: int
    boot_id: str
    was_live: bool
    every: Number
    model: str
    locator: str | None
    sequence: str | None
    calibration_id: str | None
    software: str


class Frame(_StrictStruct, frozen=True, kw_only=True, tag_field="kind", tag="frame"):
    """The metadata of a recorded frame, stored with its pixels.

    `scale`: the pixel size with which it was examined.
    """

    seq: Number
    run: RunId | None = None
    shot: Shot
    planned: Planned[Point] | None = None
    passed_over: Count = 0
    scale: PixelSize | None = None


class GapLine(_StrictStruct, frozen=True, kw_only=True, tag_field="kind", tag="gap"):
    """A gap that the source reported."""

    seq: Number
    run: RunId | None = None
    gap: Gap


class FailedFrame(
    _StrictStruct, frozen=True, kw_only=True, tag_field="kind", tag="unseen"
):
    """A frame without pixels: it was damaged, or examining it failed."""

    seq: Number
    run: RunId | None = None
    shot: Shot
    planned: Planned[Point] | None = None
    passed_over: Count = 0
    reason: str


class MissingFrames(
    _StrictStruct, frozen=True, kw_only=True, tag_field="kind", tag="lacking"
):
    """Rows `seq` to `last_seq` were examined, but `count` frames are not recorded.

    `first` and `last` are their numbers at the source; `monotonic_ns` and `utc` are
    those of the first.
    """

    seq: Number
    last_seq: Number
    count: Number
    first: Count
    last: Count
    monotonic_ns: int
    utc: datetime
    reason: Annotated[str, Meta(max_length=1000)]


Item = Frame | GapLine | FailedFrame | MissingFrames
Line = GapLine | FailedFrame | MissingFrames


@dataclass(frozen=True, slots=True)
class RecordedItem:
    """A frame, a gap or missing frames; `stored_frame` holds the pixels of a frame."""

    item: Item
    stored_frame: StoredFrame | None = None


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording as it is on the disk; it may still grow."""

    folder: Path
    head: Head

    @property
    def is_pinned(self) -> bool:
        """Whether it is never deleted to make room."""
        return (self.folder / PINNED).exists()

    @property
    def files(self) -> list[Path]:
        """The frame files, oldest first."""
        return frame_files.frame_files_in(self.folder)

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return size_of(self.folder)

    def items(self) -> list[RecordedItem]:
        """Return what is recorded, in the order of the ledger's rows.

        A line may say that a frame was deleted while the frame is still there: the line
        is written first. The frame counts then.

        Raises
        ------
        RecordingDamaged
            A line or a frame holds something impossible.
        """
        by_row: dict[int, RecordedItem] = {}
        for path in self.files:
            try:
                by_row |= {r.item.seq: r for r in recorded_frames_in(path)}
            except FrameFileDamaged:
                if path.exists():  # else it was deleted meanwhile, to make room
                    raise
        frames = sorted(by_row)
        for line in self._lines():
            last = line.last_seq if isinstance(line, MissingFrames) else line.seq
            next_frame = bisect_left(frames, line.seq)
            if next_frame == len(frames) or frames[next_frame] > last:
                by_row[line.seq] = RecordedItem(line)
        return [by_row[seq] for seq in sorted(by_row)]

    def runs(self) -> set[str]:
        """Return the ids of the runs that its frames and lines belong to."""
        return {
            run
            for recorded in self.items()
            if not isinstance(recorded.item, MissingFrames)
            and (run := recorded.item.run)
        }

    def repair(self) -> list[str]:
        """Make every file declare the frames it holds, after a power cut or damage.

        Returns what was repaired, a line each.
        """
        messages = []
        frame_files.remove_leftovers(self.folder)
        for path in self.files:
            try:
                recorded = recorded_frames_in(path)
            except FrameFileDamaged as error:
                damaged = path.with_suffix(".damaged")
                path.rename(damaged)
                messages.append(f"{error}; renamed to {damaged.name}")
                continue
            except RecordingDamaged as error:  # of another version, perhaps
                messages.append(f"left as it is: {error}")
                continue
            if frame_files.declares(path, len(recorded)):
                continue
            frames = [r.item for r in recorded if isinstance(r.item, Frame)]
            stored = [r.stored_frame for r in recorded if r.stored_frame is not None]
            frame_files.repair(path, *describe(self.head, frames, stored[0]))
            messages.append(f"{path}: repaired, it holds {len(stored)} frames")
        return messages

    def _lines(self) -> list[Line]:
        """Return the lines of `rows.jsonl`, without a last one that was cut off."""
        path = self.folder / ROWS
        if not path.exists():
            return []
        try:
            data = read_bounded(path, _MAX_LINES_BYTES)
        except OSError as error:
            raise RecordingDamaged(f"{path}: {error.strerror}; restore it") from error
        *whole, _cut_off = data.split(b"\n")
        try:
            return [decode(line, Line) for line in whole if line]  # type: ignore[arg-type]
        except PayloadInvalid as error:
            raise RecordingDamaged(f"{path}: {error}; restore it") from error


def open_recording(folder: Path) -> Recording:
    """Open a recording.

    Raises
    ------
    RecordingDamaged
        The folder is not a recording.
    """
    try:
        return Recording(folder, read_json(folder / HEAD, Head))
    except ConfigurationInvalid as error:
        raise RecordingDamaged(
            f"{error}; expected the folder of a recording, such as those that "
            "`hemascope record list` names"
        ) from error


def recordings_in(folder: Path) -> list[Recording]:
    """Return the recordings in a folder, oldest first; other folders are ignored.

    Recordings of one ledger are ordered by their first row, not by their time: a clock
    may have been set back.
    """
    if not folder.is_dir():
        return []
    recordings = []
    for head in folder.glob(f"*/{HEAD}"):
        try:
            recordings.append(open_recording(head.parent))
        except RecordingDamaged as error:
            log.warning("left as it is: %s", error)
    newest_first = sorted(
        (r.head for r in recordings), key=lambda head: head.began, reverse=True
    )
    began = {head.epoch: head.began for head in newest_first}  # of a ledger the oldest

    def age(recording: Recording) -> tuple[datetime, int, datetime]:
        head = recording.head
        return began[head.epoch], head.first_row, head.began

    return sorted(recordings, key=age)


def recorded_frames_in(path: Path) -> list[RecordedItem]:
    """Return the frames of one frame file.

    Raises
    ------
    FrameFileDamaged
        It is not a frame file, or holds no whole frame.
    RecordingDamaged
        The metadata of a frame holds something impossible.
    """
    try:
        return [
            RecordedItem(decode(stored.metadata, Frame), stored)
            for stored in frame_files.read_frames(path)
        ]
    except PayloadInvalid as error:
        raise RecordingDamaged(f"{path}: {error}; restore it") from error


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder, which may change."""
    if path.is_file():
        return path.stat().st_size
    size = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with suppress(FileNotFoundError):
                size += os.lstat(Path(folder) / name).st_size
    return size


def append_line(folder: Path, line: Line) -> int:
    """Append a line to `rows.jsonl`, on the disk when this returns.

    If a power cut or a full disk left half a line at the end, it is removed first: its
    write never returned, so nobody relies on it. Returns by how many bytes the file
    grew.
    """
    data = encode(line) + b"\n"
    with (folder / ROWS).open("ab+") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - _MAX_LINE_BYTES))
        tail = file.read()
        cut_off = len(tail) - (tail.rfind(b"\n") + 1)
        file.truncate(end - cut_off)
        file.write(data)
        file.flush()
        os.fdatasync(file.fileno())
    return len(data) - cut_off


def describe(
    head: Head, frames: Sequence[Frame], like: EncodedFrame | StoredFrame
) -> tuple[OmeImage, list[OmePlane]]:
    """Return how a frame file describes its frames, whose shape is that of `like`."""
    height, width, _ = like.shape
    last = frames[-1]
    controls = last.shot.controls
    gain = None if controls is None else controls.gain
    runs = sorted({frame.run for frame in frames if frame.run})
    attributes = {
        "device": head.device,
        "ledger": head.epoch,
        "rows": f"{frames[0].seq} to {last.seq}",
        "run": ", ".join(runs),
        "model": head.model,
        "locator": head.locator,
        "sequence": head.sequence,
        "calibration_id": head.calibration_id,
        "source": last.shot.source_id,
        "camera": last.shot.camera,
        "gain": None if gain is None else str(gain),
        "software": head.software,
    }
    image = OmeImage(
        name=head.id,
        acquired=head.began,
        width_px=width,
        height_px=height,
        dtype=like.dtype,
        pixel_size_um=pixel_size_um(last),
        software=f"hemascope {head.software}",
        attributes={key: value for key, value in attributes.items() if value},
    )
    return image, [_plane(head, frame.shot) for frame in frames]


def pixel_size_um(frame: Frame) -> float | None:
    """Return micrometres per pixel, where they are known without doubt."""
    scale = frame.scale
    if scale is None or scale.um is None or scale.doubt is not None:
        return frame.shot.pixel_size_um
    return scale.um


def _plane(head: Head, shot: Shot) -> OmePlane:
    since_s = (shot.monotonic_ns - head.began_ns) / 1e9
    exposure_ms = None if shot.controls is None else shot.controls.exposure_ms
    return OmePlane(round(since_s, 9), exposure_ms)
