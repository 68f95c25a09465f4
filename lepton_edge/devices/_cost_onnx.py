"""What an ONNX file costs, node by node."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import prod
from pathlib import Path
from typing import Any

from lepton_edge import errors
from lepton_edge.devices._kernels import Cost, Kernel, convolution, refuse_open, refuse_operator

# After a convolution or an addition these cost nothing of their own.
_FUSED = {
    *("Relu", "Clip", "Sigmoid", "HardSigmoid", "LeakyRelu", "PRelu"),
    *("QuantizeLinear", "DequantizeLinear", "Identity", "Dropout", "Cast"),
}
# These move no data, or only where a later kernel reads it from.
_FREE = {
    *("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Constant", "Shape", "ConstantOfShape"),
    *("Split", "Slice"),
}
# What these give is still the work of the kernel before them.
_SAME = {
    *("Reshape", "Flatten", "Squeeze", "Unsqueeze"),
    *("QuantizeLinear", "DequantizeLinear", "Identity", "Dropout", "Cast"),
}
_MOVING = {
    *("Concat", "Pad", "Transpose", "Gather", "Tile", "Expand", "Slice", "Split", "Resize"),
    *("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean"),
}
_LINEAR = {"Conv", "ConvTranspose", "Gemm"}  # a normalisation after these is folded in
# Where the weights are among the inputs.
_CONVOLUTIONS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}
_PRODUCTS = {"Gemm": 1, "MatMul": 1, "MatMulInteger": 1, "QLinearMatMul": 3}
# No published network has these, nor operators of other makers, which are not in ONNX.
_UNKNOWN = {
    *("LSTM", "GRU", "RNN", "Loop", "Scan", "If", "Einsum", "DeformConv", "Attention"),
    *("RotaryEmbedding", "NonMaxSuppression"),
}
_LAYOUTS = ([0, 2, 3, 1], [0, 3, 1, 2])  # TensorFlow's to the runtime's and back


def onnx_cost(path: Path) -> Cost:
    model = _model(path)
    graph = model.graph
    for node in graph.node:
        foreign = node.domain not in ("", "ai.onnx") and node.op_type not in _SAME
        if foreign or node.op_type in _UNKNOWN:
            raise refuse_operator(path, node.op_type)
    shapes = _shapes(model)
    if any(name and name not in shapes for node in graph.node for name in node.output):
        model = _slimmed(model)  # sizes that are computed in the graph are then constants
        graph, shapes = model.graph, _shapes(model)
    stored = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    feeds = [value.name for value in graph.input if value.name not in stored]
    makers: dict[str, Any] = {}
    kernels = []
    other = {value.name for value in graph.output}  # what something else than a convolution reads
    for node in reversed(graph.node):
        if node.op_type != "Conv" and not (_layout(node) and other.isdisjoint(node.output)):
            other.update(node.input)
    for node in graph.node:
        if node.op_type == "Shape" or all(name in stored for name in node.input if name):
            # Known before any input is: runtimes compute these once, weights in Q/DQ among them.
            stored |= {name: shapes.get(name, ()) for name in node.output}
            continue
        same = node.op_type in _SAME or _layout(node)
        makers |= dict.fromkeys(node.output, makers.get(node.input[0]) if same else node)
        padding = node.op_type == "Pad" and other.isdisjoint(node.output)  # of a convolution
        if not padding and not _fused(node, makers, stored):
            kernels.append(_kernel(node, shapes, stored, str(path)))
    return Cost(
        tuple(kernels),
        sum(prod(shapes[name]) for name in feeds),
        sum(prod(shapes[value.name]) for value in graph.output),
    )


def _model(path: Path) -> Any:
    """The file's model with an open batch set to 1."""
    try:
        import onnx
    except ImportError:
        raise errors.BackendMissing(
            "Reading an ONNX file needs onnx.", next="pip install 'lepton-edge[onnx]'."
        ) from None
    try:
        model = onnx.load(str(path))
    except OSError as error:
        raise errors.BadInput(f"Cannot read {str(path)!r}: {error.strerror}.") from None
    except Exception as error:
        # protobuf's DecodeError has no base that can be named without protobuf's own stubs.
        if type(error).__name__ != "DecodeError":
            raise
        raise errors.BadInput(f"{str(path)!r} is damaged: {error}.") from None
    stored = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        free = [axis for axis, dim in enumerate(dims) if dim.dim_value < 1]
        if value.name not in stored and free:
            refuse_open(path, value.name, free)
            dims[0].dim_value = 1
    return model


def _shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """The shapes known in every dimension; what the file says counts where none follows."""
    import onnx

    said = _known([*model.graph.value_info, *model.graph.output])
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]  # names in place of sizes would stay
    for value in copy.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        graph = onnx.shape_inference.infer_shapes(copy, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
        raise errors.BadInput(f"The graph is damaged: {error}.") from None
    return said | _known([*graph.input, *graph.value_info, *graph.output])


def _known(values: list[Any]) -> dict[str, tuple[int, ...]]:
    found = {}
    for value in values:
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in dims):
            found[value.name] = tuple(dim.dim_value for dim in dims)
    return found


def _slimmed(model: Any) -> Any:
    try:
        import onnxslim
    except ImportError:
        return model
    return onnxslim.slim(model)


def _layout(node: Any) -> bool:
    """A transposition between the orders of two frameworks, which runtimes take out."""
    return node.op_type == "Transpose" and any(list(it.ints) in _LAYOUTS for it in node.attribute)


def _fused(node: Any, makers: Mapping[str, Any], stored: Collection[str]) -> bool:
    """Whether the node is no kernel of its own."""
    if node.op_type in _FUSED or node.op_type in _FREE or _layout(node):
        return True
    before = [makers.get(name) for name in node.input]
    if node.op_type == "BatchNormalization":
        return before[0] is not None and before[0].op_type in _LINEAR
    if node.op_type not in ("Mul", "Add", "Sub", "Div"):
        return False
    if any(name in stored for name in node.input):
        made = [maker for maker in before if maker is not None]
        return any(each.op_type not in _MOVING and each.op_type != "Constant" for each in made)
    # x * sigmoid(x), the SiLU, is one activation; a gate computed from elsewhere is not.
    return node.op_type == "Mul" and any(
        maker is not None and maker.op_type == "Sigmoid" and maker.input[0] in node.input
        for maker in before
    )


def _kernel(
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
    place = _CONVOLUTIONS.get(node.op_type) or _PRODUCTS.get(node.op_type) or 1
    weights = stored.get(node.input[place]) if len(node.input) > place else None
    if node.op_type in _CONVOLUTIONS and weights:
        taps, inner = prod(weights[2:]), weights[1]
        channels = shapes[node.input[0]][1] if node.input[0] in shapes else inner
        return convolution(prod(weights), taps, inner, written, took, channels)
    if node.op_type == "ConvTranspose" and weights:
        return Kernel("conv", took * prod(weights[1:]), prod(weights), took, written)
    if node.op_type in _PRODUCTS and node.input[0] in shapes:
        inner = shapes[node.input[0]][-1]
        return Kernel("dense", written * inner, prod(weights) if weights else 0, took, written)
    return Kernel("move", 0, 0, took, written)
