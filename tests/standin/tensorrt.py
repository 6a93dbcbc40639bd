"""A stand-in for the module `tensorrt`: a plan is its ONNX file, ONNX Runtime computes.

As strict as TensorRT where our runtime could go wrong: types, ranges and addresses are
checked, an execution is put into the given stream and reads and writes device memory
only when its turn comes. The environment variable STANDIN_TENSORRT is the version.
"""

from __future__ import annotations

import ctypes
import enum
import hashlib
import json
import os
from typing import Any

import numpy as np
import onnxruntime

__version__ = os.environ.get("STANDIN_TENSORRT", "10.3.0")
_MAGIC = b"stand-in plan "
_driver = ctypes.CDLL("libcuda.so.1")
_driver.cuLaunchHostFunc.argtypes = [ctypes.c_void_p] * 3
_CALL = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
live_contexts = 0
most_contexts: int | None = None  # that memory is enough for
seen_timings: list[bytes] = []


class ILogger:
    class Severity(enum.Enum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4

    def log(self, severity: Severity, message: str) -> None:
        """Whoever listens overrides this."""


class IProgressMonitor:
    pass


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    INT8 = 2
    UINT8 = 5


class TensorIOMode(enum.Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class BuilderFlag(enum.Enum):
    TF32 = 7


class ProfilingVerbosity(enum.Enum):
    DETAILED = 2


_TYPES = {
    "tensor(uint8)": (DataType.UINT8, np.uint8),
    "tensor(float)": (DataType.FLOAT, np.float32),
    "tensor(float16)": (DataType.HALF, np.float16),
}


def _session(model: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(
        model, options, providers=["CPUExecutionProvider"]
    )


class _Tensor:
    def __init__(self, argument: Any) -> None:
        self.name = argument.name
        self.dtype, self.numpy = _TYPES[argument.type]
        self.shape = tuple(n if isinstance(n, int) else -1 for n in argument.shape)


class _Network:
    def __init__(self) -> None:
        self.model = b""
        self.inputs: list[_Tensor] = []
        self.outputs: list[_Tensor] = []

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    @property
    def num_outputs(self) -> int:
        return len(self.outputs)

    def get_input(self, number: int) -> _Tensor:
        return self.inputs[number]

    def get_output(self, number: int) -> _Tensor:
        return self.outputs[number]


class _ParserError:
    def __init__(self, text: str) -> None:
        self.text = text

    def desc(self) -> str:
        return self.text

    def node(self) -> int:
        return 0

    def node_name(self) -> str:
        return "node_of_the_stand_in"

    def node_operator(self) -> str:
        return "Unknown"


class OnnxParser:
    def __init__(self, network: _Network, logger: ILogger) -> None:
        self.network, self.errors = network, []

    @property
    def num_errors(self) -> int:
        return len(self.errors)

    def get_error(self, number: int) -> _ParserError:
        return self.errors[number]

    def parse(self, model: bytes) -> bool:
        try:
            session = _session(model)
        except Exception as error:  # noqa: BLE001
            self.errors.append(_ParserError(str(error)))
            return False
        self.network.model = model
        self.network.inputs = [_Tensor(i) for i in session.get_inputs()]
        self.network.outputs = [_Tensor(o) for o in session.get_outputs()]
        return True


class _Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

    def set_shape(self, name: str, least: Any, usual: Any, most: Any) -> None:
        self.shapes[name] = tuple(least), tuple(usual), tuple(most)


class _TimingCache:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def serialize(self) -> bytes:
        return self.data or b"timings"


class _Config:
    def __init__(self) -> None:
        self.cleared: list[BuilderFlag] = []
        self.limits: dict[MemoryPoolType, int] = {}
        self.profiles: list[_Profile] = []
        self.progress_monitor: Any = None
        self.profiling_verbosity: Any = None
        self.cache: Any = None

    def set_memory_pool_limit(self, pool: MemoryPoolType, size: int) -> None:
        self.limits[pool] = size

    def clear_flag(self, flag: BuilderFlag) -> None:
        self.cleared.append(flag)

    def add_optimization_profile(self, profile: _Profile) -> int:
        self.profiles.append(profile)
        return 0

    def create_timing_cache(self, data: bytes) -> _TimingCache:
        seen_timings.append(data)
        return _TimingCache(data)

    def set_timing_cache(self, cache: _TimingCache, ignore_mismatch: bool) -> bool:
        if cache.data not in (b"", b"timings"):  # of another device
            return False
        self.cache = cache
        return True

    def get_timing_cache(self) -> _TimingCache:
        return self.cache


class Builder:
    def __init__(self, logger: ILogger) -> None:
        self.logger = logger

    def create_network(self, flags: int) -> _Network:
        assert flags == 1 << int(NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        return _Network()

    def create_builder_config(self) -> _Config:
        return _Config()

    def create_optimization_profile(self) -> _Profile:
        return _Profile()

    def build_serialized_network(
        self, network: _Network, config: _Config
    ) -> bytes | None:
        if BuilderFlag.TF32 not in config.cleared:
            raise AssertionError("TF32 is on although float32 is promised")
        if config.limits[MemoryPoolType.WORKSPACE] < 1 << 20:
            self.logger.log(
                ILogger.Severity.ERROR,
                "Could not find any implementation for node of the stand-in.",
            )
            return None
        monitor = config.progress_monitor
        monitor.phase_start("Building", None, 2)
        for step in range(2):
            monitor.phase_start("Tactics", "Building", 50)
            for tactic in range(50):
                if not monitor.step_complete("Tactics", tactic):
                    return None
            monitor.phase_finish("Tactics")
            if not monitor.step_complete("Building", step):
                return None
        monitor.phase_finish("Building")
        head = json.dumps(
            {
                "version": __version__,
                "profile": config.profiles[0].shapes,
                "sha256": hashlib.sha256(network.model).hexdigest(),
            }
        ).encode()
        return _MAGIC + head + b"\n" + network.model


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, plan: bytes) -> _Engine | None:
        head, _, model = plan.partition(b"\n")
        try:
            assert head.startswith(_MAGIC)
            result = json.loads(head[len(_MAGIC) :])
            assert result["version"] == __version__
            assert result["sha256"] == hashlib.sha256(model).hexdigest()
        except (AssertionError, ValueError):
            self.logger.log(
                ILogger.Severity.ERROR, "deserialization failed: version or magic tag"
            )
            return None
        return _Engine(model, result["profile"])


class _Engine:
    def __init__(self, model: bytes, profile: dict[str, Any]) -> None:
        self.session = _session(model)
        self.profile = profile
        self.inputs = {i.name: _Tensor(i) for i in self.session.get_inputs()}
        self.outputs = {o.name: _Tensor(o) for o in self.session.get_outputs()}
        self.tensors = {**self.inputs, **self.outputs}
        self.num_io_tensors = len(self.tensors)

    def get_tensor_name(self, number: int) -> str:
        return list(self.tensors)[number]

    def get_tensor_dtype(self, name: str) -> DataType:
        return self.tensors[name].dtype

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_profile_shape(self, name: str, number: int) -> list[list[int]]:
        return self.profile[name]

    def create_execution_context(self) -> _Context | None:
        if most_contexts is not None and live_contexts >= most_contexts:
            return None
        return _Context(self)


class _Context:
    def __init__(self, engine: _Engine) -> None:
        global live_contexts
        live_contexts += 1
        self.engine = engine
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.calls: list[Any] = []

    def __del__(self) -> None:
        global live_contexts
        live_contexts -= 1

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self.engine.profile[name]
        if not all(a <= n <= b for a, n, b in zip(least, shape, most, strict=True)):
            return False
        self.shapes[name] = tuple(shape)
        return True

    def infer_shapes(self) -> list[str]:
        missing = [n for n in self.engine.inputs if n not in self.shapes]
        if not missing:
            zeros = {
                n: np.zeros(self.shapes[n], t.numpy)
                for n, t in self.engine.inputs.items()
            }
            values = self.engine.session.run(None, zeros)
            for name, value in zip(self.engine.outputs, values, strict=True):
                self.shapes[name] = value.shape
        return missing

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        if set(self.addresses) != set(self.engine.tensors):
            return False
        engine = self.engine  # not the context: it must die when it is dropped
        shapes, addresses = dict(self.shapes), dict(self.addresses)

        def compute(_data: Any) -> None:
            given = {
                name: _view(addresses[name], shapes[name], tensor.numpy).copy()
                for name, tensor in engine.inputs.items()
            }
            values = engine.session.run(None, given)
            for name, value in zip(engine.outputs, values, strict=True):
                np.copyto(_view(addresses[name], value.shape, value.dtype), value)

        call = _CALL(compute)
        self.calls = [*self.calls[-8:], call]  # alive while they are in a stream
        return _driver.cuLaunchHostFunc(stream, call, None) == 0


def _view(address: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = (ctypes.c_ubyte * size).from_address(address)
    return np.frombuffer(raw, dtype).reshape(shape)
