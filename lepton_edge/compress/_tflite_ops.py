"""TFLite operators in PyTorch, with gradients: what the converters make of networks.

Definitions as in TensorFlow Lite's schema and reference kernels; images are NHWC. Every tensor has
one axis more than in the file, in front: so many copies of the file run at once, each with its own
samples. A constant has one copy, for all of them. Each operator takes its `Call` and its inputs
(integer constants as in the file, None where one is left out), and gives its output, or a list.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lepton_edge.calibration.graph_tflite import Graph, Op


@dataclass(frozen=True)
class Call:
    """One operator: its options in TFLite's schema, and its first output in the file."""

    kind: str
    options: Any
    after: tuple[int, ...]
    dtype: torch.dtype | None

    @staticmethod
    def of(graph: Graph, op: Op) -> Call:
        options = graph.main.operators[op.index].builtinOptions
        output = op.outputs[0]
        return Call(op.kind, options, graph.shape(output), DTYPES.get(graph.dtype(output)))


DTYPES = {
    "FLOAT32": torch.float32,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "BOOL": torch.bool,
}


def _ints(value: Any) -> list[int]:
    return [int(each) for each in np.asarray(value).reshape(-1)]


def _tensors(x: Sequence[Any]) -> list[Tensor]:
    """The inputs as tensors, constants too, on one device."""
    device = next((each.device for each in x if isinstance(each, Tensor)), None)
    return [
        each if isinstance(each, Tensor) else torch.from_numpy(np.array(each))[None].to(device)
        for each in x
    ]


def _aligned(x: Sequence[Any]) -> list[Tensor]:
    """The inputs with axes of length one behind their copies, so that they broadcast."""
    values = _tensors(x)
    rank = max(each.ndim for each in values)
    return [
        each.reshape(each.shape[0], *[1] * (rank - each.ndim), *each.shape[1:]) for each in values
    ]


def _axis(axis: Any, value: Tensor) -> int:
    """The axis of a value that is `axis` in the file."""
    return int(axis) % (value.ndim - 1) + 1


def _first(value: Tensor) -> Tensor:
    """Images of all copies, channels first, as PyTorch has them."""
    return value.flatten(0, 1).permute(0, 3, 1, 2)


def _last(value: Tensor, copies: int) -> Tensor:
    return value.permute(0, 2, 3, 1).reshape(copies, -1, *value.shape[2:], value.shape[1])


