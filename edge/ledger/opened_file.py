"""Whether a file that is open is still the one that lies in its place."""

from __future__ import annotations

from pathlib import Path


class OpenedFile:
    """A file, and the files beside it, as they were when they were opened.

    A file that is open can be written to and read after it was moved, replaced or
    deleted: the system keeps it until it is closed. So a process that only writes does
    not notice that nobody else will ever see what it wrote. SQLite's log, the file
    "-wal", holds the newest rows, so it must be in its place too.
    """

    def __init__(self, *paths: Path) -> None:
        """Note which files lie at `paths` now; raises `OSError` if one is missing."""
        self._identities = {path: _identity(path) for path in paths}

    @property
    def is_in_place(self) -> bool:
        """Whether each path still leads to the file that was there."""
        try:
            return all(
                _identity(path) == identity
                for path, identity in self._identities.items()
            )
        except OSError:
            return False


def _identity(path: Path) -> tuple[int, int]:
    # The number of an inode is given again only after the file was closed. As long as
    # we hold it open, another file has another number.
    status = path.stat()
    return status.st_dev, status.st_ino
