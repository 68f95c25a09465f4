"""The inputs of a layer as rows of a matrix: y = rows @ W' for every anchor operator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lepton_edge.calibration.graph import attribute
from lepton_edge.model import Array

if TYPE_CHECKING:
    from onnx import NodeProto


KNOWN = ("Conv", "Gemm", "MatMul")


def to_matrix(node: NodeProto, weight: Array, axis: int) -> Array:
    """The weight as [groups, outputs, K] of the products that `rows` pairs with it."""
    if node.op_type == "Conv":
        groups = attribute(node, "group", 1)
        return weight.reshape(groups, weight.shape[0] // groups, -1)
    return np.moveaxis(weight, axis, 0)[None]


def matrix_shape(node: NodeProto, shape: tuple[int, ...]) -> tuple[int, int]:
    """(groups, K) of a weight of that shape."""
    if node.op_type == "Conv":
        return attribute(node, "group", 1), int(np.prod(shape[1:]))
    return 1, shape[1] if node.op_type == "Gemm" and attribute(node, "transB", 0) else shape[0]


def from_matrix(node: NodeProto, matrix: Array, shape: tuple[int, ...], axis: int) -> Array:
    """The inverse of `to_matrix`."""
    if node.op_type == "Conv":
        return matrix.reshape(shape)
    return np.ascontiguousarray(np.moveaxis(matrix[0], 0, axis))


def rows(
    node: NodeProto, values: tuple[Array, ...], kernel: tuple[int, ...], limit: int, seed: int
) -> list[Array]:
    """[groups, rows, K] for each of `values`, at the same positions, at most `limit` of them.

    `kernel` is the shape of the weight. Positions are drawn without replacement from `seed`.
    """
    if node.op_type != "Conv":
        flat = [value.reshape(-1, value.shape[-1]) for value in values]
        chosen = choose(flat[0].shape[0], limit, seed)
        return [value[chosen][None] for value in flat]
    windows = [_windows(node, value, kernel) for value in values]
    spatial = (windows[0].ndim - 2) // 2
    places = (windows[0].shape[0], *windows[0].shape[2 : 2 + spatial])
    chosen = choose(int(np.prod(places)), limit, seed)
    index = np.unravel_index(chosen, places)
    groups = attribute(node, "group", 1)
    found = []
    for window in windows:
        moved = np.moveaxis(window, 1, 1 + spatial)  # batch, places, channels, kernel
        picked = moved[index].reshape(len(chosen), groups, -1)
        found.append(np.ascontiguousarray(picked.transpose(1, 0, 2)))
    return found


def choose(n: int, limit: int, seed: int) -> Array:
    """`limit` of `n` indices in order, drawn without replacement; all where they are fewer."""
    if n <= limit:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, limit, replace=False))


def _windows(node: NodeProto, value: Array, kernel: tuple[int, ...]) -> Array:
    """A view [batch, channels, places..., kernel...] of the padded input."""
    spatial = len(kernel) - 2
    size = kernel[2:]
    strides = attribute(node, "strides", [1] * spatial)
    dilations = attribute(node, "dilations", [1] * spatial)
    span = [(k - 1) * d + 1 for k, d in zip(size, dilations, strict=True)]
    pads = _pads(node, value.shape[2:], span, strides)
    half = len(pads) // 2
    around = [(0, 0), (0, 0), *zip(pads[:half], pads[half:], strict=True)]
    padded = np.pad(value, around) if any(pads) else value
    axes = tuple(range(2, 2 + spatial))
    view = np.lib.stride_tricks.sliding_window_view(padded, tuple(span), axis=axes)
    steps = (
        slice(None),
        slice(None),
        *(slice(None, None, s) for s in strides),
        *(slice(None, None, d) for d in dilations),
    )
    result: Array = view[steps]
    return result


def _pads(node: NodeProto, size: tuple[int, ...], span: list[int], strides: list[int]) -> list[int]:
    auto = attribute(node, "auto_pad", b"NOTSET")
    if auto in (b"SAME_UPPER", b"SAME_LOWER"):
        total = [
            max(0, (-(-n // s) - 1) * s + k - n)
            for n, s, k in zip(size, strides, span, strict=True)
        ]
        small = [t // 2 for t in total]
        large = [t - t // 2 for t in total]
        return [*small, *large] if auto == b"SAME_UPPER" else [*large, *small]
    if auto == b"VALID":
        return [0] * (2 * len(size))
    return list(attribute(node, "pads", [0] * (2 * len(size))))
