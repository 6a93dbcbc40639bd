"""Only names that every TensorRT from 10.3 (JetPack 6.2) to 11 has are used.

Read in the source of the Python bindings at the tags v10.3.0, 10.7.0, 10.13.3, 10.16,
11.0 and 11.1 of NVIDIA/TensorRT. What is used and is a name of TensorRT must stand
here.
"""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FILES = [
    "edge/engines/tensorrt.py",
    "edge/engines/tensorrt_program.py",
    "edge/engines/tensorrt_runtime.py",
    "edge/engines/tensorrt_slots.py",
    "edge/engines/build_manifest.py",
    "export/engine.py",
    "export/engine_plan.py",
]
EVERYWHERE = {
    "Builder", "BuilderFlag", "DataType", "ILogger", "IProgressMonitor",
    "MemoryPoolType", "NetworkDefinitionCreationFlag", "OnnxParser",
    "ProfilingVerbosity", "Runtime", "Severity", "TensorIOMode",
    "DETAILED", "ERROR", "FLOAT", "INPUT", "INTERNAL_ERROR", "STRONGLY_TYPED", "TF32",
    "UINT8", "WARNING", "WORKSPACE",
    "add_optimization_profile", "build_serialized_network", "clear_flag",
    "create_builder_config", "create_execution_context", "create_network",
    "create_optimization_profile", "create_timing_cache", "desc",
    "deserialize_cuda_engine", "dtype", "execute_async_v3", "get_error", "get_input",
    "get_output", "get_tensor_dtype", "get_tensor_mode", "get_tensor_name",
    "get_tensor_profile_shape", "get_tensor_shape", "get_timing_cache", "infer_shapes",
    "log", "name", "node", "node_name", "node_operator", "num_errors", "num_inputs",
    "num_io_tensors", "num_outputs", "parse", "phase_finish", "phase_start",
    "profiling_verbosity", "progress_monitor", "serialize", "set_input_shape",
    "set_memory_pool_limit", "set_shape", "set_tensor_address", "set_timing_cache",
    "shape", "step_complete",
}  # fmt: skip
REMOVED = {  # by 11, or not yet in 10.3
    "FP16", "INT8", "BF16", "int8_calibrator", "set_calibration_profile",
    "dynamic_range", "set_output_type", "platform_has_fast_fp16", "device_memory_size",
    "supports_model", "EXPLICIT_BATCH", "MONITOR_MEMORY", "STRICT_NANS",
    "create_runtime_config", "get_engine_stat", "set_builder_config",
    "set_device_memory", "EDITABLE_TIMING_CACHE", "max_workspace_size",
    "execute_async_v2",
}  # fmt: skip

OTHERWISE = {  # names of TensorRT, but what they stand for here is ours or Python's
    "DEBUG", "append", "clear", "copy", "enqueue", "extend", "float32", "format", "get",
    "items", "pop", "reset", "size", "uint8", "values", "write",
}  # fmt: skip


def used() -> set[str]:
    names: set[str] = set()
    for file in FILES:
        for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                names.add(node.attr)
            if isinstance(node, ast.FunctionDef):
                names.add(node.name)
    return names


def test_no_name_is_used_that_some_version_has_not() -> None:
    assert not used() & REMOVED


def test_every_name_of_tensorrt_that_is_used_is_known_to_be_everywhere() -> None:
    trt = pytest.importorskip("tensorrt_rtx_bindings")
    known = set(dir(trt))
    for _, kind in inspect.getmembers(trt, inspect.isclass):
        known |= set(dir(kind))
    ours = {name for name in used() & known if not name.startswith("_")}

    assert ours <= EVERYWHERE | OTHERWISE, sorted(ours - EVERYWHERE - OTHERWISE)
    assert len(ours) > 40
