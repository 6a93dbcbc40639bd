"""Make the names in a folder safe: syncing a file does not sync its name."""

from __future__ import annotations

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Return when the names in a folder are on the disk.

    A new or renamed file can be lost in a power cut although its own bytes were synced:
    the name belongs to the folder (fsync(2), "Calling fsync() does not necessarily
    ensure that the entry in the directory containing the file has also reached disk").
    """
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
