"""When the archive asks a device to send again from a row on."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

_PERIOD_S = 1.0


class ResumeRequests:
    """Which chains were asked lately, and for which row.

    A device may have a whole window of rows under way, and each of them lies ahead of
    the missing one. One request is enough; more would make it begin again and again. A
    request may be lost, so it is repeated once per second. Where rows were stored since
    the last request, another row is missing now, and that is asked for at once.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._asked: dict[Hashable, tuple[float, int]] = {}  # moment, last row stored

    def is_due(self, chain: Hashable, upto: int) -> bool:
        """Whether to ask `chain` to go on after row `upto`; if so, it counts as asked.

        Only a row that is missing is asked for: call it where one is.
        """
        now_s = self._monotonic()
        asked_s, asked_upto = self._asked.get(chain, (now_s - _PERIOD_S, upto))
        if now_s - asked_s < _PERIOD_S and upto == asked_upto:
            return False
        self._asked = {
            known: (at_s, row)
            for known, (at_s, row) in self._asked.items()
            if now_s - at_s < _PERIOD_S
        }
        self._asked[chain] = now_s, upto
        return True
