"""Samples in an .npz file, streamed row by row; nothing in it is ever unpickled."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lepton_edge import errors
from lepton_edge.model import Array
from lepton_edge.samples import Reader, Sample, label_name

CHUNK_BYTES = 1 << 20
ROW_LIMIT_BYTES = 1 << 30  # a forged header must not make one row exhaust the memory


@dataclass(frozen=True)
class _Member:
    file: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    offset: int


class NpzReader(Reader):
    """Arrays are read in step, about 1 MB each at a time, whether compressed or not.

    An array in Fortran order has no rows to stream and is loaded whole.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        members = self._members()
        self.classes = self._classes(members.pop("classes", None))
        self.label = label_name(members, str(path))
        self.names = tuple(name for name in members if name != self.label)
        self.members = members
        if not self.names:
            raise errors.BadInput(f"{str(path)!r} holds no inputs, only {list(members)}.")
        lengths = {name: member.shape[0] for name, member in members.items()}
        if len(set(lengths.values())) > 1:
            raise errors.BadInput(
                f"The arrays of {str(path)!r} differ in length: "
                + ", ".join(f"{name} {n}" for name, n in lengths.items())
                + ".",
                next="Every array needs one row a sample.",
            )
        self.n = next(iter(lengths.values()))

    def __len__(self) -> int:
        return self.n

    def read(self, chosen: frozenset[int] | None) -> Iterator[Sample]:
        try:
            with zipfile.ZipFile(self.path) as archive:
                columns = [self._rows(archive, m, chosen) for m in self.members.values()]
                order = range(self.n) if chosen is None else sorted(chosen)
                for index, values in zip(order, zip(*columns, strict=True), strict=True):
                    row = dict(zip(self.members, values, strict=True))
                    label = None if self.label is None else as_label(row.pop(self.label))
                    yield Sample(row, label, f"{str(self.path)!r} row {index}")
        except _DAMAGE as error:
            raise self._damaged(error) from None

    def _rows(
        self, archive: zipfile.ZipFile, member: _Member, chosen: frozenset[int] | None
    ) -> Iterator[Array]:
        native = member.dtype.newbyteorder("=")
        last = member.shape[0] if chosen is None else max(chosen) + 1
        row_bytes = math.prod(member.shape[1:]) * member.dtype.itemsize
        step = max(1, CHUNK_BYTES // max(1, row_bytes))
        with archive.open(member.file) as file:
            whole = None
            if member.fortran:
                whole = np.lib.format.read_array(file, allow_pickle=False)
            else:
                file.read(member.offset)
            for start in range(0, last, step):
                count = min(step, member.shape[0] - start)
                if whole is None:
                    data = file.read(count * row_bytes)
                    if len(data) != count * row_bytes:
                        raise zipfile.BadZipFile("it ends too early")
                    rows = np.frombuffer(data, member.dtype).reshape(count, *member.shape[1:])
                else:
                    rows = whole[start : start + count]
                for index in range(count):
                    if chosen is None or start + index in chosen:
                        # a copy: a sample must not keep its whole chunk alive
                        yield np.array(rows[index], native, order="C")

    def _members(self) -> dict[str, _Member]:
        members: dict[str, _Member] = {}
        try:
            with zipfile.ZipFile(self.path) as archive:
                for info in archive.infolist():
                    name = info.filename.removesuffix(".npy")
                    if name == info.filename or name in members:
                        raise zipfile.BadZipFile(f"its member {info.filename!r} is no array")
                    members[name] = self._header(archive, info)
        except _DAMAGE as error:
            raise self._damaged(error) from None
        return members

    def _header(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
        with archive.open(info) as file:
            version = np.lib.format.read_magic(file)
            if version == (1, 0):
                shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
            elif version == (2, 0):
                shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
            else:
                raise zipfile.BadZipFile(f"{info.filename!r} has the unknown version {version}")
            offset = file.tell()
        if dtype.hasobject:
            raise errors.BadInput(
                f"{info.filename!r} in {str(self.path)!r} holds Python objects (a pickle), which"
                " are never loaded.",
                next="Save plain numeric arrays of one shape.",
            )
        if dtype.kind not in "biuf" and info.filename != "classes.npy":
            raise errors.BadInput(
                f"{info.filename!r} in {str(self.path)!r} is {dtype}: no numbers."
            )
        if not shape:
            raise errors.BadInput(f"{info.filename!r} in {str(self.path)!r} has no rows.")
        if offset + math.prod(shape) * dtype.itemsize != info.file_size:
            raise zipfile.BadZipFile(f"{info.filename!r} is not as long as its header says")
        if math.prod(shape[1:]) * dtype.itemsize > ROW_LIMIT_BYTES:
            raise errors.BadInput(f"A row of {info.filename!r} is larger than 1 GiB.")
        return _Member(info.filename, shape, dtype, fortran, offset)

    def _classes(self, member: _Member | None) -> tuple[str, ...]:
        if member is None:
            return ()
        if member.dtype.kind != "U" or len(member.shape) != 1:
            raise errors.BadInput(f"'classes' in {str(self.path)!r} is no list of names.")
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(member.file) as file:
                return tuple(np.lib.format.read_array(file, allow_pickle=False).tolist())
        except _DAMAGE as error:
            raise self._damaged(error) from None

    def _damaged(self, error: Exception) -> errors.BadInput:
        return errors.BadInput(
            f"{str(self.path)!r} is damaged or no .npz file: {error}.",
            next="Write it again with numpy.savez.",
        )


# RuntimeError: encrypted; NotImplementedError: an unknown compression
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    NotImplementedError,
)


def as_label(value: Array) -> Any:
    """An int where it is one integer, else the array."""
    if value.dtype.kind in "biu" and value.size == 1:
        return int(value.item())
    return value
