"""Write the same graph in half precision and in eight bits, both as ONNX files.

Precision lives in the ONNX file: TensorRT's networks are strongly typed, and ONNX
Runtime runs the same file. Half precision lies between float32 inputs and
outputs: standardisation, recurrent state, routing of capsules and softmax stay in
float32. Eight bits are pairs of nodes that quantise and dequantise (Q/DQ) around
convolutions alone, or around matrix products where a network has no convolution. Their
ranges are those of real crops.
"""

from __future__ import annotations

import copy
import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.calibrate import CalibrationMethod
from torch import Tensor, nn

from edge.engines import BATCH, NEXT_STATE, STATE
from export.onnx import check_model

_BATCH_SIZE = 32
_FRAMES = 3  # how often a recurrent model sees a crop while ranges are measured


class HalfPrecision(nn.Module):
    """A module in half precision; its input and output stay float32."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module.half()

    def forward(self, x: Tensor) -> Tensor:
        """Any shape float32 -> float32."""
        out: Tensor = self.module(x.half()).float()
        return out


def halve(graph: nn.Module) -> nn.Module:
    """Return a copy of a classifier's graph that computes in half precision.

    Where the network's attribute `half_parts` names submodules, only those change.
    """
    result = copy.deepcopy(graph)
    network: Any = result.network
    parts = getattr(network, "half_parts", ())
    for name in parts:
        setattr(network, name, HalfPrecision(getattr(network, name)))
    if not parts:
        result.network = HalfPrecision(network)
    return result


def quantise(model: bytes, crops: NDArray[np.uint8]) -> bytes:
    """Return `model` with quantise and dequantise nodes (Q/DQ).

    Parameters
    ----------
    model
        A classifier's ONNX file in float32.
    crops
        (N, S, S, 3) uint8 RGB, to measure ranges on; see `calibration.int8`.

    Notes
    -----
    TensorRT wants symmetric ranges, weights per channel, biases left alone, and no
    quantised graph outputs: a state rounded to eight bits would lose its memory.
    """
    logging.getLogger().addFilter(_no_advice)
    kinds = {node.op_type for node in onnx.load_from_string(model).graph.node}
    operations = ["Conv"] if "Conv" in kinds else ["Gemm", "MatMul"]
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(model)
        try:
            quantize_static(
                source,
                target,
                _Reader(model, crops),
                op_types_to_quantize=operations,
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                extra_options={
                    "ActivationSymmetric": True,
                    "WeightSymmetric": True,
                    "QuantizeBias": False,
                    "OpTypesToExcludeOutputQuantization": ["Conv", "Gemm", "MatMul"],
                },
            )
        finally:
            logging.getLogger().removeFilter(_no_advice)
        quantised = onnx.load(target)
    check_model(quantised)
    return bytes(quantised.SerializeToString())


def _no_advice(record: logging.LogRecord) -> bool:
    """Drop the advice to preprocess: shapes are known, and nothing shall be fused."""
    return "pre-process" not in record.getMessage()


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Feeds crops (N, S, S, 3) uint8; a recurrent model sees each one several times."""

    def __init__(self, model: bytes, crops: NDArray[np.uint8]) -> None:
        session = onnxruntime.InferenceSession(
            model, providers=["CPUExecutionProvider"]
        )
        states = [i.shape[-1] for i in session.get_inputs() if i.name == STATE]
        self._feeds: list[dict[str, NDArray[np.generic]]] = []
        for start in range(0, len(crops), _BATCH_SIZE):
            batch = crops[start : start + _BATCH_SIZE]
            if not states:
                self._feeds.append({BATCH: batch})
                continue
            state = np.zeros((len(batch), states[0]), np.float32)
            for _ in range(_FRAMES):
                feed: dict[str, NDArray[np.generic]] = {BATCH: batch, STATE: state}
                self._feeds.append(feed)
                (state,) = session.run([NEXT_STATE], feed)
        self._next = iter(self._feeds)

    def get_next(self) -> dict[str, NDArray[np.generic]] | None:
        """Return the next batch; None after the last."""
        return next(self._next, None)
