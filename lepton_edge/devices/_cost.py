"""What a model costs, operator by operator: MACs, weights and activations, from its file.

A cost is counted a kernel: an activation or a normalisation that every runtime fuses into the
operator before it has none of its own. Only shapes and element counts are read, no values.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from lepton_edge import errors
from lepton_edge.devices._tflite import Graph, Operator, read

KINDS = ("conv", "pointwise", "depthwise", "dense", "move", "boxes")  # boxes: SSD's selection


@dataclass(frozen=True)
class Kernel:
    """One kernel: `kind` is one of KINDS; `weights`, `read` and `written` count elements."""

    kind: str
    macs: int
    weights: int
    read: int
    written: int


@dataclass(frozen=True)
class Cost:
    """A model's kernels in order, and the elements that enter and leave it."""

    kernels: tuple[Kernel, ...]
    inputs: int
    outputs: int

    @property
    def macs(self) -> int:
        return sum(kernel.macs for kernel in self.kernels)

    @property
    def weights(self) -> int:
        return sum(kernel.weights for kernel in self.kernels)


def convolution(
    weights: int, kernel: int, group_inputs: int, outputs: int, read: int, channels: int
) -> Kernel:
    """A convolution of `kernel` taps and `group_inputs` channels a group; the rest in elements."""
    macs = outputs * kernel * group_inputs
    kind = "depthwise" if group_inputs == 1 and channels > 1 else "conv"
    return Kernel(kind if kernel > 1 else "pointwise", macs, weights, read, outputs)


def cost(path: str | Path) -> Cost:
    """The cost of a .tflite or .onnx file. Raises `BadInput` for other files and open sizes."""
    suffix = Path(path).suffix
    if suffix == ".tflite":
        graph = read(path)
        for index in graph.inputs:
            tensor = graph.tensors[index]
            _refuse_open(path, tensor.name, tensor.free)
        return tflite_cost(graph, joined=True)[0]
    if suffix == ".onnx":
        return _onnx_cost(Path(path))
    raise errors.BadInput(
        f"{str(path)!r} is neither .tflite nor .onnx.", next="Convert the model first."
    )


def _refuse_open(path: str | Path, name: str, free: Collection[int]) -> None:
    """`free` are the dimensions without a size; an open batch counts as one."""
    if any(free):
        raise errors.BadInput(
            f"Dimension {max(free)} of the input {name!r} of {str(path)!r} has no size.",
            next="Give a file with fixed shapes; only the batch may be open.",
        )


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
            return Kernel("dense", written * shape[-2], 0, took, written)
    kind = "boxes" if operator.name == "TFLite_Detection_PostProcess" else "move"
    return Kernel(kind, 0, 0, took, written)


# After a convolution or an addition these cost nothing of their own.
_ONNX_FUSED = {
    *("Relu", "Clip", "Sigmoid", "HardSigmoid", "LeakyRelu", "PRelu"),
    *("QuantizeLinear", "DequantizeLinear", "Identity", "Dropout", "Cast"),
}
# These move no data, or only where a later kernel reads it from.
_ONNX_FREE = {
    *("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Constant", "Shape", "ConstantOfShape"),
    *("Split", "Slice"),
}
# What these give is still the work of the kernel before them.
_ONNX_SAME = {
    *("Reshape", "Flatten", "Squeeze", "Unsqueeze"),
    *("QuantizeLinear", "DequantizeLinear", "Identity", "Dropout", "Cast"),
}
_ONNX_MOVING = {
    *("Concat", "Pad", "Transpose", "Gather", "Tile", "Expand", "Slice", "Split", "Resize"),
    *("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean"),
}
_ONNX_LINEAR = {"Conv", "ConvTranspose", "Gemm"}  # a normalisation after these is folded in
_LAYOUTS = ([0, 2, 3, 1], [0, 3, 1, 2])  # TensorFlow's to the runtime's and back


