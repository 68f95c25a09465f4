"""A float32 ONNX graph with its weights alone in 8 or 4 bits; it computes in float32."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from lepton_edge import errors
from lepton_edge.calibration import grid
from lepton_edge.calibration.graph import attribute
from lepton_edge.converters._float_onnx import backend, first_line
from lepton_edge.converters._onnx_graph import graphs, sort_nodes
from lepton_edge.model import Array

LEAST = 256  # weights of a tensor: what is smaller gains nothing
BLOCK = 32  # weights along K that share one 4-bit grid
RECURRENT = ("LSTM", "GRU", "RNN")
EVERY = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Gather", *RECURRENT)


def int8(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Every large weight as int8, symmetric, one scale an output channel; the step's record.

    A DequantizeLinear widens each; ONNX Runtime does it once, when it opens the file.
    """
    result, before, after = narrowed(proto, EVERY)
    if not before:
        raise _nothing("int8-weights")
    step = {
        "step": "int8-weights",
        "tool": "lepton-edge",
        "weights": "int8 symmetric per channel",
        "weight_bytes": [before, after],
        "computes": "float32: ONNX Runtime widens the weights when it opens the file",
    }
    return result, step


def narrowed(
    proto: onnx.ModelProto, operators: Collection[str]
) -> tuple[onnx.ModelProto, int, int]:
    """The graph with the weights of `operators` in int8; their bytes before and after."""
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    before = after = 0
    for graph in graphs(result.graph):
        axes = _axes(graph, operators)
        for tensor in list(graph.initializer):
            if tensor.name not in axes or tensor.data_type != onnx.TensorProto.FLOAT:
                continue
            value = numpy_helper.to_array(tensor)
            if value.size < LEAST:
                continue
            axis = axes[tensor.name] % value.ndim
            most = np.abs(value).max(axis=tuple(i for i in range(value.ndim) if i != axis))
            params = grid.params(-most, most, grid.Grid(symmetric=True, narrow=True), axis)
            _replace(graph, tensor, params.quantize(value), params)
            before, after = before + value.nbytes, after + value.size + 4 * most.size
        sort_nodes(graph)
    if before:
        onnx.checker.check_model(result)
    return result, before, after


def int4(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Matrix products with constant weights as MatMulNBits: 4 bits, a grid for each BLOCK weights.

    Raises `CannotConvert` where there is none: ONNX Runtime has no 4-bit convolution.
    """
    library = backend("onnxruntime.quantization.matmul_nbits_quantizer", "ONNX Runtime", "onnx")
    split = _gemm_to_matmul(proto)
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # the library logs each node to the root logger
    try:
        worker = library.MatMulNBitsQuantizer(split, bits=4, block_size=BLOCK, accuracy_level=4)
        worker.process()
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise errors.CannotConvert(
            f"ONNX Runtime's quantiser cannot make 4-bit weights of this model:"
            f" {first_line(error)}.",
            next="Ask for int8-weights.",
        ) from None
    finally:
        logging.root.setLevel(level)
    result: onnx.ModelProto = worker.model.model
    count = sum(node.op_type == "MatMulNBits" for node in result.graph.node)
    if not count:
        raise _nothing("int4-weights")
    step = {
        "step": "int4-weights",
        "tool": "onnxruntime.quantization.MatMulNBitsQuantizer",
        "weights": f"4 bits in blocks of {BLOCK}",
        "quantize_nodes": count,
        "left_in_float": sum(node.op_type in ("Conv", *RECURRENT) for node in result.graph.node),
        "computes": "int8 products of activations and weights, sums in float32",
    }
    return result, step


def _axes(graph: onnx.GraphProto, operators: Collection[str]) -> dict[str, int]:
    """The axis of output channels of each weight, by the first operator that reads it."""
    found: dict[str, int] = {}
    for node in graph.node:
        if node.op_type not in operators:
            continue
        axis: int | None = None
        slots: tuple[int, ...] = (1,)
        if node.op_type == "Conv":
            axis = 0
        elif node.op_type == "ConvTranspose" and attribute(node, "group", 1) == 1:
            axis = 1
        elif node.op_type == "Gemm":
            axis = 0 if attribute(node, "transB", 0) else 1
        elif node.op_type == "MatMul":
            axis = -1
        elif node.op_type == "Gather" and attribute(node, "axis", 0) == 0:
            axis, slots = 0, (0,)
        elif node.op_type in RECURRENT:
            axis, slots = 1, (1, 2)
        if axis is None:
            continue
        for slot in slots:
            if slot < len(node.input) and node.input[slot]:
                found.setdefault(node.input[slot], axis)
    return found


def _replace(
    graph: onnx.GraphProto, tensor: onnx.TensorProto, codes: Array, params: grid.QParams
) -> None:
    name = tensor.name
    graph.initializer.remove(tensor)
    parts = {"_q": codes, "_scale": params.scale, "_zero": params.zero_point}
    for suffix, value in parts.items():
        graph.initializer.append(numpy_helper.from_array(value, name + suffix))
    graph.node.insert(
        0,
        helper.make_node(
            "DequantizeLinear", [name + s for s in parts], [name], f"{name}_dq", axis=params.axis
        ),
    )


def _gemm_to_matmul(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Gemm with constant weights as MatMul and Add, which is what the library takes."""
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    graph = result.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        plain = all(attribute(node, name, 1.0) == 1.0 for name in ("alpha", "beta"))
        if (
            node.op_type != "Gemm"
            or node.input[1] not in weights
            or not plain
            or attribute(node, "transA", 0)
        ):
            nodes.append(node)
            continue
        weight = numpy_helper.to_array(weights[node.input[1]])
        turned = weight.T if attribute(node, "transB", 0) else weight
        name = f"{node.input[1]}_turned"
        if name not in weights:
            weights[name] = numpy_helper.from_array(np.ascontiguousarray(turned), name)
            graph.initializer.append(weights[name])
        biased = len(node.input) > 2 and bool(node.input[2])
        product = f"{node.output[0]}_product" if biased else node.output[0]
        nodes.append(helper.make_node("MatMul", [node.input[0], name], [product], node.name))
        if biased:
            nodes.append(
                helper.make_node(
                    "Add", [product, node.input[2]], [node.output[0]], f"{node.name}_b"
                )
            )
    kept = list(nodes)
    del graph.node[:]
    graph.node.extend(kept)
    read = {name for node in graph.node for name in node.input}
    for tensor in [t for t in graph.initializer if t.name not in read]:
        graph.initializer.remove(tensor)
    return result


def _nothing(precision: str) -> errors.CannotConvert:
    return errors.CannotConvert(
        f"ONNX Runtime has no operator for {precision} in this model: it takes matrix products"
        " with constant weights"
        + (" and, for int8, convolutions." if precision == "int8-weights" else "."),
        next="Ask for int8 with --calib, or fp16.",
    )
