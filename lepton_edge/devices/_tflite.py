"""A .tflite file as a plain graph: operators, tensors, constants and options. Needs numpy only.

Schema: tensorflow/compiler/mlir/lite/schema/schema.fbs (Apache-2.0); the numbers below are its
field numbers. The generated reader in ai-edge-litert does the same, but a light host may have
tflite-runtime instead, and it does not check offsets.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_edge import errors
from lepton_edge.devices._flatbuffer import Table
from lepton_edge.devices._tflite_schema import DTYPES, NUMPY, OPERATORS, OPTIONS

_CUSTOM = 32
_MAX_TENSOR_ITEMS = 1 << 40


@dataclass(frozen=True)
class Tensor:
    """`free` are the dimensions without a fixed size (`shape` then holds a placeholder, mostly 1).

    `scales` has one value, or one a channel.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    free: tuple[int, ...]
    dtype: str
    scales: NDArray[Any] = field(repr=False)
    zero_points: NDArray[Any] = field(repr=False)
    is_variable: bool
    data: memoryview = field(repr=False)

    @property
    def is_constant(self) -> bool:
        return len(self.data) > 0

    @property
    def size(self) -> int:
        """The number of elements; a free dimension counts as one."""
        return int(np.prod([max(dim, 1) for dim in self.shape], dtype=np.int64))

    @property
    def nbytes(self) -> int:
        known = NUMPY.get(self.dtype)
        return self.size * (np.dtype(known).itemsize if known else 1)

    def array(self) -> NDArray[Any] | None:
        """The constant's values; None where it is no constant, or its bytes do not fit."""
        known = NUMPY.get(self.dtype)
        if known is None or not self.is_constant or len(self.data) != self.nbytes:
            return None
        return np.frombuffer(self.data, known).reshape(self.shape)


@dataclass(frozen=True)
class Operator:
    """`options` holds what OPTIONS names; -1 in `inputs` is an optional input left out."""

    index: int
    name: str
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict[str, int]
    is_custom: bool
    custom: memoryview = field(repr=False)


@dataclass(frozen=True)
class Graph:
    """The main subgraph of a .tflite file; `subgraphs` is how many the file has."""

    path: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    tensors: tuple[Tensor, ...] = field(repr=False)
    operators: tuple[Operator, ...] = field(repr=False)
    subgraphs: int

    def input(self, operator: Operator, position: int) -> Tensor | None:
        """The tensor at that input, None where it was left out."""
        if position >= len(operator.inputs) or operator.inputs[position] < 0:
            return None
        return self.tensors[operator.inputs[position]]

    def activations(self, operator: Operator) -> list[Tensor]:
        """The inputs that are computed, not stored."""
        there = [self.tensors[index] for index in operator.inputs if index >= 0]
        return [tensor for tensor in there if not tensor.is_constant and not tensor.is_variable]

    def results(self, operator: Operator) -> list[Tensor]:
        return [self.tensors[index] for index in operator.outputs]


def read(path: str | Path) -> Graph:
    """The file's main graph. Raises `BadInput` where it is missing, damaged or no .tflite."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise errors.BadInput(f"Cannot read {str(path)!r}: {error.strerror}.") from None
    name = str(path)
    if len(data) < 8 or data[4:8] != b"TFL3":
        raise errors.BadInput(
            f"{name!r} is not a .tflite file.", next="Its bytes 4 to 7 must be TFL3."
        )
    model = Table.root(data, name)
    graphs = model.tables(2)
    if not graphs:
        raise errors.BadInput(f"{name!r} holds no graph.")
    main = graphs[0]
    buffers = [_contents(model, buffer, data) for buffer in model.tables(4)]
    tensors = tuple(_tensor(index, table, buffers) for index, table in enumerate(main.tables(0)))
    codes = [_code(code) for code in model.tables(1)]
    operators = tuple(
        _operator(index, table, codes, len(tensors)) for index, table in enumerate(main.tables(3))
    )
    return Graph(
        path=name,
        inputs=_indices(main, 1, len(tensors)),
        outputs=_indices(main, 2, len(tensors)),
        tensors=tensors,
        operators=operators,
        subgraphs=len(graphs),
    )


def _contents(model: Table, buffer: Table, data: bytes) -> memoryview:
    offset, size = buffer.number(1, "<Q"), buffer.number(2, "<Q")
    if offset > 1:  # large models keep their constants behind the FlatBuffer
        return model.buffer.span(offset, size)
    return buffer.raw(0)


def _tensor(index: int, table: Table, buffers: list[memoryview]) -> Tensor:
    shape = tuple(map(int, table.array(0, "<i4")))
    signature = tuple(map(int, table.array(7, "<i4")))
    number = table.number(2, "<I")
    # Buffer 0 is the empty one by definition: TFLite does not look it up either.
    if (number and number >= len(buffers)) or int(
        np.prod([max(d, 1) for d in shape], dtype=object)
    ) > (_MAX_TENSOR_ITEMS):
        raise table.buffer.damaged()
    quantisation = table.table(4)
    return Tensor(
        index=index,
        name=table.text(3),
        shape=shape,
        # A free dimension is -1 in the signature, while the shape holds a placeholder.
        free=tuple(i for i, dim in enumerate(signature or shape) if dim < 0),
        dtype=DTYPES.get(table.number(1, "<b"), "unknown"),
        scales=quantisation.array(2, "<f4") if quantisation else np.zeros(0, "<f4"),
        zero_points=quantisation.array(3, "<i8") if quantisation else np.zeros(0, "<i8"),
        is_variable=bool(table.number(5, "<B")),
        data=buffers[number] if number else memoryview(b""),
    )


def _code(table: Table) -> tuple[str, int, bool]:
    # Codes over 127 do not fit the first, one-byte field; the larger of the two is the code.
    code = max(table.number(0, "<b"), table.number(3, "<i"))
    name = table.text(1) if code == _CUSTOM else OPERATORS.get(code, f"BUILTIN_{code}")
    return name, table.number(2, "<i", 1), code == _CUSTOM


def _operator(
    index: int, table: Table, codes: list[tuple[str, int, bool]], tensors: int
) -> Operator:
    code = table.number(0, "<I")
    if code >= len(codes):
        raise table.buffer.damaged()
    name, version, is_custom = codes[code]
    given = table.table(4)
    options = {
        key: given.number(number, form, default) if given else default
        for key, (number, form, default) in OPTIONS.get(name, {}).items()
    }
    return Operator(
        index=index,
        name=name,
        version=version,
        inputs=_indices(table, 1, tensors, optional=True),
        outputs=_indices(table, 2, tensors),
        options=options,
        is_custom=is_custom,
        custom=table.raw(5),
    )


def _indices(
    table: Table, field_number: int, tensors: int, optional: bool = False
) -> tuple[int, ...]:
    found = tuple(map(int, table.array(field_number, "<i4")))
    if any(index >= tensors or index < (-1 if optional else 0) for index in found):
        raise table.buffer.damaged()
    return found
