"""Carry what a recurrent model remembers of each followed cell from frame to frame.

One step per cell and frame, however long a cell has been there. The states lie in the
engine as long as the same cells come in the same order; otherwise they are fetched,
sorted anew and put back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.artifacts.bundle import Bundle, BundleRefused
from edge.engines import EngineFailed, RecurrentEngine
from edge.stages.decision import decide

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """What the model says of each cell of a frame.

    `tracks` (N,); `probabilities` (N, K) float32, calibrated; `frames` (N,): steps
    since the state of the cell was new.
    """

    tracks: Ids
    probabilities: NDArray[np.float32]
    frames: NDArray[np.int64]


class StateStore:
    """The states of followed cells. Used from the thread of its engine.

    Parameters
    ----------
    bundle
        A recurrent model.
    engine
        Its engine.
    most_cells
        How many cells have a state at once.
    most_rows
        Cells of one call; more go in parts.

    Raises
    ------
    BundleRefused
        The model has no state.
    """

    def __init__(
        self, bundle: Bundle, engine: RecurrentEngine, most_cells: int, most_rows: int
    ) -> None:
        size = bundle.record.state_size
        if size is None:
            raise BundleRefused(
                f"{bundle.id}: keeps no state, expected a recurrent model; train one "
                "with `hemascope train rnn`"
            )
        self._rule, self._engine = bundle.record, engine
        self._most_rows = most_rows
        self._states = np.zeros((most_cells, size), np.float32)
        self._frames = np.zeros(most_cells, np.int64)
        self._rows: dict[int, int] = {}
        self._free = list(range(most_cells - 1, -1, -1))
        self._kept: Ids | None = None  # rows whose states lie in the engine

    def __len__(self) -> int:
        """How many cells have a state."""
        return len(self._rows)

    def step(self, tracks: Ids, crops: NDArray[np.uint8]) -> Predictions:
        """Show each cell its next frame.

        Parameters
        ----------
        tracks
            (N,) numbers of tracks, each once; a new one begins with a state of zeros.
        crops
            (N, S, S, 3) uint8 RGB, colour-corrected.

        Raises
        ------
        EngineFailed
            More cells than may have a state, or the engine failed; then all states are
            forgotten.
        """
        try:
            rows = np.array([self._row(track) for track in tracks.tolist()], np.int64)
            logits = self._logits(rows, crops)
        except EngineFailed:
            self.forget_all()
            raise
        self._frames[rows] += 1
        decided = decide(logits, self._rule.temperature, self._rule.abstain_below)
        return Predictions(tracks, decided.probabilities, self._frames[rows])

    def forget(self, tracks: Iterable[int]) -> None:
        """Forget tracks that are over; numbers without a state are passed over."""
        for track in tracks:
            row = self._rows.pop(track, None)
            if row is not None:
                self._free.append(row)

    def forget_all(self) -> None:
        """Forget every cell: the next step of each is its first."""
        self.forget(list(self._rows))
        self._kept = None

    def _row(self, track: int) -> int:
        """Return the row of a track's state, a fresh one for a new track."""
        row = self._rows.get(track)
        if row is None:
            if not self._free:
                raise EngineFailed(
                    f"{len(self._rows)} cells have a state already, no room for track "
                    f"{track}; follow fewer, tracking.most_tracks"
                )
            self._fetch()  # before a row that the engine still holds is given away
            row = self._rows[track] = self._free.pop()
            self._states[row], self._frames[row] = 0.0, 0
        return row

    def _logits(self, rows: Ids, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        if len(rows) > self._most_rows:
            return self._in_parts(rows, crops)
        if self._kept is None or not np.array_equal(self._kept, rows):
            self._fetch()
            self._engine.put(self._states[rows])
            self._kept = rows
        return self._engine.step(crops).tensors["logits"]

    def _in_parts(self, rows: Ids, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Take more cells than the engine does at once; their states come back."""
        self._fetch()
        logits = []
        for start in range(0, len(rows), self._most_rows):
            part = slice(start, start + self._most_rows)
            outputs = self._engine.infer(crops[part], self._states[rows[part]])
            if outputs.next_state is None:
                raise EngineFailed("the model gives no next state; export it again")
            self._states[rows[part]] = outputs.next_state
            logits.append(outputs.tensors["logits"])
        return np.concatenate(logits)

    def _fetch(self) -> None:
        """Bring home the states that lie in the engine."""
        if self._kept is not None:
            self._states[self._kept] = self._engine.peek()
            self._kept = None
