"""Keep recordings within their bounds: the oldest frames go, pinned ones never."""

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
    add_line,
    recorded_in,
    recordings_in,
    size_of,
)
from edge.recording.fsync import sync_folder

log = logging.getLogger(__name__)

_GB = 10**9


class RetentionPolicy:
    """The folder of a device's recordings. Used from one thread.

    `most_gb`: of all of them; `least_free_gb`: always left on the disk, since results
    may lie on it too.
    """

    def __init__(self, folder: Path, most_gb: float, least_free_gb: float) -> None:
        self.folder = folder
        self._most, self._least_free = int(most_gb * _GB), int(least_free_gb * _GB)
        self._size = 0
        self.look()

    def look(self) -> None:
        """See how large everything is."""
        self._size = sum(recording.size for recording in recordings_in(self.folder))

    def add(self, size: int) -> None:
        """Take note of `size` more bytes."""
        self._size += size

    @property
    def most(self) -> int:
        """Bytes that all recordings may take."""
        return self._most

    def lacks(self, wanted: int) -> str | None:
        """Say why `wanted` more bytes have no room; None where they have."""
        if self._size + wanted > self._most:
            return (
                f"recordings take {self._size / _GB:.2f} GB, at most "
                f"{self._most / _GB:.2f} are allowed (most_gb of [recording])"
            )
        free = shutil.disk_usage(self.folder).free
        if free - wanted < self._least_free:
            return (
                f"{free / _GB:.2f} GB are free, {self._least_free / _GB:.2f} must stay "
                "so (least_free_gb of [recording])"
            )
        return None

    def oldest(self, current: Path, open_file: Path | None) -> Path | None:
        """Return the file that goes next; None where all are pinned or in use."""
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
        """Delete a roll of frames and say so, or all that is left of a recording."""
        size = size_of(path)
        if (path / HEAD).exists():
            shutil.rmtree(path)
        else:
            line = _deleted(path)
            try:
                size -= 0 if line is None else add_line(path.parent, line)
                frame_files.delete(path)
            except OSError:  # so full that not even a line can be written
                frame_files.delete(path)
                size -= 0 if line is None else add_line(path.parent, line)
        self._size -= size
        log.info("deleted %s to make room, %.3f GB", path, size / _GB)


def _deleted(path: Path) -> MissingFrames | None:
    """Return what is said of a roll that goes; None where nothing of it can be read."""
    try:
        frames = [r.item for r in recorded_in(path) if isinstance(r.item, Frame)]
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
    """Return the recording `name`, or those that show the run `name`.

    Raises
    ------
    ConfigurationInvalid
        There is none.
    """
    every = recordings_in(folder)
    found = [r for r in every if r.head.id == name]
    found = found or [r for r in every if name in r.runs()]
    if not found:
        raise ConfigurationInvalid(
            f"{folder}: neither a recording nor a run {name!r} among {len(every)} "
            "recordings; see `hemascope record list`"
        )
    return found


def pin(recording: Recording) -> None:
    """Never delete a recording to make room."""
    path = recording.folder / PINNED
    path.touch()
    sync_folder(recording.folder)


def unpin(recording: Recording) -> None:
    """Let a recording go when its time has come."""
    (recording.folder / PINNED).unlink(missing_ok=True)
