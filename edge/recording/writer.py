"""The recording that is being written: its files, and what it lacks.

Everything is on the disk when a method that writes it returns. What is lacking is on
the disk before the next thing that is not, so that a recording never skips anything in
silence.
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
from edge.ledger.cursor import hold
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
    add_line,
    describe,
    recordings_in,
)
from edge.recording.frame_encoding import EncodedFrame, FrameFileDamaged
from edge.recording.frame_files import FrameFile
from edge.recording.fsync import sync_folder
from edge.recording.ome_tiff import MOST_BYTES
from edge.recording.retention import RetentionPolicy
from edge.schema.codec import encode
from edge.settings.run import RecordingSettings

log = logging.getLogger(__name__)

_MOST_FRAMES = 64  # of one file
_LEAST_FILES = 8  # that everything is spread over, so that little goes at a time
_BESIDE = 1 << 16  # bytes of a frame beside its pixels


class NoRoom(HemascopeError):
    """Nothing may be written, and nothing may be deleted."""


class RecordingWriter:
    """The writer of one recording. Used from one thread."""

    def __init__(
        self,
        settings: RecordingSettings,
        head: Callable[[str], Head],
        prepare: Callable[[Path], None],
    ) -> None:
        """Begin a recording in a folder of its own; mend the one before.

        Parameters
        ----------
        settings
            Where, how much and how.
        head
            Gives what is said of the recording of an id.
        prepare
            Puts into its folder what else a replay needs.

        Raises
        ------
        LedgerBusy
            Another process records there.
        OSError
            The folder cannot be made.
        """
        self._settings = settings
        settings.folder.mkdir(parents=True, exist_ok=True)
        self._lock = hold(settings.folder / LOCK, "records beside")
        for recording in recordings_in(settings.folder)[-1:]:
            for told in recording.mend():
                log.warning("%s", told)
        name = f"{utc_of(time.monotonic_ns()):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
        self.recording = Recording(settings.folder / name, head(name))
        _begin(self.recording, prepare)
        self._shelf = RetentionPolicy(
            settings.folder, settings.most_gb, settings.least_free_gb
        )
        self._lacking: MissingFrames | None = None
        self._number = 0
        self._file: _OpenFile | None = None

    def pack(self, pixels: Counts) -> EncodedFrame:
        """Store a frame (H, W, 3) as it will lie there; takes nothing but time."""
        return frame_files.pack(
            pixels, self._settings.format, self._settings.compression
        )

    def write_line(self, line: GapLine | FailedFrame) -> None:
        """Write down what has no picture; raises as `write_some`."""
        self._say_lacking()
        self._make_room(_BESIDE)
        self._shelf.add(add_line(self.recording.folder, line))

    def write_some(self, shown: Sequence[tuple[Frame, EncodedFrame]]) -> int:
        """Write down as many of these frames as belong into one file; return how many.

        Raises
        ------
        NoRoom
            There is none within the bounds, and nothing may be deleted.
        OSError
            The disk does not take them. None of them is written then.
        """
        self._say_lacking()
        most = min(MOST_BYTES, self._shelf.most // _LEAST_FILES)
        fits = 0 if self._file is None else self._file.takes(shown, most)
        if fits == 0:
            self._close_file()
            fits = 1
        self._make_room(sum(_size(packed) for _, packed in shown[:fits]))
        try:
            self._append(shown[:fits])
        except OSError as error:
            self._abandon_file()
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise NoRoom(f"the disk is full: {error}") from error
        return fits

    def lack(self, lacking: MissingFrames) -> None:
        """Take note of frames that are not kept; it is written with what comes next."""
        before = self._lacking
        if before is not None and before.reason != lacking.reason:
            try:
                self._say_lacking()
                before = None
            except (OSError, NoRoom):  # later, in one line
                pass
        self._lacking = lacking if before is None else joined(before, lacking)

    def close(self) -> None:
        """Say what is lacking at the end, and let go of everything."""
        try:
            self._say_lacking()
        except (OSError, NoRoom) as error:
            log.warning("recording=%s the last line: %s", self.recording.head.id, error)
        self._close_file()
        self._lock.close()

    def _say_lacking(self) -> None:
        if self._lacking is None:
            return
        self._make_room(_BESIDE)
        self._shelf.add(add_line(self.recording.folder, self._lacking))
        self._lacking = None

    def _make_room(self, wanted: int) -> None:
        while (reason := self._shelf.lacks(wanted)) is not None:
            in_use = None if self._file is None else self._file.path
            oldest = self._shelf.oldest(self.recording.folder, in_use)
            if oldest is None and self._file is not None:
                self._close_file()  # then it may go as well
                oldest = self._shelf.oldest(self.recording.folder, None)
            if oldest is None:
                raise NoRoom(f"{reason}, and all that is left is pinned")
            self._shelf.delete(oldest)

    def _append(self, shown: Sequence[tuple[Frame, EncodedFrame]]) -> None:
        if self._file is None:
            self._number += 1
            roll = frame_files.begin(
                self.recording.folder, self._number, self._settings.format
            )
            self._file = _OpenFile(roll, shown[0][1])
        self._shelf.add(self._file.append(self.recording.head, shown))

    def _abandon_file(self) -> None:
        """Let the next frame begin a new file; this one may even be gone."""
        file, self._file = self._file, None
        if file is None:
            return
        try:
            file.abandon()
        except (OSError, FrameFileDamaged) as error:
            log.warning("%s is left as it is: %s", file.path, error)

    def _close_file(self) -> None:
        """Let the next frame begin a new file; this one is whole as it is."""
        if self._file is not None:
            self._file.close()
            self._file = None


class _OpenFile:
    """The roll that is written, and what it holds."""

    def __init__(self, roll: FrameFile, like: EncodedFrame) -> None:
        self._roll, self._looks = roll, (like.shape, like.dtype)
        self._frames: list[Frame] = []

    @property
    def path(self) -> Path:
        """What it is called."""
        return self._roll.path

    def takes(self, shown: Sequence[tuple[Frame, EncodedFrame]], most: int) -> int:
        """Return how many of these frames it may hold as well, within `most` bytes."""
        size, count = self._roll.size, 0
        for _, packed in shown[: _MOST_FRAMES - len(self._frames)]:
            size += _size(packed)
            if (packed.shape, packed.dtype) != self._looks or size > most:
                break
            count += 1
        return count

    def append(self, head: Head, shown: Sequence[tuple[Frame, EncodedFrame]]) -> int:
        """Add frames, and return by how many bytes the roll grew."""
        frames = [*self._frames, *(frame for frame, _ in shown)]
        before = self._roll.size
        self._roll.append(
            [(packed, encode(frame)) for frame, packed in shown],
            *describe(head, frames, shown[0][1]),
        )
        self._frames = frames
        return self._roll.size - before

    def close(self) -> None:
        """Let go of it."""
        self._roll.close()

    def abandon(self) -> None:
        """Give back the room of frames that could not be written, and let go."""
        self._roll.abandon()


def _size(packed: EncodedFrame) -> int:
    return len(packed.data) + _BESIDE


def lacking_of(item: Frame | GapLine | FailedFrame, reason: str) -> MissingFrames:
    """Return what is said of something that is not kept."""
    if isinstance(item, GapLine):
        first, moment = item.gap.first, item.gap
        return MissingFrames(
            seq=item.seq,
            last_seq=item.seq,
            count=max(item.gap.missed or 1, 1),
            first=first,
            last=first + max(item.gap.missed or 1, 1) - 1,
            monotonic_ns=moment.monotonic_ns,
            utc=moment.utc,
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


def joined(before: MissingFrames, after: MissingFrames) -> MissingFrames:
    """Return one line for frames that lack one after the other."""
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


def _begin(recording: Recording, prepare: Callable[[Path], None]) -> None:
    """Make the folder; it is a recording once its head is there."""
    recording.folder.mkdir()
    prepare(recording.folder)
    draft = recording.folder / f"{HEAD}.new"
    draft.write_bytes(encode(recording.head))
    with draft.open("rb+") as file:
        os.fsync(file.fileno())
    draft.rename(recording.folder / HEAD)
    sync_folder(recording.folder)
    sync_folder(recording.folder.parent)
