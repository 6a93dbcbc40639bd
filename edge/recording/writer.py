"""The recording that is being written: its files, and what is missing from it.

The idea: a recording never skips anything in silence. What could not be recorded is
kept in memory as one growing `MissingFrames`, and becomes a line on the disk before the
next frame or line is written.

Invariants: everything is on the disk when the method that writes it returns. A reader
who has item n of a recording also has, in order, everything before it, or a line that
says that it is missing.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from edge.clock import utc_of
from edge.errors import HemascopeError
from edge.frames import Counts
from edge.ledger.cursor import acquire_lock
from edge.recording import frame_files
from edge.recording.format import (
    HEAD,
    LOCK,
    FailedFrame,
    Frame,
    GapLine,
    Head,
    MissingFrames,
    Recording,
    append_line,
    describe,
    recordings_in,
)
from edge.recording.frame_encoding import EncodedFrame, FrameFileDamaged
from edge.recording.frame_files import FrameFile
from edge.recording.fsync import sync_folder
from edge.recording.ome_tiff import MAX_FILE_BYTES
from edge.recording.retention import RetentionPolicy
from edge.schema.codec import encode
from edge.settings.run import RecordingSettings

log = logging.getLogger(__name__)

_MAX_FRAMES = 64  # of one file
# A file is deleted as a whole. With 8 files or more, making room never deletes more
# than an eighth of all that is recorded.
_MIN_FILES = 8
_METADATA_BYTES = 1 << 16  # reserved for what is written beside a frame's pixels


class NoRoom(HemascopeError):
    """Nothing may be written, and nothing may be deleted."""


class RecordingWriter:
    """The writer of one recording. Used from one thread."""

    def __init__(
        self,
        settings: RecordingSettings,
        make_head: Callable[[str], Head],
        prepare: Callable[[Path], None],
    ) -> None:
        """Begin a recording in a new folder; repair the newest one before it.

        Parameters
        ----------
        settings
            Where, how much and how.
        make_head
            Returns the head of the recording that has this id.
        prepare
            Puts into the folder what else a replay needs.

        Raises
        ------
        LedgerBusy
            Another process records there.
        OSError
            The folder cannot be made.
        """
        self._settings = settings
        settings.folder.mkdir(parents=True, exist_ok=True)
        self._lock = acquire_lock(settings.folder / LOCK, "records beside")
        # Only the newest can have been cut off: this lock allows one writer at a time,
        # and each start repairs what the start before it left.
        for recording in recordings_in(settings.folder)[-1:]:
            for message in recording.repair():
                log.warning("%s", message)
        name = f"{utc_of(time.monotonic_ns()):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
        self.recording = Recording(settings.folder / name, make_head(name))
        _create_folder(self.recording, prepare)
        self._retention = RetentionPolicy(
            settings.folder, settings.most_gb, settings.least_free_gb
        )
        self._missing: MissingFrames | None = None  # not on the disk yet
        self._file_number = 0
        self._file: _OpenFile | None = None

    def encode_frame(self, pixels: Counts) -> EncodedFrame:
        """Encode a frame (H, W, 3), uint8 or uint16, as it will be stored.

        Only takes processor time: it touches neither the disk nor this object.
        """
        return frame_files.encode_frame(
            pixels, self._settings.format, self._settings.compression
        )

    def write_line(self, line: GapLine | FailedFrame) -> None:
        """Write a gap or a frame without pixels; raises as `write_frames` does."""
        self._write_missing()
        self._make_room(_METADATA_BYTES)
        self._retention.add_bytes(append_line(self.recording.folder, line))

    def write_frames(self, frames: Sequence[tuple[Frame, EncodedFrame]]) -> int:
        """Write as many of these frames as fit into one file; return how many.

        Raises
        ------
        NoRoom
            The limits of [recording] leave no room, and nothing may be deleted; or the
            disk is full.
        OSError
            The disk does not take them. None of them is written then.
        """
        self._write_missing()
        max_bytes = min(MAX_FILE_BYTES, self._retention.max_bytes // _MIN_FILES)
        count = 0 if self._file is None else self._file.count_fitting(frames, max_bytes)
        if count == 0:
            # A new file takes one frame, however large. The next call adds others.
            self._close_file()
            count = 1
        self._make_room(sum(_size(encoded) for _, encoded in frames[:count]))
        try:
            self._append(frames[:count])
        except OSError as error:
            self._abandon_file()
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise NoRoom(f"the disk is full: {error}") from error
        return count

    def add_missing(self, missing: MissingFrames) -> None:
        """Remember frames that are missing; they are written before what comes next.

        Never raises: this is called when the disk may have failed.
        """
        before = self._missing
        if before is not None and before.reason != missing.reason:
            try:
                self._write_missing()
                before = None
            except (OSError, NoRoom):
                pass  # then one line covers both, with the newer reason
        self._missing = missing if before is None else merge_missing(before, missing)

    def close(self) -> None:
        """Write what is missing at the end, and release everything."""
        try:
            self._write_missing()
        except (OSError, NoRoom) as error:
            log.warning(
                "recording=%s its last line is not written: %s",
                self.recording.head.id,
                error,
            )
        self._close_file()
        self._lock.close()

    def _write_missing(self) -> None:
        if self._missing is None:
            return
        self._make_room(_METADATA_BYTES)
        self._retention.add_bytes(append_line(self.recording.folder, self._missing))
        self._missing = None

    def _make_room(self, wanted: int) -> None:
        """Delete the oldest frame files until `wanted` more bytes are allowed."""
        while (reason := self._retention.why_no_room(wanted)) is not None:
            in_use = None if self._file is None else self._file.path
            oldest = self._retention.oldest(self.recording.folder, in_use)
            if oldest is None and self._file is not None:
                # Only the open file is left. Closed, it may be deleted as well.
                self._close_file()
                oldest = self._retention.oldest(self.recording.folder, None)
            if oldest is None:
                raise NoRoom(f"{reason}, and all that is left is pinned")
            self._retention.delete(oldest)

    def _append(self, frames: Sequence[tuple[Frame, EncodedFrame]]) -> None:
        if self._file is None:
            self._file_number += 1
            file = frame_files.create(
                self.recording.folder, self._file_number, self._settings.format
            )
            self._file = _OpenFile(file, frames[0][1])
        self._retention.add_bytes(self._file.append(self.recording.head, frames))

    def _abandon_file(self) -> None:
        """Make the next frame begin a new file; this one may even be deleted."""
        file, self._file = self._file, None
        if file is None:
            return
        try:
            file.abandon()
        except (OSError, FrameFileDamaged) as error:
            log.warning("%s is left as it is: %s", file.path, error)

    def _close_file(self) -> None:
        """Make the next frame begin a new file; this one is whole as it is."""
        if self._file is not None:
            self._file.close()
            self._file = None


class _OpenFile:
    """The frame file that is being written, and the frames in it."""

    def __init__(self, file: FrameFile, like: EncodedFrame) -> None:
        self._file, self._shape_and_type = file, (like.shape, like.dtype)
        self._frames: list[Frame] = []

    @property
    def path(self) -> Path:
        """Its name."""
        return self._file.path

    def count_fitting(
        self, frames: Sequence[tuple[Frame, EncodedFrame]], max_bytes: int
    ) -> int:
        """Return how many of these frames it can take, within `max_bytes`."""
        size, count = self._file.size, 0
        for _, encoded in frames[: _MAX_FRAMES - len(self._frames)]:
            size += _size(encoded)
            is_alike = (encoded.shape, encoded.dtype) == self._shape_and_type
            if not is_alike or size > max_bytes:
                break
            count += 1
        return count

    def append(self, head: Head, frames: Sequence[tuple[Frame, EncodedFrame]]) -> int:
        """Add frames, and return by how many bytes the file grew."""
        all_frames = [*self._frames, *(frame for frame, _ in frames)]
        before = self._file.size
        self._file.append(
            [(encoded, encode(frame)) for frame, encoded in frames],
            *describe(head, all_frames, frames[0][1]),
        )
        self._frames = all_frames
        return self._file.size - before

    def close(self) -> None:
        """Release it."""
        self._file.close()

    def abandon(self) -> None:
        """Free the bytes of frames that could not be written, and release it."""
        self._file.abandon()


def _size(encoded: EncodedFrame) -> int:
    return len(encoded.data) + _METADATA_BYTES


def missing_frames_of(
    item: Frame | GapLine | FailedFrame, reason: str
) -> MissingFrames:
    """Return the line for an item that is not recorded."""
    if isinstance(item, GapLine):
        gap = item.gap
        # A gap is one row. It counts at least one frame, also where the source does
        # not know how many it missed.
        count = max(gap.missed or 1, 1)
        return MissingFrames(
            seq=item.seq,
            last_seq=item.seq,
            count=count,
            first=gap.first,
            last=gap.first + count - 1,
            monotonic_ns=gap.monotonic_ns,
            utc=gap.utc,
            reason=reason,
        )
    shot = item.shot
    return MissingFrames(
        seq=item.seq,
        last_seq=item.seq,
        count=1,
        first=shot.sequence,
        last=shot.sequence,
        monotonic_ns=shot.monotonic_ns,
        utc=shot.utc,
        reason=reason,
    )


def merge_missing(before: MissingFrames, after: MissingFrames) -> MissingFrames:
    """Return one line for missing frames that follow each other."""
    return MissingFrames(
        seq=before.seq,
        last_seq=after.last_seq,
        count=before.count + after.count,
        first=before.first,
        last=after.last,
        monotonic_ns=before.monotonic_ns,
        utc=before.utc,
        reason=after.reason,
    )


def _create_folder(recording: Recording, prepare: Callable[[Path], None]) -> None:
    """Make the folder of a recording.

    `recording.json` gets its name last. So a folder that has this file is complete. A
    folder without it, left by a process that died, is not taken for a recording.
    """
    recording.folder.mkdir()
    prepare(recording.folder)
    draft = recording.folder / f"{HEAD}.new"
    draft.write_bytes(encode(recording.head))
    with draft.open("rb+") as file:
        os.fsync(file.fileno())
    draft.rename(recording.folder / HEAD)
    sync_folder(recording.folder)
    sync_folder(recording.folder.parent)