def _onnx_cost(path: Path) -> Cost:
    try:
        import onnx
    except ImportError:
        raise errors.BackendMissing(
            "Reading an ONNX file needs onnx.", next="pip install 'lepton-edge[onnx]'."
        ) from None
    try:
        model = onnx.shape_inference.infer_shapes(onnx.load(str(path)), data_prop=True)
    except OSError as error:
        raise errors.BadInput(f"Cannot read {str(path)!r}: {error.strerror}.") from None
    except Exception as error:
        # protobuf's DecodeError has no base that can be named without protobuf's own stubs.
        if type(error).__name__ not in ("DecodeError", "InferenceError", "ValidationError"):
            raise
        raise errors.BadInput(f"{str(path)!r} is damaged: {error}.") from None
    graph = model.graph
    shapes: dict[str, tuple[int, ...]] = {
        value.name: tuple(max(dim.dim_value, 1) for dim in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.output, *graph.value_info)
    }
    stored = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            stored[node.output[0]] = tuple(node.attribute[0].t.dims)
    # In a Q/DQ model a weight reaches its operator through DequantizeLinear.
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in stored:
            stored[node.output[0]] = stored[node.input[0]]
    feeds = [value for value in graph.input if value.name not in stored]
    for value in feeds:
        sides = enumerate(value.type.tensor_type.shape.dim)
        _refuse_open(path, value.name, [axis for axis, dim in sides if dim.dim_value < 1])
    makers: dict[str, Any] = {}
    kernels = []
    other = {value.name for value in graph.output}  # what something else than a convolution reads
    for node in reversed(graph.node):
        if node.op_type != "Conv" and not (_layout(node) and other.isdisjoint(node.output)):
            other.update(node.input)
    for node in graph.node:
        same = node.op_type in _ONNX_SAME or _layout(node)
        makers |= dict.fromkeys(node.output, makers.get(node.input[0]) if same else node)
        padding = node.op_type == "Pad" and other.isdisjoint(node.output)  # of a convolution
        if not padding and not _onnx_fused(node, makers, stored):
            kernels.append(_onnx_kernel(node, shapes, stored, str(path)))
    return Cost(
        tuple(kernels),
        sum(prod(shapes[value.name]) for value in feeds),
        sum(prod(shapes[value.name]) for value in graph.output),
    )


def _layout(node: Any) -> bool:
    """A transposition between the orders of two frameworks, which runtimes take out."""
    return node.op_type == "Transpose" and any(list(it.ints) in _LAYOUTS for it in node.attribute)


def _onnx_fused(node: Any, makers: Mapping[str, Any], stored: Collection[str]) -> bool:
    """Whether the node is no kernel of its own."""
    if node.op_type in _ONNX_FUSED or node.op_type in _ONNX_FREE or _layout(node):
        return True
    before = [makers.get(name) for name in node.input]
    if node.op_type == "BatchNormalization":
        return before[0] is not None and before[0].op_type in _ONNX_LINEAR
    if node.op_type not in ("Mul", "Add", "Sub", "Div"):
        return False
    if any(name in stored for name in node.input):
        made = [maker for maker in before if maker is not None]
        return any(each.op_type not in _ONNX_MOVING and each.op_type != "Constant" for each in made)
    # x * sigmoid(x), the SiLU, is one activation; a gate computed from elsewhere is not.
    return node.op_type == "Mul" and any(
        maker is not None and maker.op_type == "Sigmoid" and maker.input[0] in node.input
        for maker in before
    )


def _onnx_kernel(
    node: Any, shapes: dict[str, tuple[int, ...]], stored: dict[str, tuple[int, ...]], path: str
) -> Kernel:
    missing = next((name for name in node.output if name and name not in shapes), None)
    if missing is not None:
        raise errors.BadInput(
            f"The size of {missing!r} ({node.op_type}) in {path!r} cannot be inferred.",
            next="Export with a fixed batch, or give a .tflite.",
        )
    written = sum(prod(shapes[name]) for name in node.output if name)
    took = sum(prod(shapes[name]) for name in node.input if name in shapes and name not in stored)
    weights = stored.get(node.input[1]) if len(node.input) > 1 else None
    if node.op_type == "Conv" and weights:
        taps, inner = prod(weights[2:]), weights[1]
        channels = shapes[node.input[0]][1] if node.input[0] in shapes else inner
        return convolution(prod(weights), taps, inner, written, took, channels)
    if node.op_type == "ConvTranspose" and weights:
        return Kernel("conv", took * prod(weights[1:]), prod(weights), took, written)
    if node.op_type in ("Gemm", "MatMul") and node.input[0] in shapes:
        inner = shapes[node.input[0]][-1]
        return Kernel("dense", written * inner, prod(weights) if weights else 0, took, written)
    return Kernel("move", 0, 0, took, written)
