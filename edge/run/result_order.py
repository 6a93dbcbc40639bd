"""Put the outcomes of parallel workers back in the order of their frames."""

from __future__ import annotations

from edge.run.frame_worker import FrameOutcome


class ResultOrder:
    """Outcomes that wait for an earlier one. Used by the main thread.

    Frames are numbered from 0 as workers take them (`FrameQueue`), and each number has
    exactly one outcome: so the next row is due when the next number has arrived.
    """

    def __init__(self) -> None:
        self._waiting: dict[int, FrameOutcome] = {}
        self._due = 0

    def add(self, outcome: FrameOutcome) -> None:
        """Let an outcome wait for its turn."""
        self._waiting[outcome.queued.number] = outcome

    def take_due(self) -> FrameOutcome | None:
        """Return the outcome whose turn it is, None while it is still in work."""
        outcome = self._waiting.pop(self._due, None)
        if outcome is not None:
            self._due += 1
        return outcome

    def take(self, number: int) -> FrameOutcome | None:
        """Return an outcome out of turn, behind one that will never come."""
        return self._waiting.pop(number, None)
