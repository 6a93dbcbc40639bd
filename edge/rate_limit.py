"""So many at once, then so many per second."""

from __future__ import annotations

import time
from collections.abc import Callable


class RateLimit:
    """A token bucket: holds up to `at_once`, refilled by `per_s`."""

    def __init__(
        self,
        at_once: float,
        per_s: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most, self._per_s, self._monotonic = at_once, per_s, monotonic
        self._left, self._since_s = at_once, monotonic()

    def spend(self) -> bool:
        """Spend one; False where there is none left."""
        now_s = self._monotonic()
        self._left = min(self._most, self._left + (now_s - self._since_s) * self._per_s)
        self._since_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True
