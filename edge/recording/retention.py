"""Keep recordings within their limits: the oldest frames go first, pinned ones never.

Two limits hold at once: the bytes that all recordings take, and the bytes that stay
free on their disk, because results may be written to the same disk.

What is deleted at a time is one frame file, not one frame: frames cannot be cut out of
a file that stays whole, and a recording loses its beginning, not its end. A recording
without frame files is deleted with its folder.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from edge.errors import ConfigurationInvalid, HemascopeError
from edge.recording import frame_files
from edge.recording.format import (
    HEAD,
    PINNED,
    Frame,
    MissingFrames,
    Recording,
    append_line,
    recorded_frames_in,
    recordings_in,
    size_of,
)
from edge.recording.fsync import sync_folder

log = logging.getLogger(__name__)

_GB = 10**9


class RetentionPolicy:
    """The folder of a device's recordings. Used from one thread.

    `most_gb`: what all recordings may take. `least_free_gb`: what always stays free on
    the disk.
    """

    def __init__(self, folder: Path, most_gb: float, least_free_gb: float) -> None:
        self.folder = folder
        self.max_bytes = int(most_gb * _GB)
        self._min_free_bytes = int(least_free_gb * _GB)
        # Measured once, then counted: looking at thousands of files for each frame
        # would take longer than writing it. The writer's lock keeps others away.
        self._size = sum(recording.size for recording in recordings_in(folder))

    def add_bytes(self, size: int) -> None:
        """Count `size` more bytes."""
        self._size += size

    def why_no_room(self, wanted: int) -> str | None:
        """Say why `wanted` more bytes are not allowed; None where they are."""
        if self._size + wanted > self.max_bytes:
            return (
                f"recordings take {self._size / _GB:.2f} GB, at most "
                f"{self.max_bytes / _GB:.2f} are allowed (most_gb of [recording])"
            )
        free = shutil.disk_usage(self.folder).free
        if free - wanted < self._min_free_bytes:
            return (
                f"{free / _GB:.2f} GB are free, {self._min_free_bytes / _GB:.2f} must "
                "stay so (least_free_gb of [recording])"
            )
        return None

    def oldest(self, current: Path, open_file: Path | None) -> Path | None:
        """Return what is deleted next; None where all is pinned or in use.

        Parameters
        ----------
        current
            The folder of the recording that is being written.
        open_file
            Its frame file that is being written.

        Returns
        -------
        Path | None
            A frame file, or the folder of a recording that has none left.
        """
        for recording in recordings_in(self.folder):
            if recording.is_pinned:
                continue
            for path in recording.files:
                if path != open_file:
                    return path
            if recording.folder != current:
                return recording.folder
        return None

    def delete(self, path: Path) -> None:
        """Delete a frame file and say so in a line, or the folder of a recording.

        The line is written before the file goes. After a power cut between the two the
        recording has both, and `Recording.items` believes the file. In the other order
        frames could be missing without a word. Only a disk that is too full for the
        line makes us delete first.
        """
        size = size_of(path)
        if (path / HEAD).exists():
            shutil.rmtree(path)
        else:
            line = _deletion_line(path)
            try:
                size -= 0 if line is None else append_line(path.parent, line)
                frame_files.delete(path)
            except OSError:
                frame_files.delete(path)
                size -= 0 if line is None else append_line(path.parent, line)
        self._size -= size
        log.info("deleted %s to make room, %.3f GB", path, size / _GB)


def _deletion_line(path: Path) -> MissingFrames | None:
    """Return the line for a frame file that goes; None where it cannot be read."""
    try:
        frames = [r.item for r in recorded_frames_in(path) if isinstance(r.item, Frame)]
    except HemascopeError:
        return None
    first, last = frames[0], frames[-1]
    return MissingFrames(
        seq=first.seq,
        last_seq=last.seq,
        count=len(frames),
        first=first.shot.sequence,
        last=last.shot.sequence,
        monotonic_ns=first.shot.monotonic_ns,
        utc=first.shot.utc,
        reason="deleted to make room for newer ones",
    )


def find(folder: Path, name: str) -> list[Recording]:
    """Return the recording `name`, or the recordings that show frames of run `name`.

    Raises
    ------
    ConfigurationInvalid
        There is none.
    """
    recordings = recordings_in(folder)
    found = [r for r in recordings if r.head.id == name]
    found = found or [r for r in recordings if name in r.runs()]
    if not found:
        raise ConfigurationInvalid(
            f"{folder}: neither a recording nor a run {name!r} among "
            f"{len(recordings)} recordings; see `hemascope record list`"
        )
    return found


def pin(recording: Recording) -> None:
    """Never delete a recording to make room."""
    path = recording.folder / PINNED
    path.touch()
    sync_folder(recording.folder)


def unpin(recording: Recording) -> None:
    """Allow a recording to be deleted to make room."""
    (recording.folder / PINNED).unlink(missing_ok=True)
