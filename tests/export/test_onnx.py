from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from edge.artifacts.bundle import CLASSIFIER, LOCATOR, load_bundle
from edge.engines.onnxruntime import OnnxRuntimeEngine
from export.benchmark.engine_build import build_without_gpu
from export.onnx import OPSET, ExportFailed, to_onnx
from training.fitting.model_graphs import (
    ClassifierGraph,
    LocatorGraph,
    Standardise,
    TorchEngine,
)
from training.models.locator import Locator
from training.models.vgg16 import VGG16

PLAIN = Standardise((0.7, 0.6, 0.6), (0.2, 0.2, 0.2))


def image(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 255, (*shape, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def classifier() -> tuple[ClassifierGraph, bytes]:
    torch.manual_seed(0)
    graph = ClassifierGraph(PLAIN, VGG16(4, width=0.1)).eval()
    graph.temperature.fill_(1.7)
    return graph, to_onnx(graph, (torch.from_numpy(image(2, 64, 64)),), ("batch",))


@pytest.fixture(scope="module")
def locator() -> tuple[LocatorGraph, bytes]:
    torch.manual_seed(0)
    graph = LocatorGraph(PLAIN, Locator(3)).eval()
    example = (torch.from_numpy(image(1, 64, 96)),)
    return graph, to_onnx(graph, example, ("height", "width"))


@pytest.mark.parametrize("cells", [1, 2, 7])
def test_the_file_computes_what_the_graph_computes(
    classifier: tuple[ClassifierGraph, bytes], cells: int
) -> None:
    graph, model = classifier
    batch = image(cells, 64, 64)

    torch_says = TorchEngine(graph).infer(batch).tensors
    onnx_says = OnnxRuntimeEngine(model).infer(batch).tensors

    for name in ("logits", "probabilities"):
        np.testing.assert_allclose(onnx_says[name], torch_says[name], atol=1e-4)


@pytest.mark.parametrize("size", [(64, 96), (16, 16), (304, 480), (160, 128)])
def test_the_locator_takes_frames_of_any_size(
    locator: tuple[LocatorGraph, bytes], size: tuple[int, int]
) -> None:
    graph, model = locator
    frame = image(1, *size)

    torch_says = TorchEngine(graph).infer(frame).tensors
    onnx_says = OnnxRuntimeEngine(model).infer(frame).tensors

    assert onnx_says["likely"].shape == (1, size[0] // 4, size[1] // 4, 3)
    for name in ("likely", "sides"):
        np.testing.assert_allclose(onnx_says[name], torch_says[name], atol=1e-3)


def test_what_is_written_is_what_tensorrt_reads(
    classifier: tuple[ClassifierGraph, bytes], locator: tuple[LocatorGraph, bytes]
) -> None:
    """Opset 18, IR 10, uint8 cast first, one file, no trace of this machine."""
    for _, data in (classifier, locator):
        model = onnx.load_from_string(data)
        assert model.ir_version <= 10
        assert [o.version for o in model.opset_import if o.domain == ""] == [OPSET]
        users = [n.op_type for n in model.graph.node if "image" in n.input]
        assert users == ["Cast"]
        assert not any(t.external_data for t in model.graph.initializer)
        assert b"/home/" not in data
        assert str(Path(__file__).parents[2]).encode() not in data
        assert b"site-packages" not in data
        assert b".py" not in data


class _LateCast(torch.nn.Module):
    names = ("logits",)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor]:
        return (image.permute(0, 3, 1, 2).float().mean((2, 3)),)


def test_a_graph_that_does_not_cast_first_is_refused() -> None:
    with pytest.raises(ExportFailed, match="expected one Cast"):
        to_onnx(_LateCast(), (torch.from_numpy(image(2, 8, 8)),), ("batch",))


@pytest.mark.parametrize("folder", [CLASSIFIER, LOCATOR], ids=["classifier", "locator"])
def test_the_shipped_models_parse_and_build_as_tensorrt_engines(folder: Path) -> None:
    assert len(build_without_gpu(load_bundle(folder)).plan) > 100_000
