"""When the run process must end: frame after frame fails, or one never ends.

A frame that fails becomes a rejected row and the next one goes on: one bad frame is no
reason to stop a run. Several in a row are, since the next will fail too. Both classes
are used by the main thread alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from edge.errors import HemascopeError
from edge.run.frame_worker import FrameOutcome, RunFailed

_MIN_LEFT_S = 1.0  # that following a frame may take, however long it was in work before


class FailurePolicy:
    """Counts failures in a row, and keeps the first error that ends the process."""

    def __init__(self, max_failures: int) -> None:
        self._max_failures = max_failures
        self._in_a_row = 0
        self.error: HemascopeError | None = None

    def give_up(self, error: HemascopeError) -> None:
        """End the process by `error`, unless an earlier one does so already."""
        self.error = self.error or error

    def count(self, outcome: FrameOutcome) -> None:
        """Count a frame; gaps and damaged frames had no chance to fail and do not."""
        if outcome.failure is not None:
            self._in_a_row += 1
        elif outcome.digest is not None:
            self._in_a_row = 0
        if self._in_a_row >= self._max_failures:
            self.give_up(
                RunFailed(
                    f"{self._in_a_row} frames in a row failed, the last one: "
                    f"{outcome.failure}"
                )
            )


class HangWatch:
    """Watches that results go on: an engine or a driver may hang for ever.

    The time runs from the last result, or from the last moment without any frame in
    work, to `max_frame_s` later.
    """

    def __init__(
        self, max_frame_s: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_frame_s, self._monotonic = max_frame_s, monotonic
        self._since_s = monotonic()

    def restart(self) -> None:
        """Begin to count anew: a result was written, or no frame is in work."""
        self._since_s = self._monotonic()

    @property
    def left_s(self) -> float:
        """Seconds that what is in work may still take; never below a second."""
        spent_s = self._monotonic() - self._since_s
        return max(self._max_frame_s - spent_s, _MIN_LEFT_S)

    @property
    def is_hung(self) -> bool:
        """Whether a frame has been in work for too long."""
        return self._monotonic() - self._since_s > self._max_frame_s

    def error(self) -> RunFailed:
        """Return the error that says so."""
        return RunFailed(
            f"a frame has been in work for {self._max_frame_s:.0f} s without "
            "a result; the engine or a driver hangs, start again"
        )
