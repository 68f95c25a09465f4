"""A .tflite file as operators over numbered tensors: read, changed, cut into pieces, written.

Only the file's first subgraph, its main one, is looked at; others belong to operators of it and
are kept as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton_edge import errors
from lepton_edge.calibration.grid import Grid, QParams
from lepton_edge.model import Array

CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")
BRANCHES = ("WHILE", "IF")
_DTYPES = {
    **{"FLOAT32": "<f4", "INT32": "<i4", "INT64": "<i8"},
    **{"INT8": "i1", "UINT8": "u1", "BOOL": "?"},
}


@dataclass(frozen=True)
class Op:
    """One operator: its place in the file, its name in TFLite's schema, its tensors (-1: none).

    `scope` names it: the name of its first output, as in converters' recipes.
    """

    index: int
    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    scope: str


class Graph:
    """The main subgraph of `content`; changes go to this object, `to_bytes` writes them."""

    def __init__(self, content: bytes) -> None:
        self.schema = _schema()
        self.model = self.schema.ModelT.InitFromPackedBuf(content, 0)
        for buffer in self.model.buffers:
            if buffer.offset > 1:  # large files keep constants behind the tables
                found = content[buffer.offset : buffer.offset + buffer.size]
                buffer.data = np.frombuffer(found, np.uint8)
                buffer.offset = buffer.size = 0
        self.main = self.model.subgraphs[0]
        kinds = _constants(self.schema.BuiltinOperator)
        self._types = _constants(self.schema.TensorType)
        self.ops: list[Op] = []
        for index, raw in enumerate(self.main.operators):
            code = self.model.operatorCodes[raw.opcodeIndex]
            outputs = _indices(raw.outputs)
            self.ops.append(
                Op(
                    index,
                    kinds[max(code.builtinCode, code.deprecatedBuiltinCode)],
                    _indices(raw.inputs),
                    outputs,
                    self.name(outputs[0]) if outputs else f"operator {index}",
                )
            )
        self.producer = {tensor: op for op in self.ops for tensor in op.outputs}
        self.consumers: dict[int, list[Op]] = {}
        for op in self.ops:
            for tensor in dict.fromkeys(op.inputs):
                if tensor >= 0:
                    self.consumers.setdefault(tensor, []).append(op)
        self.inputs, self.outputs = _indices(self.main.inputs), _indices(self.main.outputs)

    def name(self, tensor: int) -> str:
        """The tensor's name in the file."""
        return str((self.main.tensors[tensor].name or b"").decode())

    def shape(self, tensor: int) -> tuple[int, ...]:
        return _indices(self.main.tensors[tensor].shape)

    def dtype(self, tensor: int) -> str:
        """The type's name in TFLite's schema, such as FLOAT32."""
        return self._types[self.main.tensors[tensor].type]

    def is_constant(self, tensor: int) -> bool:
        if tensor < 0:
            return False
        data = self.model.buffers[self.main.tensors[tensor].buffer].data
        return data is not None and len(data) > 0

    def constant(self, tensor: int) -> Array:
        """The values of a constant, read-only."""
        data = np.asarray(self.model.buffers[self.main.tensors[tensor].buffer].data, np.uint8)
        return data.view(_DTYPES[self.dtype(tensor)]).reshape(self.shape(tensor))

    def activations(self) -> list[int]:
        """Float results of operators; not those of a loop or branch that nothing reads.

        The interpreter lets go of these.
        """
        return sorted(
            tensor
            for op in self.ops
            for tensor in op.outputs
            if self.dtype(tensor) == "FLOAT32"
            and (op.kind not in BRANCHES or tensor in {*self.consumers, *self.outputs})
        )

    def inside(self) -> list[str]:
        """The operators of loops and branches, as converters' recipes name them."""
        return [
            "".join(f"{(graph.tensors[each].name or b'').decode()};" for each in raw.outputs)
            for graph in self.model.subgraphs[1:]
            for raw in graph.operators
        ]

    def shared(self, tensor: int) -> bool:
        """Whether several operators read the constant."""
        return len(self.consumers.get(tensor, [])) > 1

    def set_constant(self, tensor: int, value: Array) -> None:
        """Gives the tensor new values of its old shape and type, and a buffer of its own."""
        buffer = self.schema.BufferT()
        dtype = _DTYPES[self.dtype(tensor)]
        buffer.data = np.frombuffer(np.ascontiguousarray(value, dtype).tobytes(), np.uint8)
        held = self.main.tensors[tensor].buffer
        users = sum(each.buffer == held for graph in self.model.subgraphs for each in graph.tensors)
        if users > 1:
            self.model.buffers.append(buffer)
            self.main.tensors[tensor].buffer = len(self.model.buffers) - 1
        else:
            self.model.buffers[held] = buffer

    def grid(self, tensor: int) -> QParams | None:
        """The grid of an int8 tensor; None where it has none."""
        held = self.main.tensors[tensor].quantization
        if self.dtype(tensor) != "INT8" or held is None or held.scale is None:
            return None
        scale, zero = np.asarray(held.scale, np.float32), np.asarray(held.zeroPoint, np.int32)
        if scale.size == 1:
            return QParams(scale[0], zero[0], Grid())
        return QParams(scale, zero, Grid(), int(held.quantizedDimension))

    def set_scale(self, tensor: int, scale: Array) -> None:
        """Gives a quantised tensor new scales, as many as it had."""
        held = self.main.tensors[tensor].quantization
        if np.size(held.scale) != scale.size:
            raise ValueError(f"{self.name(tensor)!r} has {np.size(held.scale)} scales")
        held.scale = np.ascontiguousarray(scale, np.float32).reshape(-1)

    def set_grid_of(self, tensor: int, other: int) -> None:
        """Gives the tensor the type and the grid of `other`."""
        tensors = self.main.tensors
        tensors[tensor].type = tensors[other].type
        tensors[tensor].quantization = copy.deepcopy(tensors[other].quantization)

    def add_constant(self, like: int, name: str, value: Array) -> int:
        """A new constant tensor with the type of `like`."""
        tensor, buffer = self.schema.TensorT(), self.schema.BufferT()
        tensor.type, tensor.name = self.main.tensors[like].type, name.encode()
        tensor.shape = np.array(value.shape, np.int32)
        tensor.hasRank = True
        buffer.data = np.frombuffer(np.ascontiguousarray(value, "<f4").tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        tensor.buffer = len(self.model.buffers) - 1
        self.main.tensors.append(tensor)
        return len(self.main.tensors) - 1

    def set_input(self, op: Op, place: int, tensor: int) -> None:
        """Makes `op` read another tensor, once the file is written and read again."""
        inputs = [*op.inputs, *[-1] * (place + 1 - len(op.inputs))]
        inputs[place] = tensor
        self.main.operators[op.index].inputs = np.array(inputs, np.int32)

    def to_bytes(self) -> bytes:
        return _pack(self.model)

    def showing(self, tensors: Sequence[int]) -> bytes:
        """The file with these tensors as its outputs."""
        model = copy.copy(self.model)
        model.signatureDefs = None
        main = copy.copy(self.main)
        main.outputs = np.array(tensors, np.int32)
        model.subgraphs = [main, *self.model.subgraphs[1:]]
        return _pack(model)

    def piece(self, ops: Sequence[Op], sources: Sequence[int], wanted: Sequence[int]) -> bytes:
        """A file of `ops` alone, from the tensors `sources` to the tensors `wanted`."""
        raws = [self.main.operators[op.index] for op in ops]
        used = [*sources, *wanted]
        for raw in raws:
            used += [*_indices(raw.inputs), *_indices(raw.outputs), *_indices(raw.intermediates)]
        order = sorted({index for index in used if index >= 0})
        number = {old: new for new, old in enumerate(order)} | {-1: -1}
        model = copy.copy(self.model)
        model.signatureDefs = model.metadata = model.metadataBuffer = None
        part = copy.copy(self.main)
        part.tensors = [self.main.tensors[index] for index in order]
        part.inputs = _renumbered(sources, number)
        part.outputs = _renumbered(wanted, number)
        part.operators = []
        for raw in raws:
            raw = copy.copy(raw)
            raw.inputs = _renumbered(_indices(raw.inputs), number)
            raw.outputs = _renumbered(_indices(raw.outputs), number)
            if raw.intermediates is not None:
                raw.intermediates = _renumbered(_indices(raw.intermediates), number)
            part.operators.append(raw)
        model.subgraphs = [part, *self.model.subgraphs[1:]]
        kept = {each.buffer for graph in model.subgraphs for each in graph.tensors}
        empty = self.schema.BufferT()
        model.buffers = [
            buffer if index in kept else empty for index, buffer in enumerate(self.model.buffers)
        ]
        return _pack(model)


def interpreter(
    content: bytes,
    threads: int,
    *,
    keep_all: bool = False,
    delegated: bool = False,
    name: str = "a piece",
) -> Any:
    """An allocated interpreter; `BadInput` where `name` does not open.

    Its kernels are the built-in ones, or with `delegated` XNNPACK's, which a file runs on by
    default.
    """
    import warnings

    try:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
    except ImportError:
        raise _absent() from None
    with warnings.catch_warnings():
        # Keeping every tensor is the purpose; the interpreter warns that it takes memory.
        warnings.simplefilter("ignore")
        try:
            opened = Interpreter(
                model_content=content,
                num_threads=threads,
                experimental_preserve_all_tensors=keep_all,
                experimental_op_resolver_type=OpResolverType.AUTO
                if delegated
                else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            )
            opened.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise errors.BadInput(
                f"Cannot open the TFLite model {name!r}: {str(error).splitlines()[0]}"
            ) from None
    return opened


def _pack(model: Any) -> bytes:
    import flatbuffers  # type: ignore[import-untyped]

    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _indices(values: Iterable[int] | None) -> tuple[int, ...]:
    return tuple(int(value) for value in values) if values is not None else ()


def _renumbered(indices: Iterable[int], number: Mapping[int, int]) -> Array:
    return np.array([number[index] for index in indices], np.int32)


def _constants(kind: type) -> dict[int, str]:
    return {value: name for name, value in vars(kind).items() if isinstance(value, int)}


def _schema() -> Any:
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError:
        raise _absent() from None
    return schema_py_generated


def _absent() -> errors.BackendMissing:
    return errors.BackendMissing(
        "ai-edge-litert is not installed.", next="pip install 'lepton-edge[tflite]'."
    )
