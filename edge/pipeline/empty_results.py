"""Results without a picture: gaps, frames that cannot be examined, and the end."""

from __future__ import annotations

import time

from edge import __version__, clock
from edge.frames import Exposure, Gap, Shot
from edge.schema.results import FrameRange, FrameResult, Status

STOPPED = "acquisition stopped: "  # begins the reason of a ledger's last row


def empty_result(
    status: Status,
    reason: str,
    item: Exposure | Gap | None = None,
    passed_over: int = 0,
) -> FrameResult:
    """Return the result of a gap, or of a frame that was not examined."""
    mono = time.monotonic_ns()
    utc, source, frame = clock.utc_of(mono), "", FrameRange(first=0, last=0)
    shot: Shot | None = None
    point, missed_points = None, None
    if isinstance(item, Gap):
        utc, mono = item.utc, item.monotonic_ns
        last = item.first + max(item.missed or 1, 1) - 1
        frame = FrameRange(first=item.first, last=last, missed=item.missed)
        missed_points = None if item.planned is None else item.planned.what
    elif item is not None:
        shot = item.shot
        point = None if item.planned is None else item.planned.what
        utc, mono, source = shot.utc, shot.monotonic_ns, shot.source_id
        frame = FrameRange(
            first=shot.sequence, last=shot.sequence, passed_over=passed_over
        )
    return FrameResult(
        status=status,
        reason=reason,
        utc=utc,
        monotonic_ns=mono,
        boot_id=clock.boot_id(),
        clock_synchronised=clock.is_synchronised(),
        source=source,
        camera=None if shot is None else shot.camera,
        controls=None if shot is None else shot.controls,
        frame=frame,
        point=point,
        missed_points=missed_points,
        software=__version__,
    )
