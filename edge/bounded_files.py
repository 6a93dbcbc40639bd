"""Read a file that somebody else made: only a regular one, and not without limit."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """Return the bytes of a regular file of at most `max_bytes`.

    A device or a pipe may have no end, or keep its reader waiting for ever.

    Raises
    ------
    OSError
        The file cannot be read, is not a regular one, or is larger. `strerror` says so.
    """
    # Without O_NONBLOCK the opening of a pipe waits until somebody writes into it.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            text = "is a device or a pipe, expected a regular file"
            raise OSError(errno.EINVAL, text)
        if found.st_size > max_bytes:
            raise OSError(errno.EFBIG, _too_large(found.st_size, max_bytes))
        data = file.read(max_bytes + 1)  # it may have grown meanwhile
        if len(data) > max_bytes:
            raise OSError(errno.EFBIG, _too_large(len(data), max_bytes))
    return data


def _too_large(size: int, max_bytes: int) -> str:
    return f"has {size:,} bytes, expected at most {max_bytes:,}"
