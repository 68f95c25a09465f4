"""Messages between this machine and a device: one JSON header, then arrays as their own bytes.

A frame is the header's length (4 bytes, big endian), the header, and the arrays that its key
`arrays` describes ([dtype, shape] each), in C order. Nothing in it is ever unpickled.
"""

from __future__ import annotations

import json
import math
import struct
from typing import IO, Any, Mapping, Sequence

import numpy as np

from lepton_edge.model import Array

SAY = "lepton-edge:"  # begins every line before the frames; whatever else comes is login noise
HEADER_LIMIT = 64 << 20
ARRAY_LIMIT = 8 << 30  # a damaged header must not make this machine exhaust its memory


class Broken(Exception):
    """What came is no frame, or ended within one."""


def write(file: IO[bytes], header: Mapping[str, Any], arrays: Sequence[Array] = ()) -> None:
    given = [np.ascontiguousarray(array) for array in arrays]
    about = [[array.dtype.str, list(array.shape)] for array in arrays]
    text = json.dumps({**header, "arrays": about}).encode()
    file.write(struct.pack(">I", len(text)) + text)
    for array in given:
        if array.size:
            file.write(array.reshape(-1).view(np.uint8).data)
    file.flush()


def read(file: IO[bytes]) -> tuple[dict[str, Any], list[Array]] | None:
    """The next frame; None where the stream ended before one. Raises `Broken` for anything else."""
    prefix = file.read(4)
    if not prefix:
        return None
    (length,) = struct.unpack(">I", _exactly(file, 4, prefix))
    if length > HEADER_LIMIT:
        raise Broken(f"a header of {length:,} bytes")
    try:
        header = json.loads(_exactly(file, length))
        arrays = [_array(file, kind, shape) for kind, shape in header.pop("arrays")]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Broken(f"{type(error).__name__}: {error}") from None
    return header, arrays


def _array(file: IO[bytes], kind: str, shape: list[int]) -> Array:
    dtype = np.dtype(kind)
    size = math.prod(shape) * dtype.itemsize
    if dtype.hasobject or not 0 <= size <= ARRAY_LIMIT:
        raise Broken(f"an array of {kind}{shape}")
    return np.frombuffer(_exactly(file, size), dtype).reshape(shape)


def _exactly(file: IO[bytes], size: int, have: bytes = b"") -> bytearray:
    """A bytearray, so that the arrays over it can be written to."""
    data = bytearray(size)
    data[: len(have)] = have
    view, filled = memoryview(data), len(have)
    while filled < size:
        part = file.read(min(size - filled, 1 << 20))
        if not part:
            raise Broken("the stream ended within a frame")
        view[filled : filled + len(part)] = part
        filled += len(part)
    return data
