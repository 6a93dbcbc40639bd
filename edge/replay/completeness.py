"""Find frames that a recording should hold and does not.

Frames that were left out on purpose, `every` in [recording], are not among them: a line
in the recording says so. What is missing shows in three places: lines that name frames
which were lost or deleted; a file that declares more frames than are whole in it; and a
number that is missing among the files. Numbers of the source say nothing: they jump
where acquisition was paused. Only the ledger knows of frames behind the last file:
`compare` looks there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from edge.recording import frame_files
from edge.recording.format import MissingFrames, RecordedItem, Recording

_ON_PURPOSE = re.compile(r"one of \d+ frames is recorded")


def missing_in(recording: Recording, recorded: Sequence[RecordedItem]) -> list[str]:
    """Return what is missing, a line each; nothing where the recording is whole.

    Parameters
    ----------
    recording
        As it is on the disk.
    recorded
        Its items, in order.
    """
    lines = []
    if not any(r.stored_frame is not None for r in recorded):
        lines.append("it holds no frame")
    for r in recorded:
        if isinstance(r.item, MissingFrames) and not is_on_purpose(r.item):
            rows = rows_text(r.item.seq, r.item.last_seq)
            lines.append(f"{rows}: {r.item.count} frames are missing: {r.item.reason}")
    return [*lines, *_files_cut_off(recording, recorded)]


def is_on_purpose(missing: MissingFrames) -> bool:
    """Whether frames were left out since not all of them were to be recorded."""
    return _ON_PURPOSE.fullmatch(missing.reason) is not None


def _files_cut_off(recording: Recording, recorded: Sequence[RecordedItem]) -> list[str]:
    """Return which files hold fewer frames than they declare, and which are gone."""
    frames_of: dict[str, int] = {}
    for r in recorded:
        if r.stored_frame is not None:
            name = r.stored_frame.path.name
            frames_of[name] = frames_of.get(name, 0) + 1
    lines, numbers = [], set[int]()
    for path in recording.files:
        found = re.search(r"frames-(\d+)", path.name)
        numbers.add(int(found[1]) if found else 0)
        count = frames_of.get(path.name, 0)
        if not frame_files.declares(path, count):
            lines.append(
                f"{path.name}: {count} whole frames, and it declares others; the file "
                "was cut off or damaged: restore it, or see `hemascope record repair`"
            )
    gone = set(range(1, max(numbers, default=0))) - numbers
    deleted = any(isinstance(r.item, MissingFrames) for r in recorded)
    if gone and not deleted:  # a line says of those deleted to make room
        shown = ", ".join(f"{number:05d}" for number in sorted(gone)[:5])
        lines.append(f"{len(gone)} files are not there: frames-{shown}")
    return lines


def rows_text(first: int, last: int) -> str:
    """Name one row, or a span of them."""
    return f"row {first}" if first == last else f"rows {first} to {last}"
