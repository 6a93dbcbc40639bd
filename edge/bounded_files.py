"""Read a file that somebody else made: only a regular one, and not without limit."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

_KINDS = {
    stat.S_ISFIFO: "a named pipe",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
    stat.S_ISSOCK: "a socket",
    stat.S_ISDIR: "a folder",
}


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading.

    A device or a pipe may have no end, or keep its reader waiting for ever.

    Raises
    ------
    OSError
        The file cannot be read, or is not a regular one. `strerror` says so.
    """
    # Without O_NONBLOCK the opening of a pipe waits until somebody writes into it.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            kind = next((k for is_kind, k in _KINDS.items() if is_kind(mode)), "none")
            raise OSError(errno.EINVAL, f"is {kind}, expected a regular file")
        return os.fdopen(fd, "rb")
    except BaseException:
        os.close(fd)
        raise


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """Return the bytes of a regular file of at most `max_bytes`; see `open_regular`.

    Raises
    ------
    OSError
        The file cannot be read, is not a regular one, or is larger. `strerror` says so.
    """
    with open_regular(path) as file:
        found = os.fstat(file.fileno())
        if found.st_size > max_bytes:
            raise OSError(errno.EFBIG, _too_large(found.st_size, max_bytes))
        data = file.read(max_bytes + 1)  # it may have grown meanwhile
        if len(data) > max_bytes:
            raise OSError(errno.EFBIG, _too_large(len(data), max_bytes))
    return data


def _too_large(size: int, max_bytes: int) -> str:
    return f"has {size:,} bytes, expected at most {max_bytes:,}"
