"""Reads FlatBuffers without a library: tables, vectors and strings, every offset checked.

A model file is untrusted input, and the generated readers follow any offset that they are given.
Format: https://flatbuffers.dev/internals/ (little endian; a table starts with the distance back to
its vtable, which holds one 16-bit position a field, 0 where the field has its default).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_edge import errors

_MAX_VECTOR = 1 << 31  # items: the format addresses no more bytes


@dataclass(frozen=True)
class Buffer:
    """The bytes of a file and its name, for the message when they make no sense."""

    data: memoryview
    name: str

    def unpack(self, form: str, at: int) -> Any:
        if at < 0 or at + struct.calcsize(form) > len(self.data):
            raise self.damaged()
        return struct.unpack_from(form, self.data, at)[0]

    def span(self, at: int, size: int) -> memoryview:
        if at < 0 or size < 0 or at + size > len(self.data):
            raise self.damaged()
        return self.data[at : at + size]

    def damaged(self) -> errors.BadInput:
        return errors.BadInput(
            f"{self.name!r} is damaged: it points outside of itself.",
            next="Copy or export the file again.",
        )


@dataclass(frozen=True)
class Table:
    """One table of the file; `field` numbers are those of the schema, in order, from 0."""

    buffer: Buffer
    at: int

    @classmethod
    def root(cls, data: bytes | memoryview, name: str, start: int = 0) -> Table:
        """The root table of the FlatBuffer that begins at `start`."""
        buffer = Buffer(memoryview(data)[start:], name)
        return cls(buffer, buffer.unpack("<I", 0))

    def _position(self, field: int) -> int | None:
        vtable = self.at - self.buffer.unpack("<i", self.at)
        if 4 + 2 * field >= self.buffer.unpack("<H", vtable):
            return None
        offset = self.buffer.unpack("<H", vtable + 4 + 2 * field)
        return self.at + offset if offset else None

    def has(self, field: int) -> bool:
        return self._position(field) is not None

    def number(self, field: int, form: str, default: Any = 0) -> Any:
        """A scalar of the `struct` form given, for example '<i'."""
        at = self._position(field)
        return default if at is None else self.buffer.unpack(form, at)

    def _follow(self, field: int) -> int | None:
        at = self._position(field)
        return None if at is None else at + int(self.buffer.unpack("<I", at))

    def table(self, field: int) -> Table | None:
        at = self._follow(field)
        return None if at is None else Table(self.buffer, at)

    def _vector(self, field: int) -> tuple[int, int]:
        at = self._follow(field)
        if at is None:
            return 0, 0
        length = self.buffer.unpack("<I", at)
        if length > _MAX_VECTOR:
            raise self.buffer.damaged()
        return at + 4, length

    def raw(self, field: int) -> memoryview:
        """A vector of bytes, or a string's bytes."""
        return self.buffer.span(*self._vector(field))

    def text(self, field: int) -> str:
        return bytes(self.raw(field)).decode(errors="replace")

    def array(self, field: int, dtype: str) -> NDArray[Any]:
        """A vector of numbers of the numpy dtype given, for example '<i4'."""
        at, length = self._vector(field)
        return np.frombuffer(self.buffer.span(at, length * np.dtype(dtype).itemsize), dtype)

    def _items(self, field: int) -> list[int]:
        at, length = self._vector(field)
        offsets = np.frombuffer(self.buffer.span(at, 4 * length), "<u4")
        return [at + 4 * index + int(offset) for index, offset in enumerate(offsets)]

    def tables(self, field: int) -> list[Table]:
        return [Table(self.buffer, at) for at in self._items(field)]

    def blobs(self, field: int) -> list[memoryview]:
        """A vector of strings, as bytes."""
        return [self.buffer.span(at + 4, self.buffer.unpack("<I", at)) for at in self._items(field)]
