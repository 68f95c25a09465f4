"""Weights of TFLite's layers as matrices, and their inputs as the rows that go with them.

Images are NHWC; the weights of CONV_2D are [O, kh, kw, I], of DEPTHWISE_CONV_2D [1, kh, kw, O], of
FULLY_CONNECTED [O, I]. Rows hold a window as [kh, kw, channels].
"""

from __future__ import annotations

import numpy as np

from lepton_edge.calibration.graph_tflite import Graph, Op
from lepton_edge.calibration.patches import choose
from lepton_edge.model import Array

KNOWN = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def matrix_shape(graph: Graph, op: Op) -> tuple[int, int, int]:
    """(groups, outputs of one, inputs of one)."""
    shape = graph.shape(op.inputs[1])
    if op.kind == "FULLY_CONNECTED":
        return 1, shape[0], shape[1]
    channels = graph.shape(op.inputs[0])[3]
    if op.kind == "DEPTHWISE_CONV_2D":
        return channels, shape[3] // channels, shape[1] * shape[2]
    groups = channels // shape[3]
    return groups, shape[0] // groups, shape[1] * shape[2] * shape[3]


def to_matrix(graph: Graph, op: Op, weight: Array) -> Array:
    """The weight as [groups, outputs, K]."""
    shape = matrix_shape(graph, op)
    if op.kind == "DEPTHWISE_CONV_2D":
        weight = weight[0].reshape(-1, weight.shape[3]).T
    return np.ascontiguousarray(weight).reshape(shape)


def from_matrix(graph: Graph, op: Op, matrix: Array) -> Array:
    """The inverse of `to_matrix`."""
    shape = graph.shape(op.inputs[1])
    if op.kind == "DEPTHWISE_CONV_2D":
        return np.ascontiguousarray(matrix.reshape(shape[3], -1).T).reshape(shape)
    return matrix.reshape(shape)


def rows(graph: Graph, op: Op, values: tuple[Array, ...], limit: int, seed: int) -> list[Array]:
    """[groups, rows, K] for each of `values`, at the same positions, at most `limit` of them."""
    groups, _, size = matrix_shape(graph, op)
    if op.kind == "FULLY_CONNECTED":
        flat = [value.reshape(-1, size) for value in values]
        chosen = choose(flat[0].shape[0], limit, seed)
        return [value[chosen][None] for value in flat]
    windows = [_windows(graph, op, value) for value in values]
    places = windows[0].shape[:3]
    index = np.unravel_index(choose(int(np.prod(places)), limit, seed), places)
    found = []
    for window in windows:
        picked = window[index]  # rows, channels, kh, kw
        n, channels = picked.shape[:2]
        split = picked.reshape(n, groups, channels // groups, *picked.shape[2:])
        found.append(np.ascontiguousarray(split.transpose(1, 0, 3, 4, 2)).reshape(groups, n, size))
    return found


def _windows(graph: Graph, op: Op, value: Array) -> Array:
    """A view [batch, rows, columns, channels, kh, kw] of the padded input."""
    options = graph.main.operators[op.index].builtinOptions
    kernel = graph.shape(op.inputs[1])[1:3]
    strides = (options.strideH, options.strideW)
    dilations = (max(options.dilationHFactor, 1), max(options.dilationWFactor, 1))
    span = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    if options.padding == graph.schema.Padding.SAME:
        around = [(0, 0)]
        for n, s, k in zip(value.shape[1:3], strides, span, strict=True):
            total = max(0, (-(-n // s) - 1) * s + k - n)
            around.append((total // 2, total - total // 2))
        value = np.pad(value, [*around, (0, 0)])
    view = np.lib.stride_tricks.sliding_window_view(value, tuple(span), axis=(1, 2))
    result: Array = view[:, :: strides[0], :: strides[1], :, :: dilations[0], :: dilations[1]]
    return result
