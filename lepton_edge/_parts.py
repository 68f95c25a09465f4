"""The files that belong to a model file: external data of an .onnx, the .bin of an OpenVINO .xml.

An .onnx is read as protobuf wire format, only along the fields that lead to tensors, so that
neither the onnx package nor the weights are loaded.
https://protobuf.dev/programming-guides/encoding/, https://onnx.ai/onnx/repo-docs/ExternalData.html
"""

from __future__ import annotations

import mmap
from pathlib import Path, PurePosixPath
from typing import Iterator

from lepton_edge import errors

# Message -> field number -> message, from onnx.proto; what is not here is passed over.
_FIELDS = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_DEEPEST = 64  # graphs in attributes of graphs: no real model comes near


def parts(path: Path) -> list[Path]:
    """The other files that `path` needs, sorted; none for formats that keep all in one file.

    Raises `BadInput` for a missing one, for one outside the model's folder, and for an .onnx that
    cannot be read.
    """
    if path.suffix == ".xml":
        weights = path.with_suffix(".bin")
        return [weights] if weights.is_file() else []  # a network without constants has none
    if path.suffix != ".onnx" or not path.is_file():
        return []
    found = []
    for name in sorted(set(_locations(path))):
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts:
            raise errors.BadInput(
                f"External data of {str(path)!r} lies outside its folder, in {name!r}.",
                next="Export or download it again.",
            )
        if not (path.parent / pure).is_file():
            raise errors.BadInput(
                f"External data of {str(path)!r} is missing: there is no {name!r} beside it.",
                next="Keep both files in one folder.",
            )
        found.append(path.parent / pure)
    return found


def _locations(path: Path) -> Iterator[str]:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield from _walk(data, 0, len(data), "model", 0)
    except OSError as error:
        raise errors.BadInput(f"Cannot read {str(path)!r}: {error.strerror}.") from None
    except (ValueError, IndexError) as error:
        raise errors.BadInput(
            f"{str(path)!r} is not a sound ONNX file: {error}.", next="Export or download it again."
        ) from None


def _walk(data: mmap.mmap, start: int, end: int, message: str, depth: int) -> Iterator[str]:
    """The locations in the message at `start` to `end`."""
    if depth > _DEEPEST:
        raise ValueError("its graphs are nested without end")
    inner = _FIELDS[message]
    for number, first, last in _fields(data, start, end):
        kind = inner.get(number)
        if kind == "entry":
            pair = {key: data[low:high] for key, low, high in _fields(data, first, last)}
            if pair.get(1) == b"location":
                yield pair.get(2, b"").decode()
        elif kind is not None:
            yield from _walk(data, first, last, kind, depth + 1)


def _fields(data: mmap.mmap, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(number, start, end) of each length-delimited field; others are passed over."""
    while position < end:
        tag, position = _varint(data, position)
        size = {0: 0, 1: 8, 5: 4}.get(tag & 7)
        if tag & 7 == 0:
            _, position = _varint(data, position)
        elif tag & 7 == 2:
            size, position = _varint(data, position)
        if size is None or position + size > end:
            raise ValueError("it ends too early, or is no protobuf")
        if tag & 7 == 2:
            yield tag >> 3, position, position + size
        position += size


def _varint(data: mmap.mmap, position: int) -> tuple[int, int]:
    """The number at `position` and where it ends (base 128, the least significant group first)."""
    value = shift = 0
    while shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
    raise ValueError("it has a number of more than 64 bits")
