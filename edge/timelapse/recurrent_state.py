"""Keep the state of a recurrent model for each followed cell, from frame to frame.

The model takes one step per cell and frame, so a frame costs the same however long its
cells have been followed. `StateStore` assigns each track a row for its state.

Where the states lie: in the engine (on the GPU) as long as the same cells come in the
same order, since copying them twice per frame would cost more than the step. As soon as
the cells or their order change, the states are read back, put in the new order, and
written again.
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
    """What the model predicts for each cell of a frame.

    `tracks` (N,) int64 numbers; `probabilities` (N, K) float32, calibrated; `frames`
    (N,) int64, steps since the state of the cell was new.
    """

    tracks: Ids
    probabilities: NDArray[np.float32]
    frames: NDArray[np.int64]


class StateStore:
    """The states of followed cells. Used from the thread of its engine.

    Invariant: the newest state of each track is either in `_states`, or in the engine
    if its row is one of `_rows_in_engine`; never is it needed from both.

    Parameters
    ----------
    bundle
        A recurrent model.
    engine
        Its engine.
    max_cells
        How many cells have a state at once.
    max_batch
        Cells of one call; more go in parts.

    Raises
    ------
    BundleRefused
        The model has no state.
    """

    def __init__(
        self, bundle: Bundle, engine: RecurrentEngine, max_cells: int, max_batch: int
    ) -> None:
        size = bundle.record.state_size
        if size is None:
            raise BundleRefused(
                f"{bundle.id}: keeps no state, expected a recurrent model; train one "
                "with `hemascope train rnn`"
            )
        self._record, self._engine = bundle.record, engine
        self._max_batch = max_batch
        self._states = np.zeros((max_cells, size), np.float32)
        self._frames = np.zeros(max_cells, np.int64)
        self._row_of: dict[int, int] = {}  # of each track
        self._free_rows = list(range(max_cells - 1, -1, -1))
        self._rows_in_engine: Ids | None = None

    def __len__(self) -> int:
        """How many cells have a state."""
        return len(self._row_of)

    def step(self, tracks: Ids, crops: NDArray[np.uint8]) -> Predictions:
        """Show each cell its next frame.

        Parameters
        ----------
        tracks
            (N,) int64 numbers, each once; a new one begins with a state of zeros.
        crops
            (N, S, S, 3) uint8 RGB, colour-corrected.

        Raises
        ------
        EngineFailed
            More cells than may have a state, or the engine failed. Then all states are
            dropped.
        """
        try:
            rows = np.array([self._row(track) for track in tracks.tolist()], np.int64)
            logits = self._logits(rows, crops)
        except EngineFailed:
            # Some states may have made this step and others not. None can be trusted.
            self.forget_all()
            raise
        self._frames[rows] += 1
        decided = decide(logits, self._record.temperature, self._record.abstain_below)
        return Predictions(tracks, decided.probabilities, self._frames[rows])

    def forget(self, tracks: Iterable[int]) -> None:
        """Drop the states of tracks that are over; numbers without one are ignored."""
        for track in tracks:
            row = self._row_of.pop(track, None)
            if row is not None:
                self._free_rows.append(row)

    def forget_all(self) -> None:
        """Drop all states: the next step of each cell is its first."""
        self.forget(list(self._row_of))
        self._rows_in_engine = None

    def _row(self, track: int) -> int:
        """Return the row of a track's state, a new one of zeros for a new track."""
        row = self._row_of.get(track)
        if row is None:
            if not self._free_rows:
                raise EngineFailed(
                    f"{len(self._row_of)} cells have a state already, no room for "
                    f"track {track}; follow fewer, tracking.most_tracks"
                )
            # A free row may still be in the engine, for a track that is over. Reading
            # back later would overwrite the zeros of the new track, so do it now.
            self._read_back()
            row = self._row_of[track] = self._free_rows.pop()
            self._states[row], self._frames[row] = 0.0, 0
        return row

    def _logits(self, rows: Ids, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Step the states `rows` (N,) with `crops` (N, S, S, 3); return (N, K)."""
        if len(rows) > self._max_batch:
            return self._logits_in_parts(rows, crops)
        in_engine = self._rows_in_engine
        if in_engine is None or not np.array_equal(in_engine, rows):
            self._read_back()
            self._engine.put(self._states[rows])
            self._rows_in_engine = rows
        return self._engine.step(crops).tensors["logits"]

    def _logits_in_parts(
        self, rows: Ids, crops: NDArray[np.uint8]
    ) -> NDArray[np.float32]:
        """Step more cells than the engine takes at once; their states come back."""
        self._read_back()
        logits = []
        for start in range(0, len(rows), self._max_batch):
            part = slice(start, start + self._max_batch)
            outputs = self._engine.infer(crops[part], self._states[rows[part]])
            if outputs.next_state is None:
                raise EngineFailed("the model gives no next state; export it again")
            self._states[rows[part]] = outputs.next_state
            logits.append(outputs.tensors["logits"])
        return np.concatenate(logits)

    def _read_back(self) -> None:
        """Copy the states that lie in the engine to `_states`."""
        if self._rows_in_engine is not None:
            self._states[self._rows_in_engine] = self._engine.peek()
            self._rows_in_engine = None
