"""Limit how often something may happen: a burst first, then so many per second."""

from __future__ import annotations

import time
from collections.abc import Callable


class RateLimit:
    """A token bucket: it holds up to `burst` tokens and gains `per_s` per second."""

    def __init__(
        self,
        burst: float,
        per_s: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._burst, self._per_s, self._monotonic = burst, per_s, monotonic
        self._tokens, self._refilled_s = burst, monotonic()

    def try_acquire(self) -> bool:
        """Take one token; return False where there is none."""
        now_s = self._monotonic()
        gained = (now_s - self._refilled_s) * self._per_s
        self._tokens = min(self._burst, self._tokens + gained)
        self._refilled_s = now_s
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
