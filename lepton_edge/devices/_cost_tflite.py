"""What a .tflite file costs, operator by operator."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod

from lepton_edge.devices._kernels import Cost, Kernel, convolution, refuse_open, refuse_operator
from lepton_edge.devices._tflite import Graph, Operator

_FUSED = {"RELU", "RELU6", "RELU_N1_TO_1", "QUANTIZE", "DEQUANTIZE"}
_FREE = {"RESHAPE", "SQUEEZE", "EXPAND_DIMS", "SHAPE"}
_CONVOLUTIONS = {"CONV_2D", "DEPTHWISE_CONV_2D"}
_PADS = {"PAD", "PADV2"}
_ARITHMETIC = {"ADD", "SUB", "MUL", "DIV"}
_MOVING = {
    *("CONCATENATION", "PACK", "PAD", "PADV2", "MIRROR_PAD", "TRANSPOSE", "GATHER", "TILE"),
    *("SLICE", "STRIDED_SLICE", "SPLIT", "SPLIT_V", "RESIZE_BILINEAR", "MEAN", "BROADCAST_TO"),
    *("RESIZE_NEAREST_NEIGHBOR", "MAX_POOL_2D", "AVERAGE_POOL_2D"),
}


# Products and bodies that are not counted here.
UNCOUNTED = re.compile(
    r"^(STABLEHLO_)?(WHILE|IF|CASE|CALL|CALL_ONCE|COMPOSITE|CUSTOM_CALL|RNN|LSTM|SVDF)$"
    r"|SEQUENCE|CONV_3D|STABLEHLO_(CONVOLUTION|DOT_GENERAL)"
)
_BOXES = "TFLite_Detection_PostProcess"


def refuse_unknown(graph: Graph) -> None:
    """Raises for operators of unknown cost, and for inputs with an open size beyond the batch."""
    for index in graph.inputs:
        refuse_open(graph.path, graph.tensors[index].name, graph.tensors[index].free)
    for operator in graph.operators:
        if UNCOUNTED.search(operator.name) or (operator.is_custom and operator.name != _BOXES):
            raise refuse_operator(graph.path, operator.name)


def tflite_cost(graph: Graph, *, joined: bool = False) -> tuple[Cost, tuple[int, ...]]:
    """The cost of a graph that was read already, and the operator that each kernel is of.

    `joined`: arithmetic with a constant is part of the kernel before it, as where a normalisation
    was not folded, unless that one only moves data; a padding is part of the convolution after it
    (XNNPACK's and TensorRT's fusion). The Edge TPU runs both as operators.
    """
    makers = {index: operator for operator in graph.operators for index in operator.outputs}
    other = {
        index for each in graph.operators if each.name not in _CONVOLUTIONS for index in each.inputs
    }
    other |= set(graph.outputs)
    kept = [
        operator
        for operator in graph.operators
        if operator.name not in _FUSED
        and operator.name not in _FREE
        and not (joined and _joins(graph, operator, makers))
        and not (joined and operator.name in _PADS and other.isdisjoint(operator.outputs))
    ]
    found = Cost(
        tuple(_tflite_kernel(graph, operator) for operator in kept),
        sum(graph.tensors[index].size for index in graph.inputs),
        sum(graph.tensors[index].size for index in graph.outputs),
    )
    return found, tuple(operator.index for operator in kept)


def _joins(graph: Graph, operator: Operator, makers: Mapping[int, Operator]) -> bool:
    if operator.name not in _ARITHMETIC:
        return False
    computed = [index for index in operator.inputs if not graph.tensors[index].is_constant]
    maker = makers.get(computed[0]) if len(computed) == 1 else None
    while maker is not None and maker.name in (_FREE | {"QUANTIZE", "DEQUANTIZE"}):
        maker = makers.get(maker.inputs[0])
    return maker is not None and maker.name not in _MOVING


def _tflite_kernel(graph: Graph, operator: Operator) -> Kernel:
    written = sum(tensor.size for tensor in graph.results(operator))
    took = sum(tensor.size for tensor in graph.activations(operator))
    weights = graph.input(operator, 1)
    if weights is not None and len(weights.shape) >= 2:
        shape = weights.shape
        if operator.name == "CONV_2D":
            return convolution(weights.size, prod(shape[1:-1]), shape[-1], written, took, shape[-1])
        if operator.name == "DEPTHWISE_CONV_2D":
            macs = written * prod(shape[1:-1])
            return Kernel("depthwise", macs, weights.size, took, written)
        if operator.name == "TRANSPOSE_CONV":
            spread = graph.input(operator, 2)  # input 0 is the output's shape, computed in some
            macs = (spread.size if spread else 0) * prod(shape[:-1])
            return Kernel("conv", macs, weights.size, took, written)
        if operator.name == "FULLY_CONNECTED":
            return Kernel("dense", written * shape[-1], weights.size, took, written)
        if operator.name == "BATCH_MATMUL":
            inner = graph.tensors[operator.inputs[0]].shape[-1]
            stored = weights.size if weights.is_constant else 0
            return Kernel("dense", written * inner, stored, took, written)
    kind = "boxes" if operator.name == _BOXES else "move"
    return Kernel(kind, 0, 0, took, written)
