"""Counts of ONNX files, from the graph and inferred shapes; nothing is run."""

from __future__ import annotations

import re
from collections import Counter
from math import prod
from typing import Any

from lepton_edge.model import Model
from lepton_edge.sources import _build
from lepton_edge.sources._counts import Counts

Shape = tuple[int | None, ...]
_RECURRENT = {"LSTM", "GRU", "RNN"}
_COUNTED = {"Conv", "ConvTranspose", "MatMul", "Gemm", *_RECURRENT}
# Products and bodies that are not counted here, so that their sum would be wrong without them.
_UNCOUNTED = re.compile(r"^(If|Loop|Scan|Einsum)$|Conv|MatMul|Gemm|Attention|LSTM|GRU|RNN")


def count(model: Model) -> Counts:
    """Free dimensions count as one. MACs are None where a shape cannot be inferred."""
    onnx = _build.backend("onnx", "onnx", "onnx")
    proto = onnx.load(model.native)
    operators = Counter(node.op_type for node in proto.graph.node)
    shapes_only = (onnx.TensorProto.INT64, onnx.TensorProto.BOOL)
    parameters = sum(
        prod(tensor.dims)
        for tensor in proto.graph.initializer
        if tensor.data_type not in shapes_only
    )
    functions = {function.name for function in proto.functions}
    unknown = sorted(
        name
        for name in operators
        if name in functions or (_UNCOUNTED.search(name) and _plain(name) not in _COUNTED)
    )
    if unknown:
        return Counts(operators, parameters, None, f"the graph has {', '.join(unknown)}")
    stored = {tensor.name for tensor in proto.graph.initializer}  # older files list them as inputs
    inputs = [value for value in proto.graph.input if value.name not in stored]
    for value in inputs:
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                dim.dim_value = 1
    del proto.graph.value_info[:]
    for value in proto.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        return Counts(operators, parameters, None, str(error).splitlines()[0])
    shapes: dict[str, Shape] = {
        tensor.name: tuple(tensor.dims) for tensor in inferred.graph.initializer
    }
    graph = inferred.graph
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        shapes.setdefault(
            value.name, tuple(d.dim_value if d.HasField("dim_value") else None for d in dims)
        )
    first = shapes[inputs[0].name] if inputs else ()
    batch = first[0] if first else 1
    try:
        macs = sum(_macs(onnx, node, shapes) for node in graph.node)
    except (KeyError, TypeError):
        return Counts(operators, parameters, None, "shapes that cannot be inferred from the file")
    return Counts(operators, parameters, macs // (batch or 1))


def _plain(name: str) -> str:
    return name.removeprefix("QLinear").removesuffix("Integer")


def _macs(onnx: Any, node: Any, shapes: dict[str, Shape]) -> int:
    """Raises KeyError or TypeError where a shape that matters is not known."""
    kind = _plain(node.op_type)
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}

    def shape(index: int) -> Shape:
        return shapes[node.input[index]]

    if kind in ("Conv", "ConvTranspose"):
        weights = shape(3 if node.op_type == "QLinearConv" else 1)
        spatial = shapes[node.output[0]] if kind == "Conv" else shape(0)
        positions = prod(_known(spatial[2:])) * _known(spatial[:1])[0]
        return positions * prod(_known(weights))
    if kind in ("MatMul", "Gemm"):
        first = _known(shape(0))
        inner = first[0] if attributes.get("transA") else first[-1]
        return prod(_known(shapes[node.output[0]])) * inner
    if kind in _RECURRENT:
        length, batch = _known(shape(0)[:2])
        return length * batch * (prod(_known(shape(1))) + prod(_known(shape(2))))
    return 0


def _known(shape: Shape) -> tuple[int, ...]:
    if any(size is None for size in shape):
        raise TypeError("unknown size")
    return tuple(size for size in shape if size is not None)