def _same(
    value: Tensor, sizes: Sequence[int], strides: Sequence[int], call: Call, fill: float = 0.0
) -> Tensor:
    """An image, channels first, padded as the option `padding` asks; 0 is SAME."""
    if call.options.padding != 0:
        return value
    around: list[int] = []
    for length, size, stride in zip(value.shape[2:], sizes, strides, strict=True):
        total = max(0, (-(-length // stride) - 1) * stride + size - length)
        around = [total // 2, total - total // 2, *around]
    return functional.pad(value, around, value=fill)


def _bias(x: Sequence[Any], place: int) -> Tensor | None:
    return x[place][0] if len(x) > place and x[place] is not None else None


def _convolved(call: Call, x: Sequence[Any], weight: Tensor, groups: int) -> Tensor:
    options = call.options
    strides = (options.strideH, options.strideW)
    dilations = (max(options.dilationHFactor, 1), max(options.dilationWFactor, 1))
    reach = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations, strict=True)]
    value = _same(_first(x[0]), reach, strides, call)
    found = functional.conv2d(value, weight, _bias(x, 2), strides, 0, dilations, groups)
    return _last(found, len(x[0]))


def _conv(call: Call, x: Sequence[Any]) -> Tensor:
    weight = x[1][0].permute(0, 3, 1, 2)
    return _convolved(call, x, weight, x[0].shape[4] // weight.shape[1])


def _depthwise(call: Call, x: Sequence[Any]) -> Tensor:
    return _convolved(call, x, x[1][0].permute(3, 0, 1, 2), x[0].shape[4])


def _conv_transpose(call: Call, x: Sequence[Any]) -> Tensor:
    """The gradient of a convolution whose input has this output's size."""
    options, weight = call.options, x[1][0].permute(3, 0, 1, 2)
    strides = (options.strideH, options.strideW)
    value = functional.conv_transpose2d(_first(x[2]), weight, None, strides)
    around: list[int] = []
    sizes = zip(call.after[1:3], value.shape[2:], weight.shape[2:], strides, strict=True)
    for length, whole, size, stride in sizes:
        total = max(0, (-(-length // stride) - 1) * stride + size - length)
        before = total // 2 if options.padding == 0 else 0
        around = [-before, length + before - whole, *around]
    value = _last(functional.pad(value, around), len(x[2]))
    bias = _bias(x, 3)
    return value if bias is None else value + bias


def _dense(call: Call, x: Sequence[Any]) -> Tensor:
    value = x[0].reshape(len(x[0]), -1, x[1].shape[2])
    bias = _bias(x, 2)
    if len(x[1]) == 1:
        found = functional.linear(value, x[1][0], bias)
    else:
        found = value @ x[1].transpose(1, 2)
        found = found if bias is None else found + bias
    return found.reshape(-1, *call.after)


def _matmul(call: Call, x: Sequence[Any]) -> Tensor:
    left, right = _aligned(x)
    left = left.transpose(-1, -2) if call.options.adjX else left
    return left @ (right.transpose(-1, -2) if call.options.adjY else right)


def _pool(call: Call, x: Sequence[Any]) -> Tensor:
    sizes = (call.options.filterHeight, call.options.filterWidth)
    strides = (call.options.strideH, call.options.strideW)
    value = _first(x[0])
    if call.kind == "MAX_POOL_2D":
        padded = _same(value, sizes, strides, call, -float("inf"))
        return _last(functional.max_pool2d(padded, sizes, strides), len(x[0]))
    ones = _same(torch.ones_like(value[:1]), sizes, strides, call)
    summed = functional.avg_pool2d(_same(value, sizes, strides, call), sizes, strides)
    return _last(summed / functional.avg_pool2d(ones, sizes, strides), len(x[0]))


def _reduced(run: Callable[..., Tensor]) -> Callable[[Call, Sequence[Any]], Tensor]:
    def reduce(call: Call, x: Sequence[Any]) -> Tensor:
        axes = tuple(sorted({_axis(each, x[0]) for each in _ints(x[1])}))
        return run(x[0], axes, keepdim=bool(call.options.keepDims))

    return reduce


def _reshape(call: Call, x: Sequence[Any]) -> Tensor:
    value: Tensor = x[0].reshape(len(x[0]), *call.after)
    return value


def _pad(_call: Call, x: Sequence[Any]) -> Tensor:
    pairs = np.asarray(x[1]).reshape(-1, 2)
    around = [int(each) for pair in pairs[::-1] for each in pair]
    return functional.pad(x[0], around, value=float(x[2]) if len(x) > 2 else 0.0)


def _copied(x: Sequence[Any]) -> list[Tensor]:
    """The inputs with as many copies each."""
    values = _tensors(x)
    copies = max(map(len, values))
    return [each.expand(copies, *each.shape[1:]) for each in values]


def _concatenated(call: Call, x: Sequence[Any]) -> Tensor:
    values = _copied(x)
    return torch.cat(values, _axis(call.options.axis, values[0]))


def _packed(call: Call, x: Sequence[Any]) -> Tensor:
    return torch.stack(_copied(x), call.options.axis % len(call.after) + 1)


def _unpacked(call: Call, x: Sequence[Any]) -> list[Tensor]:
    return list(x[0].unbind(_axis(call.options.axis, x[0])))


def _split(call: Call, x: Sequence[Any]) -> list[Tensor]:
    return list(x[1].chunk(call.options.numSplits, _axis(_ints(x[0])[0], x[1])))


def _split_v(_call: Call, x: Sequence[Any]) -> list[Tensor]:
    return list(x[0].split(_ints(x[1]), _axis(_ints(x[2])[0], x[0])))


def _transposed(_call: Call, x: Sequence[Any]) -> Tensor:
    value: Tensor = x[0].permute(0, *(each + 1 for each in _ints(x[1])))
    return value


def _slice(_call: Call, x: Sequence[Any]) -> Tensor:
    value: Tensor = x[0]
    for axis, (begin, size) in enumerate(zip(_ints(x[1]), _ints(x[2]), strict=True), 1):
        value = value.narrow(axis, begin, value.shape[axis] - begin if size < 0 else size)
    return value


def _strided_slice(call: Call, x: Sequence[Any]) -> Tensor:
    options = call.options
    if options.ellipsisMask or options.newAxisMask or getattr(options, "offset", False):
        raise NotImplementedError("STRIDED_SLICE with new axes, an ellipsis or an offset")
    begins, ends, strides = map(_ints, x[1:4])
    value: Tensor = x[0]
    dropped = []
    for bit, (begin, end, stride) in enumerate(zip(begins, ends, strides, strict=True)):
        axis, single = bit + 1, bool(options.shrinkAxisMask >> bit & 1)
        first = None if options.beginMask >> bit & 1 else begin
        last = None if options.endMask >> bit & 1 else end
        size = value.shape[axis]
        chosen = [begin % size] if single else list(range(size)[slice(first, last, stride)])
        if chosen != list(range(size)):
            value = value.index_select(axis, torch.tensor(chosen, device=value.device))
        dropped += [axis] * single
    return value.squeeze(tuple(dropped)) if dropped else value


def _looked_up(_call: Call, x: Sequence[Any]) -> Tensor:
    index, table = x
    value: Tensor = table[0][index.long()]
    return value


def _gathered(call: Call, x: Sequence[Any]) -> Tensor:
    value, index = _tensors(x)
    axis = _axis(call.options.axis, value)
    if len(value) == 1 and axis == 1:
        return value[0][index.long()]
    if len(index) > 1 or call.options.batchDims:
        raise NotImplementedError("GATHER by each sample's own places")
    rows = value.index_select(axis, index.reshape(-1))
    return rows.reshape(len(value), *call.after)


def _selected(_call: Call, x: Sequence[Any]) -> Tensor:
    chosen, yes, no = _tensors(x)
    if chosen.ndim != yes.ndim:
        raise NotImplementedError("SELECT of whole rows")
    return torch.where(chosen, yes, no)


def _resized(call: Call, x: Sequence[Any]) -> Tensor:
    options, size = call.options, _ints(x[1])
    value = _first(x[0])
    if call.kind == "RESIZE_NEAREST_NEIGHBOR" and not options.alignCorners:
        mode = "nearest-exact" if options.halfPixelCenters else "nearest"
        return _last(functional.interpolate(value, size, mode=mode), len(x[0]))
    if call.kind == "RESIZE_BILINEAR" and (options.alignCorners or options.halfPixelCenters):
        found = functional.interpolate(
            value, size, mode="bilinear", align_corners=bool(options.alignCorners)
        )
        return _last(found, len(x[0]))
    raise NotImplementedError(f"{call.kind} with these corners")


def activated(call: Call, value: Any) -> Any:
    """The value after the activation that is fused into the operator, if any."""
    kind = getattr(call.options, "fusedActivationFunction", 0)
    if kind not in _FUSED:
        raise NotImplementedError(f"{call.kind} with the fused activation {kind}")
    return _FUSED[kind](value)


def _relu(top: float | None, bottom: float = 0.0) -> Callable[[Tensor], Tensor]:
    return lambda value: value.clamp(bottom, top)


def _of(run: Callable[..., Tensor]) -> Callable[[Call, Sequence[Any]], Tensor]:
    return lambda _call, x: run(*_aligned(x))


def _gelu(call: Call, x: Sequence[Any]) -> Tensor:
    return functional.gelu(x[0], approximate="tanh" if call.options.approximate else "none")


# By their numbers in the schema's ActivationFunctionType.
_FUSED: dict[int, Callable[[Any], Any]] = {
    0: lambda value: value,
    1: _relu(None),
    2: _relu(1.0, -1.0),
    3: _relu(6.0),
    4: torch.tanh,
}

OPERATORS: dict[str, Callable[[Call, Sequence[Any]], Any]] = {
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _depthwise,
    "TRANSPOSE_CONV": _conv_transpose,
    "FULLY_CONNECTED": _dense,
    "BATCH_MATMUL": _matmul,
    "EMBEDDING_LOOKUP": _looked_up,
    "GATHER": _gathered,
    "ADD": _of(torch.add),
    "SUB": _of(torch.sub),
    "MUL": _of(torch.mul),
    "DIV": _of(torch.div),
    "POW": _of(torch.pow),
    "MAXIMUM": _of(torch.maximum),
    "MINIMUM": _of(torch.minimum),
    "SQUARED_DIFFERENCE": _of(lambda one, other: (one - other) ** 2),
    "LESS": _of(torch.lt),
    "LESS_EQUAL": _of(torch.le),
    "GREATER": _of(torch.gt),
    "GREATER_EQUAL": _of(torch.ge),
    "EQUAL": _of(torch.eq),
    "NOT_EQUAL": _of(torch.ne),
    "SELECT": _selected,
    "SELECT_V2": _of(torch.where),
    "AVERAGE_POOL_2D": _pool,
    "MAX_POOL_2D": _pool,
    "MEAN": _reduced(torch.mean),
    "SUM": _reduced(torch.sum),
    "REDUCE_MAX": _reduced(torch.amax),
    "REDUCE_MIN": _reduced(torch.amin),
    "RESHAPE": _reshape,
    "SQUEEZE": _reshape,
    "EXPAND_DIMS": _reshape,
    "PAD": _pad,
    "PADV2": _pad,
    "CONCATENATION": _concatenated,
    "PACK": _packed,
    "UNPACK": _unpacked,
    "SPLIT": _split,
    "SPLIT_V": _split_v,
    "TRANSPOSE": _transposed,
    "SLICE": _slice,
    "STRIDED_SLICE": _strided_slice,
    "RESIZE_BILINEAR": _resized,
    "RESIZE_NEAREST_NEIGHBOR": _resized,
    "RELU": _of(torch.relu),
    "RELU6": _of(functional.relu6),
    "LEAKY_RELU": lambda call, x: functional.leaky_relu(x[0], call.options.alpha),
    "HARD_SWISH": _of(functional.hardswish),
    "GELU": _gelu,
    "LOGISTIC": _of(torch.sigmoid),
    "TANH": _of(torch.tanh),
    "EXP": _of(torch.exp),
    "ABS": _of(torch.abs),
    "NEG": _of(torch.neg),
    "SQRT": _of(torch.sqrt),
    "RSQRT": _of(torch.rsqrt),
    "SOFTMAX": lambda call, x: torch.softmax(call.options.beta * x[0], -1),
    "CAST": lambda call, x: _tensors(x)[0].to(call.dtype),
    "QUANTIZE": lambda _call, x: x[0],
    "DEQUANTIZE": lambda _call, x: x[0],
}
