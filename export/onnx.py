"""Write a fitted graph as one ONNX file that all our runtimes can read."""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path

import onnx
import torch
from torch import nn

from edge.engines import BATCH, STATE
from edge.errors import HemascopeError

OPSET = (
    18  # TensorRT 10.3 reads up to 20; the exporter may write a newer one than asked
)


class ExportFailed(HemascopeError):
    """The exported file is not what the device takes."""


def to_onnx(
    graph: nn.Module, example: tuple[torch.Tensor, ...], free_axes: tuple[str, ...]
) -> bytes:
    """Export `graph` and return the file's bytes.

    Parameters
    ----------
    graph
        Takes `image`, (N, H, W, 3) uint8, and of a recurrent model `state`, (N, D);
        returns tensors named by `graph.names`.
    example
        Image batch, and state where the graph takes one.
    free_axes
        Axes of `image` that vary at run time, of "batch", "height", "width".

    Raises
    ------
    ExportFailed
        The opset or the first operation is not the expected one.
    """
    axes = {"batch": 0, "height": 1, "width": 2}
    # A multiple of 16: the network halves the frame three times, and more is safe.
    sizes = {
        "batch": torch.export.Dim("batch", min=1, max=4096),
        "height": 16 * torch.export.Dim("height_16", min=1, max=256),
        "width": 16 * torch.export.Dim("width_16", min=1, max=256),
    }
    shapes = {BATCH: {axes[name]: sizes[name] for name in free_axes}}
    if len(example) > 1:
        shapes[STATE] = {0: sizes["batch"]}
    for noisy in ("onnxscript", "onnx_ir", "torch.onnx"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside the exporter
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            graph.eval(),
            example,
            str(path),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(shapes),
            output_names=list(graph.names),  # type: ignore[arg-type]
            dynamic_shapes=shapes,
            external_data=False,
            verbose=False,
        )
        model = onnx.load(path)
    _strip(model)
    check_model(model)
    return bytes(model.SerializeToString())


def _strip(model: onnx.ModelProto) -> None:
    """Remove the exporter's debugging notes: they hold paths of this machine."""
    del (
        model.metadata_props[:],
        model.graph.metadata_props[:],
        model.graph.value_info[:],
    )
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in [*model.graph.input, *model.graph.output, *model.graph.initializer]:
        del value.metadata_props[:]


def check_model(model: onnx.ModelProto) -> None:
    """Refuse a file that TensorRT would not take.

    Raises
    ------
    ExportFailed
        The opset or the first operation is not the expected one.
    """
    onnx.checker.check_model(model, full_check=True)
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    if opset != OPSET:
        raise ExportFailed(
            f"opset is {opset}, expected {OPSET}; use another torch version"
        )
    users = [node for node in model.graph.node if "image" in node.input]
    if [node.op_type for node in users] != ["Cast"]:
        raise ExportFailed(
            f"`image` goes into {[n.op_type for n in users]}, expected one Cast: "
            "TensorRT takes uint8 only there"
        )
