"""ONNX operators in PyTorch, with gradients: what a graph made ready for quantisation consists of.

Definitions as in onnx/docs/Operators.md, opset 13 to 20. Each takes the node's attributes and its
input tensors (None where one is left out), and gives its outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lepton_edge.compress._onnx_recurrent import recurrent

Attributes = Mapping[str, Any]
Inputs = Sequence[Any]


def _ints(value: Tensor) -> list[int]:
    return [int(each) for each in value.reshape(-1).tolist()]


def _padded(value: Tensor, a: Attributes, sizes: Sequence[int], fill: float) -> Tensor:
    """The value with the node's pads, which may differ between both ends."""
    n = len(sizes)
    pads = list(a.get("pads") or [0] * (2 * n))
    mode = a.get("auto_pad", b"NOTSET")
    if mode in (b"SAME_UPPER", b"SAME_LOWER"):
        strides, dilations = a.get("strides") or [1] * n, a.get("dilations") or [1] * n
        for axis in range(n):
            length, reach = value.shape[axis + 2], (sizes[axis] - 1) * dilations[axis] + 1
            total = max(0, (-(-length // strides[axis]) - 1) * strides[axis] + reach - length)
            small, large = total // 2, total - total // 2
            first = small if mode == b"SAME_UPPER" else large
            pads[axis], pads[axis + n] = first, total - first
    if not any(pads):
        return value
    both = [pads[axis + n * end] for axis in reversed(range(n)) for end in (0, 1)]
    return functional.pad(value, both, value=fill)


def _conv(a: Attributes, x: Inputs) -> Tensor:
    n = x[1].ndim - 2
    value = _padded(x[0], a, x[1].shape[2:], 0.0)
    call: Callable[..., Tensor] = (functional.conv1d, functional.conv2d, functional.conv3d)[n - 1]
    bias = x[2] if len(x) > 2 else None
    stride, dilation = a.get("strides") or [1] * n, a.get("dilations") or [1] * n
    return call(value, x[1], bias, stride, 0, dilation, a.get("group", 1))


def _conv_transpose(a: Attributes, x: Inputs) -> Tensor:
    n = x[1].ndim - 2
    pads = list(a.get("pads") or [0] * (2 * n))
    if pads[:n] != pads[n:] or a.get("output_shape"):
        raise NotImplementedError("ConvTranspose with uneven pads")
    call: Callable[..., Tensor] = (
        functional.conv_transpose1d,
        functional.conv_transpose2d,
        functional.conv_transpose3d,
    )[n - 1]
    return call(
        x[0], x[1], x[2] if len(x) > 2 else None, a.get("strides") or [1] * n, pads[:n],
        a.get("output_padding") or [0] * n, a.get("group", 1), a.get("dilations") or [1] * n,
    )  # fmt: skip


def _gemm(a: Attributes, x: Inputs) -> Tensor:
    left = x[0].T if a.get("transA") else x[0]
    right = x[1].T if a.get("transB") else x[1]
    value: Tensor = a.get("alpha", 1.0) * (left @ right)
    return value if len(x) < 3 or x[2] is None else value + a.get("beta", 1.0) * x[2]


def _clip(_a: Attributes, x: Inputs) -> Tensor:
    low, high = (float(each) if each is not None else None for each in [*x[1:], None, None][:2])
    return torch.clamp(x[0], low, high)


def _pool(a: Attributes, x: Inputs, largest: bool) -> Tensor:
    sizes = a["kernel_shape"]
    n, strides = len(sizes), a.get("strides") or [1] * len(sizes)
    if a.get("ceil_mode"):
        raise NotImplementedError("pooling with ceil_mode")
    if largest:
        value = _padded(x[0], a, sizes, -float("inf"))
        pools = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)
        pooled: Tensor = pools[n - 1](value, sizes, strides, 0, a.get("dilations") or [1] * n)
        return pooled
    means: tuple[Callable[..., Tensor], ...] = (
        functional.avg_pool1d,
        functional.avg_pool2d,
        functional.avg_pool3d,
    )
    summed = means[n - 1](_padded(x[0], a, sizes, 0.0), sizes, strides)
    if a.get("count_include_pad", 0):
        return summed
    ones = means[n - 1](_padded(torch.ones_like(x[0][:1]), a, sizes, 0.0), sizes, strides)
    return summed / ones


def _reduce(call: Callable[..., Tensor]) -> Callable[[Attributes, Inputs], Tensor]:
    def run(a: Attributes, x: Inputs) -> Tensor:
        axes = a.get("axes")
        if len(x) > 1 and x[1] is not None:
            axes = _ints(x[1])
        if not axes:
            axes = list(range(x[0].ndim))
        return call(x[0], tuple(axes), bool(a.get("keepdims", 1)))

    return run


def _reshape(a: Attributes, x: Inputs) -> Tensor:
    shape = _ints(x[1])
    if not a.get("allowzero"):
        shape = [x[0].shape[i] if size == 0 else size for i, size in enumerate(shape)]
    value: Tensor = x[0].reshape(shape)
    return value


def _slice(_a: Attributes, x: Inputs) -> Tensor:
    starts, ends = _ints(x[1]), _ints(x[2])
    axes = _ints(x[3]) if len(x) > 3 and x[3] is not None else list(range(len(starts)))
    steps = _ints(x[4]) if len(x) > 4 and x[4] is not None else [1] * len(starts)
    value: Tensor = x[0]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = value.shape[axis]
        chosen = range(size)[slice(start, end if abs(end) < 2**31 - 1 or step > 0 else None, step)]
        value = value.index_select(axis, torch.tensor(list(chosen), device=value.device))
    return value


def _gather(a: Attributes, x: Inputs) -> Tensor:
    axis = a.get("axis", 0) % x[0].ndim
    index = torch.where(x[1] < 0, x[1] + x[0].shape[axis], x[1]).to(x[0].device)
    rows = x[0].index_select(axis, index.reshape(-1).long())
    value: Tensor = rows.reshape((*x[0].shape[:axis], *index.shape, *x[0].shape[axis + 1 :]))
    return value


def _split(a: Attributes, x: Inputs) -> tuple[Tensor, ...]:
    axis = a.get("axis", 0)
    if len(x) > 1 and x[1] is not None:
        return tuple(x[0].split(_ints(x[1]), axis))
    return tuple(x[0].chunk(a["num_outputs"], axis))


def _squeeze(_a: Attributes, x: Inputs) -> Tensor:
    value: Tensor = x[0]
    axes = _ints(x[1]) if len(x) > 1 and x[1] is not None else None
    if axes is None:
        return value.squeeze()
    return value.squeeze(tuple(axes))


def _unsqueeze(_a: Attributes, x: Inputs) -> Tensor:
    value: Tensor = x[0]
    rank = value.ndim + x[1].numel()
    for axis in sorted(each % rank for each in _ints(x[1])):
        value = value.unsqueeze(axis)
    return value


def _layer_norm(a: Attributes, x: Inputs) -> Tensor:
    axis = a.get("axis", -1) % x[0].ndim
    bias = x[2] if len(x) > 2 else None
    return functional.layer_norm(x[0], x[0].shape[axis:], x[1], bias, a.get("epsilon", 1e-5))


def _batch_norm(a: Attributes, x: Inputs) -> Tensor:
    return functional.batch_norm(x[0], x[3], x[4], x[1], x[2], False, 0.0, a.get("epsilon", 1e-5))


def _resize(a: Attributes, x: Inputs) -> Tensor:
    value: Tensor = x[0]
    scales = x[2] if len(x) > 2 and x[2] is not None and x[2].numel() else None
    if scales is not None:
        factors = [float(each) for each in scales.tolist()]
        size = [int(length * f) for length, f in zip(value.shape, factors, strict=True)][2:]
    else:
        size = _ints(x[3])[2:]
    mode, place = a.get("mode", b"nearest"), a.get("coordinate_transformation_mode", b"half_pixel")
    if mode == b"linear" and value.ndim == 4 and place in (b"half_pixel", b"pytorch_half_pixel"):
        return functional.interpolate(value, size, mode="bilinear", align_corners=False)
    if mode == b"linear" and value.ndim == 4 and place == b"align_corners":
        return functional.interpolate(value, size, mode="bilinear", align_corners=True)
    floor = a.get("nearest_mode", b"round_prefer_floor") == b"floor"
    if mode == b"nearest" and place == b"asymmetric" and floor:
        return functional.interpolate(value, size, mode="nearest")
    raise NotImplementedError(f"Resize {mode.decode()} {place.decode()}")


def _cast(a: Attributes, x: Inputs) -> Tensor:
    from onnx import helper

    name = helper.tensor_dtype_to_np_dtype(a["to"]).name
    value: Tensor = x[0].to(getattr(torch, name))
    return value


def _pad(a: Attributes, x: Inputs) -> Tensor:
    if a.get("mode", b"constant") != b"constant" or (len(x) > 3 and x[3] is not None):
        raise NotImplementedError("Pad other than with a constant on all axes")
    pads, n = _ints(x[1]), x[0].ndim
    both = [pads[axis + n * end] for axis in reversed(range(n)) for end in (0, 1)]
    fill = float(x[2]) if len(x) > 2 and x[2] is not None else 0.0
    return functional.pad(x[0], both, value=fill)


def _softmax(a: Attributes, x: Inputs) -> Tensor:
    value: Tensor = x[0].softmax(a.get("axis", -1))
    return value


def _flatten(a: Attributes, x: Inputs) -> Tensor:
    axis = a.get("axis", 1) % (x[0].ndim + 1)
    value: Tensor = x[0].reshape(x[0].shape[:axis].numel(), -1)
    return value


def _filled(a: Attributes, x: Inputs) -> Tensor:
    from onnx import numpy_helper

    value = torch.tensor(numpy_helper.to_array(a["value"]) if "value" in a else [0.0])
    return torch.full(_ints(x[0]), value.item(), dtype=value.dtype, device=x[0].device)


def _reversed(a: Attributes, x: Inputs) -> Tensor:
    axis = a.get("time_axis", 0)
    if any(each != x[0].shape[axis] for each in _ints(x[1])):
        raise NotImplementedError("ReverseSequence of parts")
    value: Tensor = x[0].flip(axis)
    return value


def _of(call: Callable[..., Any]) -> Callable[[Attributes, Inputs], Any]:
    return lambda _a, x: call(*x)


OPERATORS: dict[str, Callable[[Attributes, Inputs], Any]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _of(torch.matmul),
    "Relu": _of(torch.relu),
    "Clip": _clip,
    "LeakyRelu": lambda a, x: functional.leaky_relu(x[0], a.get("alpha", 0.01)),
    "Sigmoid": _of(torch.sigmoid),
    "Tanh": _of(torch.tanh),
    "Erf": _of(torch.erf),
    "Gelu": lambda a, x: functional.gelu(x[0], approximate=a.get("approximate", b"none").decode()),
    "HardSigmoid": lambda a, x: (a.get("alpha", 0.2) * x[0] + a.get("beta", 0.5)).clamp(0, 1),
    "HardSwish": _of(functional.hardswish),
    "Softmax": _softmax,
    "Add": _of(torch.add),
    "Sub": _of(torch.sub),
    "Mul": _of(torch.mul),
    "Div": lambda _a, x: x[0] / x[1] if x[0].is_floating_point() else x[0] // x[1],
    "Pow": _of(torch.pow),
    "Sqrt": _of(torch.sqrt),
    "Exp": _of(torch.exp),
    "Neg": _of(torch.neg),
    "Concat": lambda a, x: torch.cat(list(x), a["axis"]),
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": lambda a, x: x[0].permute(a.get("perm") or list(range(x[0].ndim))[::-1]),
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Slice": _slice,
    "Gather": _gather,
    "Split": _split,
    "Shape": lambda _a, x: torch.tensor(x[0].shape),
    "Expand": lambda _a, x: x[0] * torch.ones(_ints(x[1]), dtype=x[0].dtype, device=x[0].device),
    "Cast": _cast,
    "Where": _of(torch.where),
    "Pad": _pad,
    "Identity": lambda _a, x: x[0],
    "MaxPool": lambda a, x: _pool(a, x, largest=True),
    "AveragePool": lambda a, x: _pool(a, x, largest=False),
    "GlobalAveragePool": lambda _a, x: x[0].mean(tuple(range(2, x[0].ndim)), keepdim=True),
    "ReduceMean": _reduce(lambda v, axes, keep: v.mean(axes, keepdim=keep)),
    "ReduceSum": _reduce(lambda v, axes, keep: v.sum(axes, keepdim=keep)),
    "ReduceMax": _reduce(lambda v, axes, keep: v.amax(axes, keepdim=keep)),
    "ReduceL2": _reduce(lambda v, axes, keep: v.norm(dim=axes, keepdim=keep)),
    "LayerNormalization": _layer_norm,
    "BatchNormalization": _batch_norm,
    "Resize": _resize,
    "LSTM": lambda a, x: recurrent("LSTM", a, x),
    "GRU": lambda a, x: recurrent("GRU", a, x),
    "ConstantOfShape": _filled,
    "ReverseSequence": _reversed,
}
