"""TensorRT-RTX parses and builds engines without a GPU; devices build their own."""

from __future__ import annotations

from typing import Any

import pytest

from edge.bundle import Bundle
from edge.engines.passport import order_of
from edge.settings import Precision
from export.engine import Built, build_plan


def build_without_gpu(bundle: Bundle, precision: Precision = "fp32") -> Built:
    """Build the engine of a bundle with the device's code, for an absent GPU."""
    trt = pytest.importorskip("tensorrt_rtx_bindings")

    def for_ampere(config: Any) -> None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM86, 0)

    order = order_of(bundle, precision, (1, 64, 128))
    return build_plan(bundle.model_of(precision), order, trt, tune=for_ampere)
