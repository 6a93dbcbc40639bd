"""ONNX Runtime on the CPU: the engine that every machine has."""

from __future__ import annotations

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edge.engines import BATCH, NEXT_STATE, STATE, EngineFailed, Outputs


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
        if BATCH not in self._inputs:
            raise EngineFailed(
                f"the model's inputs are {sorted(self._inputs)}, expected {BATCH!r}; "
                "export it again"
            )

    def infer(
        self, batch: NDArray[np.uint8], state: NDArray[np.float32] | None = None
    ) -> Outputs:
        """Run the graph; see `Engine.infer`."""
        if self._session is None:
            raise EngineFailed("the engine is closed; open it again")
        self._check(batch, state)
        if len(batch) == 0:
            return self._nothing(batch)
        feed: dict[str, NDArray[np.generic]] = {BATCH: batch}
        if state is not None:
            feed[STATE] = state
        tensors = dict(zip(self._outputs, self._session.run(None, feed), strict=True))
        for name, values in tensors.items():
            if not np.isfinite(values).all():
                raise EngineFailed(
                    f"output {name!r} holds NaN or infinity; the model is damaged or "
                    "its precision overflows"
                )
        return Outputs(tensors, tensors.pop(NEXT_STATE, None))

    def close(self) -> None:
        """Release the session. Safe to call twice."""
        self._session = None

    def _check(
        self, batch: NDArray[np.uint8], state: NDArray[np.float32] | None
    ) -> None:
        wanted = self._inputs[BATCH]
        fits = batch.ndim == 4 and all(
            not isinstance(want, int) or want == have
            for want, have in zip(wanted, batch.shape, strict=True)
        )
        if batch.dtype != np.uint8 or not fits:
            raise EngineFailed(
                f"batch is {batch.dtype} {batch.shape}, the graph takes uint8 {wanted}"
            )
        if (state is None) == (STATE in self._inputs):
            raise EngineFailed(
                f"the graph {'takes' if state is None else 'has no'} state, "
                f"{'none' if state is None else 'one'} was given"
            )
        if state is not None:
            size = self._inputs[STATE][-1]
            if state.dtype != np.float32 or state.shape != (len(batch), size):
                raise EngineFailed(
                    f"state is {state.dtype} {state.shape}, the graph takes float32 "
                    f"{(len(batch), size)}"
                )

    def _nothing(self, batch: NDArray[np.uint8]) -> Outputs:
        """Return what an empty batch gives: outputs with no rows."""
        empty = {
            name: np.zeros(
                (0, *(n if isinstance(n, int) else 0 for n in shape[1:])), np.float32
            )
            for name, shape in self._outputs.items()
        }
        return Outputs(empty, empty.pop(NEXT_STATE, None))
