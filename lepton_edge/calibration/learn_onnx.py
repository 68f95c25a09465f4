"""Learned rounding and bias correction over a graph, layer after layer, each on what came before.

Two networks step through the calibration data together: the float one, and the one quantised so
far. Each anchor's codes are chosen for the inputs that it really gets, towards the outputs that
the float network has there; its bias takes up what is left of the mean.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_edge.calibration import layer, patches, rounding, write_onnx
from lepton_edge.calibration.dialects import Dialect
from lepton_edge.calibration.graph import Graph
from lepton_edge.calibration.grid import QParams
from lepton_edge.calibration.layer import LayerRecord
from lepton_edge.calibration.observe_onnx import Data, cut
from lepton_edge.calibration.placement import Plan
from lepton_edge.calibration.stepper import Stepper
from lepton_edge.calibration.write_onnx import Quantized, Weight
from lepton_edge.model import Array

if TYPE_CHECKING:
    from onnx import NodeProto


@dataclass
class Learned:
    weights: dict[str, Weight] = field(default_factory=dict)
    layers: list[LayerRecord] = field(default_factory=list)

    def as_dicts(self) -> list[dict[str, Any]]:
        return [asdict(layer) for layer in self.layers]


def learn(
    graph: Graph,
    plan: Plan,
    activations: dict[str, QParams],
    dialect: Dialect,
    data: Data,
    grids: Callable[[NodeProto], QParams],
    *,
    samples: int,
    rounded: bool,
    compensated: bool,
    corrected: bool,
    threads: int = 1,
) -> Learned:
    """Codes and biases of every anchor in `plan`, from the first `samples` of `data`.

    `grids` gives a weight's grid. `rounded`: learned rounding, else nearest; `compensated`: towards
    the float network's outputs, else towards those of the float weights on quantised inputs;
    `corrected`: the bias takes up the mean difference.
    """
    result = Learned()
    with tempfile.TemporaryDirectory() as folder:
        model, constants = write_onnx.simulated(graph, plan, Quantized(activations), dialect)
        stops = [
            node.input[0]
            for node in graph.nodes
            if node.name in plan.weights and node.op_type in patches.KNOWN
        ]
        floats = Stepper(
            graph.build(), dict(graph.constants), stops, Path(folder, "float"), threads=threads
        )
        codes = [f"{name}_q" for name in stops]
        ints = Stepper(model, constants, codes, Path(folder, "quantized"), threads=threads)
        floats.start(cut(data.feeds(), samples))
        ints.start(cut(data.feeds(), samples))
        for node in graph.nodes:
            if node.name not in plan.weights:
                continue
            if node.op_type not in patches.KNOWN:
                weight = nearest(graph, node, grids(node))
                result.weights[node.name] = weight
                ints.constants[node.input[1]] = weight.params.dequantize(weight.codes)
                continue
            source = activations[plan.root(node.input[0])]
            shape = graph.constants[node.input[1]].shape
            centred = corrected and _bias(graph, node) is not None
            sets = _moments(node, shape, floats, ints, source, samples)
            weight, record = _layer(
                graph, node, plan.weights[node.name], grids(node), sets, centred, rounded,
                compensated,
            )  # fmt: skip
            result.weights[node.name] = weight
            result.layers.append(record)
            ints.constants[node.input[1]] = weight.params.dequantize(weight.codes)
            if weight.bias is not None:
                ints.constants[node.input[2]] = weight.bias
    return result


def nearest(graph: Graph, node: NodeProto, params: QParams) -> Weight:
    """Every weight rounded to its nearest code, the bias as it was."""
    return Weight(params.quantize(graph.constants[node.input[1]]), params, _bias(graph, node))


def _bias(graph: Graph, node: NodeProto) -> Array | None:
    return graph.constants[node.input[2]] if len(node.input) > 2 and node.input[2] else None


def _moments(
    node: NodeProto,
    shape: tuple[int, ...],
    floats: Stepper,
    ints: Stepper,
    source: QParams,
    samples: int,
) -> tuple[rounding.Moments, rounding.Moments]:
    """Moments of the node's inputs over three quarters of the batches, and over the others."""
    groups, size = patches.matrix_shape(node, shape)
    fitted, held = (rounding.Moments.empty(groups, size) for _ in range(2))
    rows_each = layer.rows_each(size, samples)
    tensor = node.input[0]
    pairs = zip(floats.advance(tensor), ints.advance(f"{tensor}_q"), strict=True)
    for index, (x, codes) in enumerate(pairs):
        z = source.dequantize(codes)
        chosen = patches.rows(node, (x, z), shape, rows_each * x.shape[0], index)
        (held if index % 4 == 3 else fitted).add(*chosen)
    return fitted, held


def _layer(
    graph: Graph,
    node: NodeProto,
    axis: int,
    params: QParams,
    sets: tuple[rounding.Moments, rounding.Moments],
    centred: bool,
    rounded: bool,
    compensated: bool,
) -> tuple[Weight, LayerRecord]:
    weight = graph.constants[node.input[1]]
    matrix = patches.to_matrix(node, weight, axis).astype(np.float64)
    scale = np.broadcast_to(params.scale, (weight.shape[axis],)).astype(np.float64)
    scale = scale.reshape(matrix.shape[:2])
    found = layer.fit(
        node.name,
        matrix,
        scale,
        (params.grid.qmin, params.grid.qmax),
        sets,
        corrected=centred,
        rounded=rounded,
        compensated=compensated,
        refit=params.scale.ndim > 0,
    )
    bias = _bias(graph, node)
    if bias is not None and found.shift is not None:
        most = np.finfo(np.float32).max
        bias = np.clip(bias + found.shift.reshape(-1), -most, most).astype(np.float32)
    stored = patches.from_matrix(node, found.codes, weight.shape, axis).astype(params.grid.storage)
    flat = found.scale.reshape(-1).astype(np.float32)
    params = QParams(
        flat if params.scale.ndim else params.scale, params.zero_point, params.grid, params.axis
    )
    return Weight(stored, params, bias), found.record
