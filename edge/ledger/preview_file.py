"""Pass the newest annotated picture from the run process to the publisher.

A preview may be lost. It is one small file beside the ledger, named by the row that it
shows, and the next preview replaces it. So the run process never waits for the
publisher, and previews never fill the disk.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

MAX_PREVIEW_BYTES = 240_000  # brokers are set to refuse 256 kB
# The row is in the name and not in a second file: picture and row cannot be mixed up.
_NAME = "preview-{seq}.jpg"


@dataclass(frozen=True, slots=True)
class Preview:
    """JPEG bytes of the annotated frame of row `seq`."""

    seq: int
    jpeg: bytes


class PreviewWriter:
    """Writes at most `rate_hz` previews per second; 0 writes none."""

    def __init__(self, folder: Path, rate_hz: float) -> None:
        self._folder, self._rate_hz = folder, rate_hz
        self._next_due_s = 0.0
        clear_previews(folder)

    @property
    def is_enabled(self) -> bool:
        """Whether previews are made at all."""
        return self._rate_hz > 0

    def is_due(self) -> bool:
        """Whether a preview of the next frame is wanted."""
        return self._rate_hz > 0 and time.monotonic() >= self._next_due_s

    def write(self, preview: Preview) -> None:
        """Replace the preview; on a full disk it is left out."""
        # From now on, not from when this one was due: a machine that is too slow for
        # the rate makes fewer previews, and does not try to catch up.
        self._next_due_s = time.monotonic() + 1 / self._rate_hz
        # The new one is in place before the old ones go, so a reader always finds one.
        draft = self._folder / "preview.new"
        old = list(self._folder.glob(_NAME.format(seq="*")))
        try:
            draft.write_bytes(preview.jpeg)
            draft.replace(self._folder / _NAME.format(seq=preview.seq))
            for path in old:
                path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("preview of row %d not written: %s", preview.seq, error)


def newest_preview(folder: Path, after: int = 0) -> Preview | None:
    """Return the newest preview of a row later than `after`; None if there is none."""
    newest = max(folder.glob(_NAME.format(seq="*")), key=_seq, default=None)
    if newest is None or _seq(newest) <= after:
        return None
    try:
        return Preview(_seq(newest), newest.read_bytes())
    except FileNotFoundError:  # replaced since it was listed
        return None


def clear_previews(folder: Path) -> None:
    """Delete the previews of an earlier process."""
    for path in folder.glob(_NAME.format(seq="*")):
        path.unlink(missing_ok=True)


def _seq(path: Path) -> int:
    return int(path.stem.split("-")[1])
