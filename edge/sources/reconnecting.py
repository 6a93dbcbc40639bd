"""Keep a source alive: see skipped frames and losses, and open it again.

Every source is wrapped in a `ReconnectingSource`, so drivers stay simple. A driver
reports a loss by raising `SourceLost` and numbers its frames as it can; everything
about reopening, numbering over a loss and settings that change is here, once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from dataclasses import replace

from edge.backoff import Backoff
from edge.clock import utc_of
from edge.frames import Exposure, Gap, Shot, Source, SourceLost
from edge.schema.results import ControlName, Controls
from edge.sources.control_values import differences

log = logging.getLogger(__name__)


class ReconnectingSource:
    """A source that opens its device again after a loss.

    When the device is lost, a gap is reported, and the device is opened again after
    longer and longer pauses. When it answers, a second gap says how long it was away.

    Frame numbers only rise, also when the driver starts again at 0. A jump in the
    driver's numbers is reported as a gap. A frame whose controls differ from those of
    the first frame is doubted, except for `varying` controls. Another camera in the
    place of the first is reported as a gap too.

    `read` never raises `SourceLost`; only the constructor does, since a camera that is
    not there at the start is a fault of the settings, not a loss.
    """

    def __init__(
        self,
        open_source: Callable[[], Source],
        *,
        varying: Collection[ControlName] = (),
        backoff: Backoff | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._open = open_source
        self._backoff = backoff or Backoff()
        self._monotonic, self._sleep = monotonic, sleep
        self._source: Source | None = open_source()  # None while it is lost
        self._is_live = self._source.is_live
        # number of a frame = number of the driver + offset. The offset is 0 until a
        # driver starts again; then it grows, so that numbers go on rising.
        self._last_number = -1
        self._offset = 0
        # `read` returns one item. Where a frame reveals a gap, the gap is returned
        # first and the frame waits here for the next call.
        self._waiting: Exposure | None = None
        self._control_watch = _ControlWatch(varying)
        self._camera: str | None = None
        self._lost_at_s = self._retry_at_s = 0.0

    @property
    def is_live(self) -> bool:
        """As the source is."""
        return self._is_live

    def read(self, timeout_s: float) -> Exposure | Gap | None:
        """Return what comes next; never raises `SourceLost`. See `Source.read`."""
        if self._waiting is not None:
            exposure, self._waiting = self._waiting, None
            return exposure
        if self._source is None:
            return self._reopen(timeout_s)
        try:
            item = self._source.read(timeout_s)
        except SourceLost as error:
            return self._lose(error)
        if isinstance(item, Exposure):
            return self._in_order(item)
        return item

    def close(self) -> None:
        """Release the device, if there is one."""
        if self._source is not None:
            self._source.close()
            self._source = None

    def _in_order(self, exposure: Exposure) -> Exposure | Gap:
        """Give the exposure its number, and report first what is missing before it.

        Invariant: numbers that leave here rise by exactly one, or a gap names those in
        between. So a reader can prove from numbers and gaps that it lost nothing.
        """
        number = exposure.shot.sequence + self._offset
        # The driver counts from 0 again after it was opened again, or repeats a number.
        # How many frames were missed meanwhile is unknown, so the frame gets the next
        # number; that time was lost is said by the gap "camera back".
        if number <= self._last_number:
            self._offset += self._last_number + 1 - number
            number = self._last_number + 1
        before, self._last_number = self._last_number, number
        # Before the first frame nothing can be missing: some drivers do not begin at 0.
        missed = number - before - 1 if before >= 0 else 0
        exposure = self._numbered(exposure, number)
        shot = exposure.shot
        reasons = [f"{missed} frames skipped by the camera"] if missed else []
        reasons += self._camera_change(shot)
        if not reasons:
            return exposure
        self._waiting = exposure
        reason = "; ".join(reasons)
        return Gap(before + 1, missed, reason, shot.monotonic_ns, shot.utc)

    def _camera_change(self, shot: Shot) -> list[str]:
        """Return the reason for a gap where another camera answers; else nothing."""
        before, self._camera = self._camera, shot.camera
        if before is None or before == shot.camera:
            return []
        log.warning("another camera: %s, it was %s", shot.camera, before)
        return [f"another camera: {shot.camera}, it was {before}; calibrate it"]

    def _numbered(self, exposure: Exposure, number: int) -> Exposure:
        """Return the exposure with its number, and with what is doubtful about it."""
        doubt = self._control_watch.doubt(exposure.shot.controls)
        if number == exposure.shot.sequence and doubt is None:
            return exposure
        shot = replace(exposure.shot, sequence=number, doubt=doubt)
        # A frame is not decoded here: only one that somebody looks at pays for it.
        return Exposure(shot, lambda: replace(exposure.develop(), shot=shot))

    def _lose(self, error: SourceLost) -> Gap:
        """Release the device, and plan when to open it again."""
        self.close()
        self._lost_at_s = self._monotonic()
        self._backoff.reset()
        self._retry_at_s = self._lost_at_s + self._backoff.next_s()
        log.warning("source lost: %s", error)
        return self._gap(f"camera lost: {error}")

    def _reopen(self, timeout_s: float) -> Gap | None:
        """Open the device when its time has come; a gap says that it is back."""
        # The pause between two attempts is cut into reads of `timeout_s`, so that
        # whoever reads can stop, and feed the watchdog, while the camera is away.
        wait_s = self._retry_at_s - self._monotonic()
        if wait_s > 0:
            self._sleep(min(wait_s, timeout_s))
            return None
        try:
            self._source = self._open()
        except SourceLost as error:
            wait_s = self._backoff.next_s()
            self._retry_at_s = self._monotonic() + wait_s
            log.warning("source still lost, next try in %.1f s: %s", wait_s, error)
            return None
        away_s = self._monotonic() - self._lost_at_s
        log.info("source back after %.1f s", away_s)
        return self._gap(f"camera back after {away_s:.1f} s")

    def _gap(self, reason: str) -> Gap:
        """Return a gap of unknown length: nobody counted while the camera was away."""
        now_ns = time.monotonic_ns()
        return Gap(self._last_number + 1, None, reason, now_ns, utc_of(now_ns))


class _ControlWatch:
    """Compares how the camera is set with how it was set at the first frame."""

    def __init__(self, varying: Collection[ControlName]) -> None:
        self._varying = varying
        self._first: Controls | None = None
        self._latest: Controls | None = None
        self._doubt: str | None = None

    def doubt(self, controls: Controls | None) -> str | None:
        """Return what differs from the first frame; None where nothing does."""
        # Called for every frame, so it compares identity first: sources keep the same
        # object while nothing changes (see `Readback`).
        if controls is self._latest:
            return self._doubt
        # The first controls that are known are the standard. It survives a loss of the
        # device: a camera that lost its settings with its power is noticed.
        self._latest, self._first = controls, self._first or controls
        before, self._doubt = self._doubt, self._compare(controls)
        if self._doubt != before:
            log.warning(
                "controls of the camera: %s", self._doubt or "as at first again"
            )
        return self._doubt

    def _compare(self, controls: Controls | None) -> str | None:
        if self._first is None or controls is self._first:
            return None
        if controls is None:
            return "how the camera is set cannot be read back; check its cable"
        found = differences(self._first, controls, self._varying)
        if not found:
            return None
        return f"changed since the start: {', '.join(found)}; set it back or calibrate"
