"""TFLite operators in PyTorch, with gradients: what the converters make of convolutional networks.

Definitions as in TensorFlow Lite's schema and reference kernels; images are NHWC. Each takes its
`Call` and its inputs (integer constants as numpy arrays, None where one is left out). The first
axis is the batch, whose size may be another than the file's; what would mix samples raises
`NotImplementedError`.
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
    """One operator: its options in TFLite's schema, and the shapes of its tensors in the file."""

    kind: str
    options: Any
    before: tuple[int, ...]
    after: tuple[int, ...]

    @staticmethod
    def of(graph: Graph, op: Op) -> Call:
        options = graph.main.operators[op.index].builtinOptions
        return Call(op.kind, options, graph.shape(op.inputs[0]), graph.shape(op.outputs[0]))

    def mixes(self) -> NotImplementedError:
        return NotImplementedError(f"{self.kind} along the batch")


def _ints(value: Any) -> list[int]:
    return [int(each) for each in np.asarray(value).reshape(-1)]


def _first(value: Tensor) -> Tensor:
    """Channels first, as PyTorch has them."""
    return value.permute(0, 3, 1, 2)


def _last(value: Tensor) -> Tensor:
    return value.permute(0, 2, 3, 1)


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


def _convolved(call: Call, x: Sequence[Any], weight: Tensor, groups: int) -> Tensor:
    options = call.options
    strides = (options.strideH, options.strideW)
    dilations = (max(options.dilationHFactor, 1), max(options.dilationWFactor, 1))
    reach = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations, strict=True)]
    value = _same(_first(x[0]), reach, strides, call)
    bias = x[2] if len(x) > 2 else None
    return _last(functional.conv2d(value, weight, bias, strides, 0, dilations, groups))


