"""Keep a source alive: see skipped frames and losses, and open it again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from dataclasses import replace

from edge.backoff import Backoff
from edge.clock import utc_of
from edge.frames import Exposure, Gap, RawFrame, Shot, Source, SourceLost
from edge.schema.results import ControlName, Controls
from edge.sources.control_values import differences

log = logging.getLogger(__name__)


class ReconnectingSource:
    """A source that comes back.

    When the device is lost a gap is reported, and the device opened again after longer
    and longer pauses; when it answers, a second gap says for how long it was away. A
    jump in the driver's numbers is a gap. Numbers never go back, also when the driver
    starts again at 0. A frame whose controls are not those of the first one is doubted,
    but for `varying` ones; another camera in the place of the first is a gap that says
    so.
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
        self._source: Source | None = open_source()
        self._is_live = self._source.is_live
        self._last = -1
        self._offset = 0
        self._held: Exposure | None = None
        self._steadiness = _ControlWatch(varying)
        self._camera: str | None = None
        self._lost_at_s = self._retry_at_s = 0.0

    @property
    def is_live(self) -> bool:
        """As the source is."""
        return self._is_live

    def read(self, timeout_s: float) -> Exposure | Gap | None:
        """Return what comes next; never raises `SourceLost`. See `Source.read`."""
        if self._held is not None:
            held, self._held = self._held, None
            return held
        if self._source is None:
            return self._reopen(timeout_s)
        try:
            item = self._source.read(timeout_s)
        except SourceLost as lost:
            return self._let_go(lost)
        if isinstance(item, Exposure):
            return self._in_order(item)
        return item

    def close(self) -> None:
        """Release the device, if there is one."""
        if self._source is not None:
            self._source.close()
            self._source = None

    def _in_order(self, exposure: Exposure) -> Exposure | Gap:
        """Give the exposure its number; say first what is not as it was."""
        number = exposure.shot.sequence + self._offset
        if number <= self._last:
            self._offset += self._last + 1 - number
            number = self._last + 1
        before, self._last = self._last, number
        missed = number - before - 1 if before >= 0 else 0
        exposure = self._completed(exposure, number)
        shot = exposure.shot
        reasons = [f"{missed} frames skipped by the camera"] if missed else []
        reasons += self._another(shot)
        if not reasons:
            return exposure
        self._held = exposure
        reason = "; ".join(reasons)
        return Gap(before + 1, missed, reason, shot.monotonic_ns, shot.utc)

    def _another(self, shot: Shot) -> list[str]:
        """Say so when a camera was exchanged."""
        before, self._camera = self._camera, shot.camera
        if before is None or before == shot.camera:
            return []
        log.warning("another camera: %s, it was %s", shot.camera, before)
        return [f"another camera: {shot.camera}, it was {before}; calibrate it"]

    def _completed(self, exposure: Exposure, number: int) -> Exposure:
        """Return the exposure with its number and with what is doubtful about it."""
        doubt = self._steadiness.doubt(exposure.shot.controls)
        if number == exposure.shot.sequence and doubt is None:
            return exposure
        shot = replace(exposure.shot, sequence=number, doubt=doubt)
        return Exposure(shot, lambda: RawFrame(shot, exposure.develop().pixels))

    def _let_go(self, lost: SourceLost) -> Gap:
        self.close()
        self._lost_at_s = self._monotonic()
        self._backoff.reset()
        self._retry_at_s = self._lost_at_s + self._backoff.next_s()
        log.warning("source lost: %s", lost)
        return self._gap(f"camera lost: {lost}")

    def _reopen(self, timeout_s: float) -> Gap | None:
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
        now_ns = time.monotonic_ns()
        return Gap(self._last + 1, None, reason, now_ns, utc_of(now_ns))


class _ControlWatch:
    """Compares how the camera is set with how it was when the first frame came."""

    def __init__(self, varying: Collection[ControlName]) -> None:
        self._varying = varying
        self._first: Controls | None = None
        self._seen: Controls | None = None
        self._doubt: str | None = None

    def doubt(self, controls: Controls | None) -> str | None:
        """Say what is not as it was; None where all is."""
        if controls is self._seen:  # sources keep the object while nothing changes
            return self._doubt
        self._seen, self._first = controls, self._first or controls
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
