"""Read NumPy's arrays from bytes of others, without unpacking more than they say.

An array's header says its shape before any of its values are read, and a ZIP archive
says how large its members are. Both are compared with what may be, so that a small file
cannot fill the memory.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Callable
from typing import IO

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

_MAX_ARRAYS = 256
_HEADERS: dict[tuple[int, int], Callable[..., tuple[tuple[int, ...], bool, object]]] = {
    (1, 0): npy_format.read_array_header_1_0,
    (2, 0): npy_format.read_array_header_2_0,
}
# What NumPy and zipfile raise of bytes that are no arrays.
_NOT_ARRAYS = (
    *(zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError),
    *(OSError, AttributeError, KeyError, TypeError, SyntaxError),
)


def read_array(data: bytes, max_bytes: int) -> NDArray[np.generic]:
    """Return the array of a `.npy` file.

    Raises
    ------
    ValueError
        It is not an array of plain values, or one of more than `max_bytes`.
    """
    try:
        return _array_in(io.BytesIO(data), max_bytes)
    except _NOT_ARRAYS as error:
        raise ValueError(f"not an array: {error}") from error


def read_arrays(data: bytes, max_bytes: int) -> dict[str, NDArray[np.generic]]:
    """Return the arrays of a `.npz` file, by name.

    Raises
    ------
    ValueError
        It is not an archive of arrays of plain values, or they have more than
        `max_bytes` together.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            size = sum(member.file_size for member in members)
            if len(members) > _MAX_ARRAYS or size > max_bytes:
                raise ValueError(
                    f"{len(members)} arrays of {size:,} bytes, expected at most "
                    f"{_MAX_ARRAYS} of {max_bytes:,} together"
                )
            arrays = {}
            for member in members:
                with archive.open(member) as file:
                    name = member.filename.removesuffix(".npy")
                    arrays[name] = _array_in(file, member.file_size)
            return arrays
    except _NOT_ARRAYS as error:
        raise ValueError(f"no NumPy archive of plain arrays ({error})") from error


def _array_in(file: IO[bytes], max_bytes: int) -> NDArray[np.generic]:
    version = npy_format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"version {version} of NumPy's format, expected 1.0 or 2.0")
    shape, is_fortran, dtype = _HEADERS[version](file)
    kind = np.dtype(dtype)  # type: ignore[call-overload]
    count = math.prod(shape)
    if kind.hasobject or kind.itemsize == 0 or count * kind.itemsize > max_bytes:
        raise ValueError(
            f"an array of {shape} {kind}, expected plain values of at most "
            f"{max_bytes:,} bytes"
        )
    data = file.read(count * kind.itemsize)
    if len(data) != count * kind.itemsize:
        raise ValueError(f"an array of {shape} {kind} is cut off")
    order = "F" if is_fortran else "C"
    return np.frombuffer(data, kind).reshape(shape, order=order).copy(order="K")  # type: ignore[call-overload, no-any-return]
