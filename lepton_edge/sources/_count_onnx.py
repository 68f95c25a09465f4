"""Counts of ONNX files, from the graph and its shapes: inferred, else those of one run."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from math import prod
from typing import Any

import numpy as np

from lepton_edge.model import Model, random_feeds
from lepton_edge.sources import _build, _check
from lepton_edge.sources._counts import Counts

Shape = tuple[int | None, ...]
_RECURRENT = {"LSTM", "GRU", "RNN"}
_COUNTED = {"Conv", "ConvTranspose", "MatMul", "Gemm", *_RECURRENT}
# Products and bodies that are not counted here, so that their sum would be wrong without them.
_UNCOUNTED = re.compile(r"^(If|Loop|Scan|Einsum)$|Conv|MatMul|Gemm|Attention|LSTM|GRU|RNN")


def count(model: Model) -> Counts:
    """Dimensions that nobody fixed count as one. MACs are None where a shape cannot be found."""
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
    try:
        shapes = _inferred(onnx, proto, model)
        counted = [node for node in proto.graph.node if _plain(node.op_type) in _COUNTED]
        missing = {
            name for node in counted for name in (*node.input, *node.output)
            if name and None in shapes.get(name, (None,))
        }  # fmt: skip
        if missing:
            shapes |= _by_running(onnx, proto, model, missing)
        macs = sum(_macs(onnx, node, shapes) for node in counted)
    except onnx.shape_inference.InferenceError as error:
        return Counts(operators, parameters, None, _check.first_line(error))
    except (KeyError, TypeError):
        return Counts(operators, parameters, None, "shapes that cannot be found from the file")
    return Counts(operators, parameters, macs // _batch(model))


def _batch(model: Model) -> int:
    first = model.signature.inputs[0].shape if model.signature.inputs else ()
    return (first[0] if first else 1) or 1


def _inferred(onnx: Any, proto: Any, model: Model) -> dict[str, Shape]:
    """Shapes by ONNX's own inference; free dimensions of inputs are set, in `proto` too."""
    given = {spec.name: spec.shape for spec in model.signature.inputs}
    for value in proto.graph.input:
        dims = value.type.tensor_type.shape.dim
        for dim, size in zip(dims, given.get(value.name, ()), strict=False):
            dim.dim_value = size or 1
    del proto.graph.value_info[:]
    for value in proto.graph.output:
        value.type.tensor_type.ClearField("shape")
    graph = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    shapes: dict[str, Shape] = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.HasField("shape"):
            dims = value.type.tensor_type.shape.dim
            shapes.setdefault(
                value.name, tuple(d.dim_value if d.HasField("dim_value") else None for d in dims)
            )
    return shapes


def _by_running(onnx: Any, proto: Any, model: Model, names: Iterable[str]) -> dict[str, Shape]:
    """Shapes of those tensors in one run on random inputs: sizes that the graph computes itself.

    Raises TypeError where it cannot be run.
    """
    runtime = _build.backend("onnxruntime", "ONNX Runtime", "onnx")
    there = {value.name for value in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(set(names) - there))
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = runtime.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        values = session.run(None, random_feeds(model.signature.inputs, _batch(model)))
    except _build.onnx_failures(runtime) as error:
        raise TypeError("the graph cannot be run") from error
    found = zip(session.get_outputs(), values, strict=True)
    return {output.name: tuple(np.shape(value)) for output, value in found}


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
