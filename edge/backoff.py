"""Wait longer after each failure, and each process at another moment."""

from __future__ import annotations

import random


class Backoff:
    """Delays of 1, 2, 4 … seconds up to a limit, each shortened by up to a half.

    The random part keeps devices that lost the same broker from coming back together.
    """

    def __init__(self, first_s: float = 1.0, max_s: float = 30.0) -> None:
        self._first_s, self._max_s = first_s, max_s
        self._next_s = first_s

    def next_s(self) -> float:
        """Return the time to wait now."""
        wait_s = self._next_s * random.uniform(0.5, 1.0)  # noqa: S311 no secret
        self._next_s = min(self._next_s * 2, self._max_s)
        return wait_s

    def reset(self) -> None:
        """Begin again with the first delay, after a success."""
        self._next_s = self._first_s
