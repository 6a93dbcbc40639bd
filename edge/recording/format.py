"""What a recording is: raw frames as they came, and all that a replay needs to know.

A folder for each start of `hemascope run`: `recording.json` and `settings.toml`, a copy
of the profile, rolls (OME-TIFF or OME-Zarr) of up to 64 frames, and `rows.jsonl`, a
line for whatever stands in the ledger without a picture here. What is said of a frame
stands with its pixels, so that no two files can disagree. Everything is kept by the
ledger's row numbers.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from edge.errors import ConfigurationInvalid, HemascopeError
from edge.frames import Gap, Planned, Shot
from edge.pipeline.pixel_size import PixelSize
from edge.recording import frame_files
from edge.recording.frame_encoding import EncodedFrame, FrameFileDamaged, StoredFrame
from edge.recording.ome_xml import Image, Plane
from edge.schema.codec import PayloadInvalid, decode, encode, read_json
from edge.schema.results import Count, Epoch, Name, Number, Point, RunId
from edge.timelapse.resume_state import NOTHING_TO_RESUME, ResumeState

log = logging.getLogger(__name__)

HEAD, SETTINGS, ROWS = "recording.json", "settings.toml", "rows.jsonl"
PROFILE = "profile"
PINNED = "PINNED"
LOCK = "recordings.lock"  # beside recordings; held by who changes their frames
_LONGEST_LINE = 1 << 16

RecordingId = RunId  # of the same form: when it began, and six random digits


class RecordingDamaged(HemascopeError):
    """A folder is no recording, or what it says cannot be."""


class _Kept(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Head(_Kept, frozen=True, kw_only=True):
    """`recording.json`: what was recorded, and what the results were made with.

    `first_row`: the ledger's next row when it began; `left`: what the process before
    left, whose run goes on here if any frame is of it. `model`, `locator`, `sequence`
    and `calibration_id` as in results. `every`: each so many frames one is recorded.
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


class Frame(_Kept, frozen=True, kw_only=True, tag_field="kind", tag="frame"):
    """Said of a recorded frame, in its page.

    `scale`: the pixel size that it was examined with.
    """

    seq: Number
    run: RunId | None = None
    shot: Shot
    planned: Planned[Point] | None = None
    passed_over: Count = 0
    scale: PixelSize | None = None


class GapLine(_Kept, frozen=True, kw_only=True, tag_field="kind", tag="gap"):
    """A gap that the source told."""

    seq: Number
    run: RunId | None = None
    gap: Gap


class FailedFrame(_Kept, frozen=True, kw_only=True, tag_field="kind", tag="unseen"):
    """A frame of which there are no pixels: damaged, or examining it failed."""

    seq: Number
    run: RunId | None = None
    shot: Shot
    planned: Planned[Point] | None = None
    passed_over: Count = 0
    reason: str


class MissingFrames(_Kept, frozen=True, kw_only=True, tag_field="kind", tag="lacking"):
    """Rows `seq` to `last_seq` were examined, and `count` frames are not kept here.

    `first` and `last` are their numbers, `monotonic_ns` and `utc` of the first.
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
    """One thing in a recording; `page` holds the pixels of a frame."""

    item: Item
    page: StoredFrame | None = None


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording as it lies on the disk; it may still grow."""

    folder: Path
    head: Head

    @property
    def is_pinned(self) -> bool:
        """Whether it is never deleted to make room."""
        return (self.folder / PINNED).exists()

    @property
    def files(self) -> list[Path]:
        """The rolls, oldest first."""
        return frame_files.rolls_in(self.folder)

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return size_of(self.folder)

    def items(self) -> list[RecordedItem]:
        """Return what is recorded, in the order of the ledger's rows.

        A frame that is there counts, also where a line says that it is about to go.

        Raises
        ------
        RecordingDamaged
            A line or a frame says what cannot be.
        """
        found: dict[int, RecordedItem] = {}
        for path in self.files:
            try:
                found |= {r.item.seq: r for r in recorded_in(path)}
            except FrameFileDamaged:
                if path.exists():  # not one that made room meanwhile
                    raise
        frames = set(found)
        for line in self._lines():
            last = line.last_seq if isinstance(line, MissingFrames) else line.seq
            if frames.isdisjoint(range(line.seq, last + 1)):
                found[line.seq] = RecordedItem(line)
        return [found[seq] for seq in sorted(found)]

    def runs(self) -> set[str]:
        """Return the runs of slides that it shows."""
        return {
            run
            for recorded in self.items()
            if not isinstance(recorded.item, MissingFrames)
            and (run := recorded.item.run)
        }

    def mend(self) -> list[str]:
        """Let every file say what is in it, after a power cut or damage.

        Returns what was mended, a line each.
        """
        told = []
        frame_files.clear(self.folder)
        for path in self.files:
            try:
                recorded = recorded_in(path)
            except FrameFileDamaged as error:
                path.rename(path.with_suffix(".damaged"))
                told.append(f"{error}; renamed to {path.with_suffix('.damaged').name}")
                continue
            except RecordingDamaged as error:  # of another version, perhaps
                told.append(f"left alone: {error}")
                continue
            if frame_files.says(path, len(recorded)):
                continue
            frames = [r.item for r in recorded if isinstance(r.item, Frame)]
            pages = [r.page for r in recorded if r.page is not None]
            frame_files.mend(path, *describe(self.head, frames, pages[0]))
            told.append(f"{path}: says now that it holds {len(pages)} frames")
        return told

    def _lines(self) -> list[Line]:
        """Return the lines of `rows.jsonl`; a torn last one was never said."""
        path = self.folder / ROWS
        if not path.exists():
            return []
        *whole, _torn = path.read_bytes().split(b"\n")
        try:
            return [decode(line, Line) for line in whole if line]  # type: ignore[arg-type]
        except PayloadInvalid as error:
            raise RecordingDamaged(f"{path}: {error}; restore it") from error


