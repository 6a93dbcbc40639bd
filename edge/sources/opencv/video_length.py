"""How many frames a video file says it has."""

from __future__ import annotations

from pathlib import Path

import cv2

# Boxes that a QuickTime or MP4 file may begin with.
_MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")


def announced_frames(path: Path, capture: cv2.VideoCapture) -> int | None:
    """Return how many frames the header of a file announces.

    None for containers that do not count: of Matroska and others OpenCV tells an
    estimate by length and rate, which is wrong where the rate varies.
    """
    with path.open("rb") as file:
        start = file.read(12)
    is_avi = start[:4] == b"RIFF" and start[8:12] == b"AVI "
    if not is_avi and start[4:8] not in _MP4_BOXES:
        return None
    frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    return frames if frames > 0 else None
