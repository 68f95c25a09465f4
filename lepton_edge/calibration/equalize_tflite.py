"""Cross-layer equalisation of a .tflite file: `equalize` on TFLite's operators and layouts.

Channels are last in every tensor that takes part. Fused ReLU is positively homogeneous, ReLU6 is
not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from lepton_edge.calibration import equalize
from lepton_edge.calibration.graph_tflite import Graph, Op
from lepton_edge.calibration.patches_tflite import KNOWN, matrix_shape, to_matrix
from lepton_edge.calibration.statistics import TensorStats
from lepton_edge.model import Array

_OUTPUT_AXIS = {"CONV_2D": 0, "FULLY_CONNECTED": 0, "DEPTHWISE_CONV_2D": 3}
_SAME = ("MAX_POOL_2D", "AVERAGE_POOL_2D", "RELU", "LEAKY_RELU", "PAD")


@dataclass
class Group:
    """Tensors whose channels must be scaled alike, and the layers that write and read them."""

    tensors: list[int] = field(default_factory=list)
    writers: list[Op] = field(default_factory=list)
    readers: list[Op] = field(default_factory=list)
    blocked: bool = False


def groups(graph: Graph) -> list[Group]:
    """The groups that can be scaled."""
    parent: dict[int, int] = {}

    def root(tensor: int) -> int:
        while parent.get(tensor, tensor) != tensor:
            tensor = parent[tensor]
        return tensor

    found: dict[int, Group] = {}
    layers: list[Op] = []
    blocked = {*graph.inputs, *graph.outputs}
    for op in graph.ops:
        live = [t for t in op.inputs if t >= 0 and not graph.is_constant(t)]
        if _layer(graph, op):
            layers.append(op)
            if not _homogeneous_activation(graph, op):
                blocked.update(op.outputs)
        elif _homogeneous(graph, op, live):
            for tensor in live:
                parent[root(tensor)] = root(op.outputs[0])
        else:
            blocked.update((*live, *op.outputs))
    tensors = {*graph.inputs, *(t for op in graph.ops for t in op.outputs)}
    for tensor in sorted(tensors):
        group = found.setdefault(root(tensor), Group())
        group.tensors.append(tensor)
        group.blocked |= tensor in blocked
    for op in layers:
        found[root(op.outputs[0])].writers.append(op)
        found[root(op.inputs[0])].readers.append(op)
    return [
        group
        for group in found.values()
        if group.writers and group.readers and not group.blocked and _agree(graph, group)
    ]


def measured(graph: Graph, group: Group) -> list[str]:
    """Names of the tensors whose channel ranges count: those that no activation follows."""
    return [
        graph.name(tensor)
        for tensor in group.tensors
        if [op.kind for op in graph.consumers.get(tensor, [])] != ["RELU"]
    ]


def apply(graph: Graph, group: Group, stats: Mapping[str, TensorStats]) -> Array | None:
    """Scales the group's channels in its layers' weights; the factors, None where none gains."""
    factor = _factor(graph, group, stats)
    if factor is not None:
        scale(graph, group, factor)
    return factor


def scale(graph: Graph, group: Group, factor: Array) -> None:
    """Multiplies what the writers write by `factor`, one a channel; the readers divide it out."""
    for op in group.writers:
        weight, bias = graph.constant(op.inputs[1]), op.inputs[2] if len(op.inputs) > 2 else -1
        shape = [1] * weight.ndim
        shape[_OUTPUT_AXIS[op.kind]] = -1
        graph.set_constant(op.inputs[1], weight * factor.reshape(shape))
        if bias >= 0:
            graph.set_constant(bias, graph.constant(bias) * factor)
    for op in group.readers:
        weight = graph.constant(op.inputs[1])
        count, outputs, _ = matrix_shape(graph, op)
        if op.kind == "DEPTHWISE_CONV_2D":
            divisor = np.repeat(factor, outputs)
        elif op.kind == "CONV_2D":
            divisor = np.repeat(factor.reshape(count, -1), outputs, axis=0)[:, None, None, :]
        else:
            divisor = factor
        graph.set_constant(op.inputs[1], weight / divisor)


def _factor(graph: Graph, group: Group, stats: Mapping[str, TensorStats]) -> Array | None:
    """The square root of what would make all channels alike over what it would do to the readers.

    Noise of the activations' grid falls where a channel of small range is scaled up; the noise of
    the readers' weights counts as much more there. Both shares are of the largest channel.
    """
    up = equalize.scales(equalize.Group(measured(graph, group)), stats)
    if up is None:
        return None
    shares = []
    for op in group.readers:
        weight = np.abs(to_matrix(graph, op, graph.constant(op.inputs[1])))
        last = 1 if op.kind == "DEPTHWISE_CONV_2D" else graph.shape(op.inputs[1])[-1]
        most = weight.reshape(*weight.shape[:2], -1, last).max(axis=(1, 2)).reshape(-1)
        shares.append(most / max(float(most.max()), 1e-30))
    share = np.clip(np.sqrt((np.stack(shares).astype(np.float64) ** 2).mean(axis=0)), 1e-4, None)
    factor = np.sqrt(up * share)
    even: Array = factor / factor.min()
    return even


def _layer(graph: Graph, op: Op) -> bool:
    if op.kind not in KNOWN or not graph.is_constant(op.inputs[1]) or graph.shared(op.inputs[1]):
        return False
    bias = op.inputs[2] if len(op.inputs) > 2 else -1
    return bias < 0 or (graph.is_constant(bias) and not graph.shared(bias))


def _homogeneous_activation(graph: Graph, op: Op) -> bool:
    options = graph.main.operators[op.index].builtinOptions
    kinds = graph.schema.ActivationFunctionType
    return getattr(options, "fusedActivationFunction", kinds.NONE) in (kinds.NONE, kinds.RELU)


def _homogeneous(graph: Graph, op: Op, live: list[int]) -> bool:
    if len(op.outputs) != 1 or not live or not _homogeneous_activation(graph, op):
        return False
    shapes = {graph.shape(tensor) for tensor in (*live, *op.outputs)}
    if op.kind in _SAME:
        padded = op.kind == "PAD" and any(graph.constant(op.inputs[1])[-1])
        return len(live) == 1 and not padded
    if op.kind == "ADD":
        return len(live) == 2 and len(shapes) == 1
    before, after = graph.shape(live[0]), graph.shape(op.outputs[0])
    if op.kind == "MEAN":
        axes = graph.constant(op.inputs[1]) if graph.is_constant(op.inputs[1]) else None
        return axes is not None and len(before) == 4 and sorted(axes.reshape(-1)) == [1, 2]
    if op.kind == "RESHAPE":
        return len(before) == 4 and before[1:3] == (1, 1) and after == (before[0], before[3])
    return False


def _agree(graph: Graph, group: Group) -> bool:
    """Whether all layers count the same channels."""
    counts = set()
    for op in group.writers:
        counts.add(graph.shape(op.inputs[1])[_OUTPUT_AXIS[op.kind]])
    for op in group.readers:
        count = matrix_shape(graph, op)[0]
        shape = graph.shape(op.inputs[1])
        counts.add(count * (1 if op.kind == "DEPTHWISE_CONV_2D" else shape[-1]))
    return len(counts) == 1