def open_recording(folder: Path) -> Recording:
    """Open a recording.

    Raises
    ------
    RecordingDamaged
        The folder is none.
    """
    try:
        return Recording(folder, read_json(folder / HEAD, Head))
    except ConfigurationInvalid as error:
        raise RecordingDamaged(
            f"{error}; expected the folder of a recording, such as those that "
            "`hemascope record list` names"
        ) from error


def recordings_in(folder: Path) -> list[Recording]:
    """Return the recordings of a device, oldest first; folders of others are not.

    Within a ledger its rows tell which is older: a clock may have been set back.
    """
    if not folder.is_dir():
        return []
    found = []
    for head in folder.glob(f"*/{HEAD}"):
        try:
            found.append(open_recording(head.parent))
        except RecordingDamaged as error:
            log.warning("left alone: %s", error)
    heads = sorted((r.head for r in found), key=lambda head: head.began, reverse=True)
    began = {head.epoch: head.began for head in heads}  # of each ledger the first

    def age(recording: Recording) -> tuple[datetime, int, datetime]:
        head = recording.head
        return began[head.epoch], head.first_row, head.began

    return sorted(found, key=age)


def recorded_in(path: Path) -> list[RecordedItem]:
    """Return the frames of one roll; raises `FrameFileDamaged` where there is none."""
    try:
        return [
            RecordedItem(decode(page.note, Frame), page)
            for page in frame_files.pages_in(path)
        ]
    except PayloadInvalid as error:
        raise RecordingDamaged(f"{path}: {error}; restore it") from error


def size_of(path: Path) -> int:
    """Bytes of a file, or of all that lie in a folder; it may change meanwhile."""
    if path.is_file():
        return path.stat().st_size
    size = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with suppress(FileNotFoundError):
                size += os.lstat(Path(folder) / name).st_size
    return size


def add_line(folder: Path, line: Line) -> int:
    """Add a line to `rows.jsonl`, on the disk when this returns; return its bytes.

    What a power cut or a full disk tore off before was never said, and goes.
    """
    data = encode(line) + b"\n"
    with (folder / ROWS).open("ab+") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - _LONGEST_LINE))
        tail = file.read()
        torn = len(tail) - (tail.rfind(b"\n") + 1)
        file.truncate(end - torn)
        file.write(data)
        file.flush()
        os.fdatasync(file.fileno())
    return len(data) - torn


def describe(
    head: Head, frames: Sequence[Frame], like: EncodedFrame | StoredFrame
) -> tuple[Image, list[Plane]]:
    """Return what a roll says of its frames, which look like `like`."""
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
    image = Image(
        name=head.id,
        acquired=head.began,
        width_px=width,
        height_px=height,
        kind=like.dtype,
        pixel_size_um=pixel_size_um(last),
        software=f"hemascope {head.software}",
        attributes={key: value for key, value in attributes.items() if value},
    )
    return image, [_plane(head, frame.shot) for frame in frames]


def pixel_size_um(frame: Frame) -> float | None:
    """Micrometres per pixel, where they are known without doubt."""
    scale = frame.scale
    if scale is None or scale.um is None or scale.doubt is not None:
        return frame.shot.pixel_size_um
    return scale.um


def _plane(head: Head, shot: Shot) -> Plane:
    since_s = (shot.monotonic_ns - head.began_ns) / 1e9
    exposure_ms = None if shot.controls is None else shot.controls.exposure_ms
    return Plane(round(since_s, 9), exposure_ms)
