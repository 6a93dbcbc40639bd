"""The NVIDIA driver through pycuda, and CUDA graphs, which pycuda does not have.

TensorRT works in the primary context of the device, so the same context is used here; a
context of our own would not see TensorRT's memory. The context is current only inside
`with`: a thread that ends with a context on its stack aborts the process. What belongs
to a context is released in the thread that made it, or it leaks.

Graphs are six calls to the driver through ctypes. The names are those of the CUDA
Driver API, chapters "Stream Management" and "Graph Management".
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.engines import EngineFailed
from edge.import_faults import import_fault

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: does not wait for the default stream
_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: others may go on
_DRIVER = "libcuda.so.1"


class GpuFailed(EngineFailed):
    """The GPU or its driver is not there, or stopped answering."""


def load_driver() -> Any:
    """Import `pycuda.driver` and start the driver.

    The driver is asked first, since TensorRT's libraries end the process where there is
    none.

    Raises
    ------
    GpuFailed
        There is no driver, no GPU or no pycuda.
    """
    try:
        code = ctypes.CDLL(_DRIVER).cuInit(0)
    except OSError as error:
        raise GpuFailed(
            f"no NVIDIA driver: {error}; install it, or set engine = 'onnxruntime'"
        ) from error
    if code != 0:
        raise GpuFailed(
            f"the NVIDIA driver answers cuInit with error {code}, expected 0; see "
            "nvidia-smi, or set engine = 'onnxruntime'"
        )
    try:
        import pycuda.driver as cuda
    except ImportError as error:
        raise GpuFailed(
            f"pycuda cannot be used: {import_fault(error) or error}; or see "
            "docs/jetson.md"
        ) from error
    cuda.init()
    return cuda


class Gpu:
    """A device and its primary context, for one thread; current inside `with`."""

    def __init__(self, ordinal: int = 0) -> None:
        self.cuda = load_driver()
        try:
            self._open(self.cuda.Device(ordinal))
        except self.cuda.Error as error:
            raise GpuFailed(
                f"the GPU does not answer: {error}; see nvidia-smi and dmesg"
            ) from error

    def _open(self, device: Any) -> None:
        """Read what the device is, and retain its primary context."""
        self.name: str = device.name()
        major, minor = device.compute_capability()
        self.compute_capability = f"{major}.{minor}"
        self.is_integrated = bool(
            device.get_attribute(self.cuda.device_attribute.INTEGRATED)
        )
        self.driver = _version(self.cuda.get_driver_version())
        self._context: Any = device.retain_primary_context()

    def __enter__(self) -> Gpu:
        self._context.push()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cuda.Context.pop()

    def close(self) -> None:
        """Release the context, in the thread that retained it. Safe to call twice."""
        if self._context is not None:
            # pycuda makes the context current in order to detach it, and leaves it on
            # the thread's stack: it is popped below. Its destructor is no way out, it
            # detaches a primary context by the call for other contexts.
            self._context.detach()
            self._context = None
            popped = ctypes.c_void_p()
            ctypes.CDLL(_DRIVER).cuCtxPopCurrent_v2(ctypes.byref(popped))

    def free_bytes(self) -> int:
        """Return the bytes of device memory that are free; inside `with`."""
        free, _ = self.cuda.mem_get_info()
        return int(free)

    def stream(self) -> Any:
        """Return a new non-blocking stream; inside `with`."""
        return self.cuda.Stream(_NON_BLOCKING)


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


class Buffer:
    """One tensor's memory on the host and on the device, for at most `items` items.

    Where `is_mapped`, both are the same memory and nothing is copied: right on devices
    whose CPU and GPU share it.
    """

    def __init__(self, gpu: Gpu, items: int, dtype: type, *, is_mapped: bool) -> None:
        cuda = gpu.cuda
        # Page-locked memory: only from it the driver copies without waiting.
        flags = cuda.host_alloc_flags.DEVICEMAP if is_mapped else 0
        self.host: NDArray[Any] = cuda.pagelocked_empty(items, dtype, mem_flags=flags)
        self._cuda = cuda
        self._pinned: Any = self.host.base
        self._device_memory: Any = (
            None if is_mapped else cuda.mem_alloc(self.host.nbytes)
        )
        # Mapped host memory has another address on the device than on the host.
        device: Any = (
            self._pinned.get_device_pointer() if is_mapped else self._device_memory
        )
        self.address = int(device)

    def shaped(self, shape: tuple[int, ...]) -> NDArray[Any]:
        """Return the first items of the host's side as an array."""
        return self.host[: int(np.prod(shape))].reshape(shape)

    def upload(self, items: int, stream: Any) -> None:
        """Send the first items to the device, in the stream's order."""
        if self._device_memory is not None and items:
            self._cuda.memcpy_htod_async(self._device_memory, self.host[:items], stream)

    def download(self, items: int, stream: Any) -> None:
        """Fetch the first items from the device, in the stream's order."""
        if self._device_memory is not None and items:
            self._cuda.memcpy_dtoh_async(self.host[:items], self._device_memory, stream)

    def close(self) -> None:
        """Give the memory back; inside `with` of its GPU."""
        self.host = np.empty(0)  # no array may show memory that is given back
        if self._device_memory is not None:
            self._device_memory.free()
            self._device_memory = None
        self._pinned.free()


class Graph:
    """The work that `enqueue` puts into `stream`, captured once, launched as one."""

    def __init__(self, stream: Any, enqueue: Callable[[], None]) -> None:
        self._driver = ctypes.CDLL(_DRIVER)
        handle = ctypes.c_void_p(stream.handle)
        # While a stream is captured, work that is enqueued is recorded and not done.
        self._call("cuStreamBeginCapture_v2", handle, ctypes.c_int(_THREAD_LOCAL))
        captured, count = ctypes.c_void_p(), ctypes.c_size_t()
        try:
            enqueue()
        finally:  # a stream left in capture mode would refuse every later call
            self._call("cuStreamEndCapture", handle, ctypes.byref(captured))
        self._launchable: ctypes.c_void_p | None = ctypes.c_void_p()
        try:
            # Work that went to another device or stream leaves an empty graph. It would
            # launch without an error and compute nothing, so it is refused here.
            self._call("cuGraphGetNodes", captured, None, ctypes.byref(count))
            if count.value == 0:
                raise EngineFailed(
                    "the captured CUDA graph is empty; the engine works on another "
                    "device or stream"
                )
            self._call(
                "cuGraphInstantiateWithFlags",
                ctypes.byref(self._launchable),
                captured,
                ctypes.c_ulonglong(0),
            )
        finally:  # the instance is a copy; what was captured is not needed any more
            self._call("cuGraphDestroy", captured)

    def launch(self, stream: Any) -> None:
        """Put the whole graph into `stream`."""
        self._call("cuGraphLaunch", self._launchable, ctypes.c_void_p(stream.handle))

    def close(self) -> None:
        """Release the graph; inside `with` of its GPU. Safe to call twice."""
        if self._launchable is not None:
            self._call("cuGraphExecDestroy", self._launchable)
            self._launchable = None

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._driver, name)(*arguments)
        if code != 0:
            raise GpuFailed(f"{name} failed with CUDA error {code}, expected 0")
