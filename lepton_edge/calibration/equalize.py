"""Cross-layer equalisation: channels of one tensor get like ranges, by scaling the weights around.

With one grid for a whole tensor, a channel of small range has few steps. Scaling output channel c
of a layer by s and the inputs c of its readers by 1 / s leaves the network's function as it was
where all in between is positively homogeneous: Relu, LeakyRelu, sums, pools (M. Nagel et al.,
Data-Free Quantization, arXiv 1906.04721). Relu6 is not, and is left alone: scaling up channels that
stayed far from 6 on the calibration data made them saturate on other data (docs/quantisation.md).
A grid per output channel makes the scaling free for the layer that writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_edge.calibration.graph import Graph, attribute, read_by
from lepton_edge.calibration.placement import activation_bounds, weight_axis
from lepton_edge.calibration.statistics import TensorStats
from lepton_edge.model import Array

if TYPE_CHECKING:
    from onnx import NodeProto

BEYOND = 4.0  # times the range that a few samples promised: a channel is brought back from there
MOST = 1e4  # how far the largest and the smallest channel may be brought together
_POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool")


@dataclass
class Group:
    """Tensors whose channels must be scaled alike, and the layers at their ends."""

    tensors: list[str] = field(default_factory=list)
    writers: list[NodeProto] = field(default_factory=list)
    readers: list[NodeProto] = field(default_factory=list)
    blocked: bool = False


def groups(graph: Graph) -> list[Group]:
    """The groups that can be scaled; the weights of their layers must belong to one layer each."""
    return _Finder(graph).run()


def measured(found: list[Group], graph: Graph) -> list[str]:
    """The tensors whose channel ranges `scales` looks at: those that no activation follows."""
    names = []
    for group in found:
        for name in group.tensors:
            users = graph.consumers.get(name, [])
            if not (len(users) == 1 and activation_bounds(graph, users[0])):
                names.append(name)
    return names


def scales(group: Group, stats: Mapping[str, TensorStats]) -> Array | None:
    """The factor of each channel, float64 [C]; None where there is nothing to gain."""
    seen = [stats[name] for name in group.tensors if name in stats and stats[name].channel_n]
    if not seen or len({item.channel_max.size for item in seen}) != 1:
        return None
    most = np.stack([np.maximum(item.channel_max, -item.channel_min) for item in seen])
    most = most.astype(np.float64)
    top = most.max(axis=1, keepdims=True)
    if not (top > 0).all():
        return None
    share = np.sqrt(((most / top) ** 2).mean(axis=0))
    factor = np.where(share > 0, 1.0 / np.clip(share, 1.0 / MOST, None), 1.0)
    return factor if (factor != 1).any() else None


def record(tensor: str, factor: Array) -> dict[str, Any]:
    """What the artefact keeps of a group: its first tensor and the span of its factors."""
    return {"tensor": tensor, "least": float(factor.min()), "most": float(factor.max())}


def reined_in(
    group: Group, few: Mapping[str, TensorStats], factor: Array, stats: Mapping[str, TensorStats]
) -> Array | None:
    """What brings a channel back that all samples show far beyond where `few` of them had it.

    A channel that hardly ever fires looks small on a few samples; scaled up for that, one image
    that fires it would take the whole grid. None where no channel goes beyond BEYOND times the
    largest of the equalised; `stats` are of the equalised network.
    """
    ratios = []
    for name in group.tensors:
        if name in few and name in stats and stats[name].channel_max.size == factor.size:
            expected = np.maximum(few[name].channel_max, -few[name].channel_min) * factor
            most = np.maximum(stats[name].channel_max, -stats[name].channel_min)
            ratios.append(most.astype(np.float64) / expected.max())
    if not ratios:
        return None
    ratio = np.max(ratios, axis=0)
    return np.where(ratio > BEYOND, 1.0 / ratio, 1.0) if (ratio > BEYOND).any() else None


def apply(graph: Graph, group: Group, factor: Array) -> None:
    """Scales the group's channels by `factor` in the weights of its layers."""
    for node in group.writers:
        weight = graph.constants[node.input[1]]
        axis = weight_axis(graph, node) or 0
        shape = [1] * weight.ndim
        shape[axis] = -1
        graph.set_constant(node.input[1], (weight * factor.reshape(shape)).astype(np.float32))
        if len(node.input) > 2 and node.input[2]:
            bias = graph.constants[node.input[2]] * factor
            graph.set_constant(node.input[2], bias.astype(np.float32))
    for node in group.readers:
        weight = graph.constants[node.input[1]]
        if node.op_type == "Gemm":
            columns = attribute(node, "transB", 0)
            divided = weight / (factor if columns else factor[:, None])
        else:
            parts = attribute(node, "group", 1)
            per_group = factor.reshape(parts, 1, -1)
            split = weight.reshape(parts, weight.shape[0] // parts, weight.shape[1], -1)
            divided = (split / per_group[..., None]).reshape(weight.shape)
        graph.set_constant(node.input[1], divided.astype(np.float32))


class _Finder:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.parent: dict[str, str] = {}
        self.blocked: set[str] = {*graph.inputs, *graph.outputs}
        self.writers: dict[str, NodeProto] = {}
        self.readers: list[tuple[str, NodeProto]] = []

    def run(self) -> list[Group]:
        for node in self.graph.nodes:
            self._visit(node)
        found: dict[str, Group] = {}
        for name in [*self.graph.producer, *self.graph.inputs]:
            group = found.setdefault(self._root(name), Group())
            group.tensors.append(name)
            group.blocked |= name in self.blocked
            if name in self.writers:
                group.writers.append(self.writers[name])
        for name, node in self.readers:
            found[self._root(name)].readers.append(node)
        return [
            group
            for group in found.values()
            if not group.blocked and group.writers and group.readers and self._agree(group)
        ]

    def _agree(self, group: Group) -> bool:
        """Whether all layers count the same channels."""
        counts = set()
        for node in group.writers:
            counts.add(
                self.graph.constants[node.input[1]].shape[weight_axis(self.graph, node) or 0]
            )
        for node in group.readers:
            shape = self.graph.constants[node.input[1]].shape
            if node.op_type == "Gemm":
                counts.add(shape[1] if attribute(node, "transB", 0) else shape[0])
            else:
                counts.add(shape[1] * attribute(node, "group", 1))
        return len(counts) == 1

    def _visit(self, node: NodeProto) -> None:
        if node.op_type in ("Conv", "Gemm") and weight_axis(self.graph, node) is not None:
            bias = node.input[2] if len(node.input) > 2 else ""
            if not bias or bias in self.graph.constants:
                self.readers.append((node.input[0], node))
                self.writers[node.output[0]] = node
                return
        if self._homogeneous(node):
            live = [name for name in node.input if name and name not in self.graph.constants]
            for name in live:
                self._join(name, node.output[0])
            return
        self.blocked.update(read_by(node))
        self.blocked.update(node.output)

    def _homogeneous(self, node: NodeProto) -> bool:
        if node.op_type in ("LeakyRelu", *_POOLS):
            return len(node.output) == 1
        if activation_bounds(self.graph, node) == (0.0, float("inf")):
            return True
        if node.op_type == "Add":
            ranks = {self.graph.rank(name) for name in node.input}
            constant = any(name in self.graph.constants for name in node.input)
            return not constant and len(ranks) == 1 and None not in ranks
        if node.op_type in ("Reshape", "Flatten", "Squeeze"):
            before = self.graph.producer.get(node.input[0])
            pooled = before is not None and before.op_type == "GlobalAveragePool"
            return pooled and self.graph.rank(node.output[0]) == 2
        return False

    def _root(self, name: str) -> str:
        while self.parent.get(name, name) != name:
            name = self.parent[name]
        return name

    def _join(self, one: str, two: str) -> None:
        self.parent[self._root(one)] = self._root(two)
