"""Parse and build engines without a GPU, by TensorRT-RTX, as a test of the ONNX files.

The engines are for an Ampere GPU and are thrown away; each device builds its own.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from edge.artifacts.bundle import Bundle
from edge.engines import EngineFailed
from edge.engines.build_manifest import build_options_of
from edge.settings.models import Precision
from export.engine_plan import Built, build_plan

_MODULE = "tensorrt_rtx_bindings"
_BATCH = (1, 64, 128)


def build_without_gpu(bundle: Bundle, precision: Precision = "fp32") -> Built:
    """Build an engine with the code of the device, for a GPU that is not here.

    Raises
    ------
    EngineFailed
        TensorRT-RTX is not installed.
    BuildFailed
        It does not take the file.
    """
    try:
        trt = importlib.import_module(_MODULE)
    except ImportError as error:
        raise EngineFailed(
            f"TensorRT-RTX is missing ({error}); run `pip install '.[dev]'` in "
            "the project's folder"
        ) from error

    def for_ampere(config: Any) -> None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM86, 0)

    options = build_options_of(bundle, precision, _BATCH)
    return build_plan(bundle.model_of(precision), options, trt, tune=for_ampere)


def measure_building(
    bundles: Sequence[Bundle], say: Callable[[str], None]
) -> list[str]:
    """Build every precision of the bundles and return a Markdown table."""
    lines = [
        "| family | precision | ONNX (MB) | build (s) | engine (MB) |",
        "|---|---|---|---|---|",
    ]
    for bundle in bundles:
        for precision, model in bundle.models.items():
            say(f"{bundle.id} {precision}: building")
            built = build_without_gpu(bundle, precision)
            lines.append(
                f"| {bundle.record.family} | {precision} | {len(model) / 1e6:.2f} | "
                f"{built.seconds:.2f} | {len(built.plan) / 1e6:.2f} |"
            )
    return lines
