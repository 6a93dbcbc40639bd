"""Wait longer after each failure, not all at the same moment."""

from __future__ import annotations

import random


class Backoff:
    """Delays of 1, 2, 4 … seconds up to a limit, each shortened by up to a half."""

    def __init__(self, first_s: float = 1.0, longest_s: float = 30.0) -> None:
        self._first_s, self._longest_s = first_s, longest_s
        self._next_s = first_s

    def next_s(self) -> float:
        """Return the time to wait now."""
        wait_s = self._next_s * random.uniform(0.5, 1.0)  # noqa: S311 no secret
        self._next_s = min(self._next_s * 2, self._longest_s)
        return wait_s

    def reset(self) -> None:
        """Start over: it worked."""
        self._next_s = self._first_s