def _conv(call: Call, x: Sequence[Any]) -> Tensor:
    return _convolved(call, x, _first(x[1]), x[0].shape[3] // x[1].shape[3])


def _depthwise(call: Call, x: Sequence[Any]) -> Tensor:
    return _convolved(call, x, x[1].permute(3, 0, 1, 2), x[0].shape[3])


def _dense(call: Call, x: Sequence[Any]) -> Tensor:
    value = x[0] if call.options.keepNumDims else x[0].reshape(-1, x[1].shape[1])
    return functional.linear(value, x[1], x[2] if len(x) > 2 else None)


def _pool(call: Call, x: Sequence[Any]) -> Tensor:
    sizes = (call.options.filterHeight, call.options.filterWidth)
    strides = (call.options.strideH, call.options.strideW)
    value = _first(x[0])
    if call.kind == "MAX_POOL_2D":
        padded = _same(value, sizes, strides, call, -float("inf"))
        return _last(functional.max_pool2d(padded, sizes, strides))
    ones = _same(torch.ones_like(value[:1]), sizes, strides, call)
    summed = functional.avg_pool2d(_same(value, sizes, strides, call), sizes, strides)
    return _last(summed / functional.avg_pool2d(ones, sizes, strides))


def _reduced(call: Call, x: Sequence[Any]) -> Tensor:
    axes = tuple(sorted({each % len(call.before) for each in _ints(x[1])}))
    if 0 in axes:
        raise call.mixes()
    run = torch.mean if call.kind == "MEAN" else torch.sum
    value: Tensor = run(x[0], axes, keepdim=bool(call.options.keepDims))
    return value


def _reshape(call: Call, x: Sequence[Any]) -> Tensor:
    """The shape is the file's, but for the batch."""
    if not call.after or call.after[0] != call.before[0]:
        raise call.mixes()
    value: Tensor = x[0].reshape(x[0].shape[0], *call.after[1:])
    return value


def _pad(call: Call, x: Sequence[Any]) -> Tensor:
    pairs = np.asarray(x[1]).reshape(-1, 2)
    if pairs[0].any():
        raise call.mixes()
    around = [int(each) for pair in pairs[::-1] for each in pair]
    return functional.pad(x[0], around, value=float(x[2]) if len(x) > 2 else 0.0)


def _concatenated(call: Call, x: Sequence[Any]) -> Tensor:
    axis = call.options.axis % len(call.after)
    if axis == 0:
        raise call.mixes()
    return torch.cat(list(x), axis)


def _transposed(call: Call, x: Sequence[Any]) -> Tensor:
    order = _ints(x[1])
    if order[0] != 0:
        raise call.mixes()
    value: Tensor = x[0].permute(order)
    return value


def _sliced(call: Call, x: Sequence[Any]) -> Tensor:
    options = call.options
    if options.ellipsisMask or options.newAxisMask or getattr(options, "offset", False):
        raise NotImplementedError("STRIDED_SLICE with new axes, an ellipsis or an offset")
    begins, ends, strides = map(_ints, x[1:4])
    value: Tensor = x[0]
    dropped = []
    for axis, (begin, end, stride) in enumerate(zip(begins, ends, strides, strict=True)):
        single = bool(options.shrinkAxisMask >> axis & 1)
        first = None if options.beginMask >> axis & 1 else begin
        last = None if options.endMask >> axis & 1 else end
        size = call.before[axis]
        chosen = [begin % size] if single else list(range(size)[slice(first, last, stride)])
        if axis == 0:
            if single or chosen != list(range(size)):
                raise call.mixes()
            continue
        value = value.index_select(axis, torch.tensor(chosen, device=value.device))
        dropped += [axis] * single
    return value.squeeze(tuple(dropped)) if dropped else value


def _resized(call: Call, x: Sequence[Any]) -> Tensor:
    options, size = call.options, _ints(x[1])
    value = _first(x[0])
    if call.kind == "RESIZE_NEAREST_NEIGHBOR" and not options.alignCorners:
        mode = "nearest-exact" if options.halfPixelCenters else "nearest"
        return _last(functional.interpolate(value, size, mode=mode))
    if call.kind == "RESIZE_BILINEAR" and (options.alignCorners or options.halfPixelCenters):
        corners = bool(options.alignCorners)
        return _last(functional.interpolate(value, size, mode="bilinear", align_corners=corners))
    raise NotImplementedError(f"{call.kind} with these corners")


def activated(call: Call, value: Tensor) -> Tensor:
    """The value after the activation that is fused into the operator, if any."""
    kind = getattr(call.options, "fusedActivationFunction", 0)
    if kind not in _FUSED:
        raise NotImplementedError(f"{call.kind} with the fused activation {kind}")
    return _FUSED[kind](value)


def _relu(top: float | None, bottom: float = 0.0) -> Callable[[Tensor], Tensor]:
    return lambda value: value.clamp(bottom, top)


def _of(run: Callable[..., Tensor]) -> Callable[[Call, Sequence[Any]], Tensor]:
    return lambda _call, x: run(*x)


# By their numbers in the schema's ActivationFunctionType.
_FUSED: dict[int, Callable[[Tensor], Tensor]] = {
    0: lambda value: value,
    1: _relu(None),
    2: _relu(1.0, -1.0),
    3: _relu(6.0),
}

OPERATORS: dict[str, Callable[[Call, Sequence[Any]], Tensor]] = {
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": _dense,
    "ADD": _of(torch.add),
    "SUB": _of(torch.sub),
    "MUL": _of(torch.mul),
    "MAXIMUM": _of(torch.maximum),
    "MINIMUM": _of(torch.minimum),
    "AVERAGE_POOL_2D": _pool,
    "MAX_POOL_2D": _pool,
    "MEAN": _reduced,
    "SUM": _reduced,
    "RESHAPE": _reshape,
    "SQUEEZE": _reshape,
    "EXPAND_DIMS": _reshape,
    "PAD": _pad,
    "PADV2": _pad,
    "CONCATENATION": _concatenated,
    "TRANSPOSE": _transposed,
    "STRIDED_SLICE": _sliced,
    "RESIZE_BILINEAR": _resized,
    "RESIZE_NEAREST_NEIGHBOR": _resized,
    "RELU": lambda _call, x: torch.relu(x[0]),
    "RELU6": lambda _call, x: x[0].clamp(0.0, 6.0),
    "LEAKY_RELU": lambda call, x: functional.leaky_relu(x[0], call.options.alpha),
    "HARD_SWISH": _of(functional.hardswish),
    "LOGISTIC": _of(torch.sigmoid),
    "TANH": _of(torch.tanh),
    "SOFTMAX": lambda call, x: torch.softmax(call.options.beta * x[0], -1),
    "QUANTIZE": lambda _call, x: x[0],
    "DEQUANTIZE": lambda _call, x: x[0],
}
