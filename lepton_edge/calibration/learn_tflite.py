"""Learned rounding and bias correction in an int8 .tflite file, layer after layer.

As `learn_onnx`: the float network and the int8 one step through the calibration data side by side,
and each layer's codes, scales and bias are fitted to the inputs that it really gets. The int8
network is the file itself with its own integer kernels, so that what their requantisation does is
taken into account too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lepton_edge import errors
from lepton_edge.calibration import layer, patches_tflite
from lepton_edge.calibration.graph_tflite import Graph, Op
from lepton_edge.calibration.grid import QParams
from lepton_edge.calibration.layer import LayerRecord
from lepton_edge.calibration.observe_onnx import Data, cut
from lepton_edge.calibration.rounding import Moments
from lepton_edge.calibration.stepper_tflite import Stepper
from lepton_edge.calibration.tuning import Tuning
from lepton_edge.calibration.write_onnx import weight_floor
from lepton_edge.model import Array

_BOUNDS = (-127, 127)


def learnable(graph: Graph, quantized: Graph, pairs: dict[int, int]) -> list[tuple[Op, Op]]:
    """Layers in float and in int8 whose weights are their own, in the order of the file."""
    found = []
    for op in graph.ops:
        if op.kind not in patches_tflite.KNOWN or op.index not in pairs:
            continue
        other = quantized.ops[pairs[op.index]]
        weight = op.inputs[1]
        if not graph.is_constant(weight) or graph.shared(weight):
            continue
        if quantized.grid(other.inputs[1]) is None or quantized.grid(other.inputs[0]) is None:
            continue  # stays float
        if quantized.is_constant(other.inputs[1]) and not quantized.shared(other.inputs[1]):
            found.append((op, other))
    return found


def learn(
    graph: Graph,
    quantized: Graph,
    pairs: dict[int, int],
    data: Data,
    options: Tuning,
    *,
    samples: int,
) -> list[LayerRecord]:
    """Changes weights, scales and biases of `quantized`; a record of each layer.

    The first `samples` of `data` are used. Raises `CannotConvert` where a bias does not fit into
    32 bits.
    """
    layers = learnable(graph, quantized, pairs)
    pair, records = (graph, quantized), []
    with tempfile.TemporaryDirectory() as folder:
        floats = Stepper(
            graph, [op.inputs[0] for op, _ in layers], Path(folder, "f"), threads=options.threads
        )
        ints = Stepper(
            quantized,
            [other.inputs[0] for _, other in layers],
            Path(folder, "q"),
            threads=options.threads,
        )
        floats.start(cut(data.feeds(), samples))
        ints.start(given(batch, graph, quantized) for batch in cut(data.feeds(), samples))
        for op, other in layers:
            sets = _moments(pair, (op, other), (floats, ints), samples)
            records.append(_fit(pair, (op, other), sets, options))
    return records


def given(batch: Mapping[str, Array], graph: Graph, quantized: Graph) -> dict[str, Array]:
    """The inputs of the int8 file, which may be integers where the float one's are floats."""
    found = {}
    for before, after in zip(graph.inputs, quantized.inputs, strict=True):
        value, params = batch[graph.name(before)], quantized.grid(after)
        found[quantized.name(after)] = value if params is None else params.quantize(value)
    return found


def _moments(
    pair: tuple[Graph, Graph], ops: tuple[Op, Op], steppers: tuple[Stepper, Stepper], samples: int
) -> tuple[Moments, Moments]:
    """Moments of the layer's inputs over three quarters of the batches, and over the others."""
    graph, op = pair[0], ops[0]
    source = pair[1].grid(ops[1].inputs[0])
    assert source is not None
    groups, _, size = patches_tflite.matrix_shape(graph, op)
    fitted, held = (Moments.empty(groups, size) for _ in range(2))
    limit = layer.rows_each(size, samples)
    both = zip(*(s.advance(o.inputs[0]) for s, o in zip(steppers, ops, strict=True)), strict=True)
    for index, (x, codes) in enumerate(both):
        z = source.dequantize(codes)
        chosen = patches_tflite.rows(graph, op, (x, z), limit * x.shape[0], index)
        (held if index % 4 == 3 else fitted).add(*chosen)
    return fitted, held


def _fit(
    pair: tuple[Graph, Graph], ops: tuple[Op, Op], sets: tuple[Moments, Moments], options: Tuning
) -> LayerRecord:
    (graph, quantized), (op, other) = pair, ops
    source, params = (quantized.grid(other.inputs[place]) for place in (0, 1))
    assert source is not None
    assert params is not None
    matrix = patches_tflite.to_matrix(graph, op, graph.constant(op.inputs[1])).astype(np.float64)
    bias = _bias(graph, op)
    scale = _scale(matrix, params, bias, float(source.scale))
    found = layer.fit(
        op.scope,
        matrix,
        scale,
        _BOUNDS,
        sets,
        corrected=options.correct_bias and bias is not None,
        rounded=options.rounding == "learned",
        compensated=options.compensate,
        refit=params.axis is not None,
    )
    codes = patches_tflite.from_matrix(graph, op, found.codes)
    stored = found.scale.reshape(-1).astype(np.float32)
    stored = stored if params.axis is not None else stored[:1]
    quantized.set_constant(other.inputs[1], codes)
    quantized.set_scale(other.inputs[1], stored)
    if bias is not None:
        if found.shift is not None:
            bias = bias + found.shift.reshape(-1)
        set_bias(quantized, other, bias, stored * np.float32(source.scale))
    return found.record


def _bias(graph: Graph, op: Op) -> Array | None:
    place = op.inputs[2] if len(op.inputs) > 2 else -1
    return graph.constant(place).astype(np.float64) if graph.is_constant(place) else None


def _scale(matrix: Array, params: QParams, bias: Array | None, source: float) -> Array:
    """[groups, outputs]: min-max, wider where an int32 bias would overflow."""
    shape = matrix.shape[:2]
    least = np.abs(matrix).max(axis=2) / _BOUNDS[1]
    if bias is not None:
        # Twice the bias: its correction is not known yet.
        least = np.maximum(least, weight_floor(2 * bias, source).reshape(shape))
    if params.axis is None:
        least = np.full(shape, least.max())
    written = np.broadcast_to(params.scale.astype(np.float64), (shape[0] * shape[1],))
    return np.where(least > 0, least, written.reshape(shape))


def set_bias(quantized: Graph, op: Op, bias: Array, scale: Array) -> None:
    """Gives a layer the bias in integers of the step `scale`, one or one a channel."""
    codes = np.rint(bias / scale)
    if np.abs(codes).max() >= 2**31:
        raise errors.CannotConvert(
            f"The bias of {op.kind} ({op.scope!r}) does not fit into 32 bits.",
            next="Name that operator in the option keep_float.",
        )
    quantized.set_constant(op.inputs[2], codes)
    quantized.set_scale(op.inputs[2], np.broadcast_to(scale, _scales(quantized, op.inputs[2])))


def _scales(quantized: Graph, tensor: int) -> int:
    return int(np.size(quantized.main.tensors[tensor].quantization.scale))
