"""TensorRT-RTX parses and builds engines without a GPU; devices build their own."""

from __future__ import annotations

import pytest

from edge.bundle import Bundle


def plan_bytes(bundle: Bundle) -> int:
    """Build the engine of a bundle and return the size of its plan."""
    trt = pytest.importorskip("tensorrt_rtx_bindings")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    flag = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flag)
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(bundle.model), [
        parser.get_error(i).desc() for i in range(parser.num_errors)
    ]
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    size, state_size = bundle.record.input.size_px, bundle.record.state_size
    if size is None:
        shapes = (1, 64, 64, 3), (1, 272, 432, 3), (1, 640, 960, 3)
        profile.set_shape("image", *shapes)
    else:
        profile.set_shape("image", *((n, size, size, 3) for n in (1, 64, 128)))
    if state_size is not None:
        profile.set_shape("state", *((n, state_size) for n in (1, 64, 128)))
    config.add_optimization_profile(profile)
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None
    return int(plan.nbytes)
