"""The few calls of CUDA's runtime library (libcudart) that an engine needs, through ctypes.

A Jetson has that library wherever it has TensorRT; no Python package for CUDA comes with JetPack.
https://docs.nvidia.com/cuda/cuda-runtime-api/
"""

from __future__ import annotations

import ctypes
import glob
import os
import sys
from typing import Any, Iterator

from lepton_edge import errors
from lepton_edge.model import Array

TO_DEVICE, TO_HOST = 1, 2  # cudaMemcpyKind
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76  # cudaDeviceAttr
PROPERTIES = 1 << 14  # bytes: more than cudaDeviceProp has in any release; its name comes first
NAMES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so")
FOLDERS = ("nvidia/cu13/lib", "nvidia/cuda_runtime/lib")  # of NVIDIA's packages for pip
_POINTER, _SIZE, _INT = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
_CALLS = {
    "cudaGetDeviceCount": (ctypes.POINTER(_INT),),
    "cudaSetDevice": (_INT,),
    "cudaDeviceGetAttribute": (ctypes.POINTER(_INT), _INT, _INT),
    "cudaGetDeviceProperties": (_POINTER, _INT),
    "cudaMemGetInfo": (ctypes.POINTER(_SIZE), ctypes.POINTER(_SIZE)),
    "cudaMalloc": (ctypes.POINTER(_POINTER), _SIZE),
    "cudaFree": (_POINTER,),
    "cudaMemcpyAsync": (_POINTER, _POINTER, _SIZE, _INT, _POINTER),
    "cudaStreamCreate": (ctypes.POINTER(_POINTER),),
    "cudaStreamSynchronize": (_POINTER,),
    "cudaStreamDestroy": (_POINTER,),
}


class Gpu:
    """One GPU, by its number. Raises `BackendMissing` where there is no library, or no such GPU."""

    def __init__(self, index: int = 0) -> None:
        self.index = index
        self._library, count = _library()
        if index >= count:
            raise errors.BackendMissing(
                f"There is no CUDA device {index}: this machine has {count}.",
                next=f"Name one from cuda:0 to cuda:{count - 1}.",
            )
        self.select()
        text = ctypes.create_string_buffer(PROPERTIES)
        self._call("cudaGetDeviceProperties", text, index)
        self.name = text.value.decode(errors="replace")
        self.capability = ".".join(
            str(self._attribute(number)) for number in (CAPABILITY_MAJOR, CAPABILITY_MINOR)
        )

    def select(self) -> None:
        """Makes this the GPU of the calling thread."""
        self._call("cudaSetDevice", self.index)

    def memory(self) -> tuple[int, int]:
        """Bytes that are free, and all; a Jetson's GPU shares them with the CPU."""
        free, total = _SIZE(), _SIZE()
        self._call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def allocate(self, size: int) -> int:
        found = _POINTER()
        self._call("cudaMalloc", ctypes.byref(found), size)
        return int(found.value or 0)

    def free(self, address: int) -> None:
        self._call("cudaFree", address)

    def stream(self) -> int:
        found = _POINTER()
        self._call("cudaStreamCreate", ctypes.byref(found))
        return int(found.value or 0)

    def wait(self, stream: int) -> None:
        self._call("cudaStreamSynchronize", stream)

    def end(self, stream: int) -> None:
        self._call("cudaStreamDestroy", stream)

    def send(self, address: int, array: Array, stream: int) -> None:
        """Copies a contiguous array to the GPU; it must stay as it is until `wait`."""
        pointer = array.ctypes.data
        self._call("cudaMemcpyAsync", address, pointer, array.nbytes, TO_DEVICE, stream)

    def fetch(self, array: Array, address: int, stream: int) -> None:
        """Copies into a contiguous array, which is whole after `wait`."""
        pointer = array.ctypes.data
        self._call("cudaMemcpyAsync", pointer, address, array.nbytes, TO_HOST, stream)

    def _attribute(self, number: int) -> int:
        found = _INT()
        self._call("cudaDeviceGetAttribute", ctypes.byref(found), number, self.index)
        return found.value

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            raise errors.DeviceError(
                f"CUDA failed in {name}: {_reason(self._library, code)}.",
                next="Free some memory of the GPU, or look at what else runs there.",
            )


def _library() -> tuple[ctypes.CDLL, int]:
    """The first library that finds a GPU, and how many: one may be newer than the driver."""
    reason = "libcudart is not installed"
    for path in _paths():
        try:
            library = ctypes.CDLL(path)
        except OSError:
            continue
        for name, kinds in _CALLS.items():
            getattr(library, name).argtypes = kinds
        library.cudaGetErrorString.restype = ctypes.c_char_p
        count = _INT()
        code = library.cudaGetDeviceCount(ctypes.byref(count))
        if code == 0 and count.value > 0:
            return library, count.value
        reason = _reason(library, code) if code else "it has none"
    raise errors.BackendMissing(
        f"There is no CUDA device here ({reason}).",
        next="Run it on a machine with an NVIDIA GPU and its driver: --on ssh://user@host.",
    )


def _paths() -> Iterator[str]:
    yield from NAMES
    for folder in sys.path:
        for inside in FOLDERS:
            yield from sorted(glob.glob(os.path.join(folder, inside, "libcudart.so.*")))
    yield from sorted(glob.glob("/usr/local/cuda/lib64/libcudart.so.*"))


def _reason(library: ctypes.CDLL, code: int) -> str:
    return str(library.cudaGetErrorString(code).decode(errors="replace"))
