"""ONNX Runtime on the CPU: the engine that every machine has."""

from __future__ import annotations

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edge.engines import BATCH, STATE, EngineFailed, Outputs
from edge.engines.shape_checks import (
    check_call,
    check_inputs,
    check_state,
    finite,
    no_rows,
)


class OnnxRuntimeEngine:
    """Runs an ONNX model, given as its bytes, on `threads` CPU threads."""

    def __init__(self, model: bytes, *, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session: onnxruntime.InferenceSession | None = (
                onnxruntime.InferenceSession(
                    model, options, providers=["CPUExecutionProvider"]
                )
            )
        except Exception as error:
            raise EngineFailed(
                f"ONNX Runtime {onnxruntime.__version__} refuses the model: {error}; "
                "export it again"
            ) from error
        self._inputs = {i.name: tuple(i.shape) for i in self._session.get_inputs()}
        self._outputs = {o.name: tuple(o.shape) for o in self._session.get_outputs()}
        self._state: NDArray[np.float32] | None = None
        check_inputs(self._inputs)

    def infer(
        self, batch: NDArray[np.uint8], state: NDArray[np.float32] | None = None
    ) -> Outputs:
        """Run the graph; see `Engine.infer`."""
        if self._session is None:
            raise EngineFailed("the engine is closed; open it again")
        check_call(self._inputs, batch, state)
        if len(batch) == 0:
            outputs = no_rows(self._outputs)
        else:
            feed: dict[str, NDArray[np.generic]] = {BATCH: batch}
            if state is not None:
                feed[STATE] = state
            named = zip(self._outputs, self._session.run(None, feed), strict=True)
            outputs = finite(dict(named))
        self._state = outputs.next_state
        return outputs

    def step(self, batch: NDArray[np.uint8]) -> Outputs:
        """Run one step from the kept state; see `RecurrentEngine.step`."""
        kept = self.peek()
        if len(kept) != len(batch):
            raise EngineFailed(
                f"batch has {len(batch)} cells, the kept state {len(kept)}; reset it"
            )
        return Outputs(self.infer(batch, kept).tensors)

    def reset(self, cells: int) -> None:
        """Keep the state of cells never seen; see `RecurrentEngine.reset`."""
        self.put(np.zeros((cells, self._state_size()), np.float32))

    def put(self, state: NDArray[np.float32]) -> None:
        """Keep this state; see `RecurrentEngine.put`."""
        check_state(state, len(state), self._state_size())
        self._state = state.copy()

    def peek(self) -> NDArray[np.float32]:
        """Return the kept state; see `RecurrentEngine.peek`."""
        self._state_size()
        if self._state is None:
            raise EngineFailed("no state is kept; reset it, or put one")
        return np.array(self._state)

    def close(self) -> None:
        """Release the session. Safe to call twice."""
        self._session = None

    def _state_size(self) -> int:
        if STATE not in self._inputs:
            raise EngineFailed("the graph has no state: it is not recurrent")
        return int(self._inputs[STATE][-1])
