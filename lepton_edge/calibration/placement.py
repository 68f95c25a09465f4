"""Which tensors of a graph are quantised in a dialect, and for whom.

Anchors (convolutions, matrix products with constant weights) are integer; followers (sums,
products, pools, joins) where all that they read is integer and someone integer reads them. The
residual stream and the normalisation of a Transformer, softmax, and the gates of
squeeze-and-excite blocks stay float, and so does every output of the graph.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from lepton_edge.calibration.dialects import Dialect
from lepton_edge.calibration.graph import Graph, attribute

if TYPE_CHECKING:
    from onnx import NodeProto

NORMS = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
POOLS = ("GlobalAveragePool", "ReduceMean")


@dataclass
class Plan:
    """`tensors[t]` is True where every consumer of `t` reads the quantised value.

    Else only the pairs (node name, input index) in `edges` do. `weights[node]` is the channel axis
    of its weight; `group[t]` names the tensor whose grid `t` shares; `bounds[t]` are the limits of
    an activation fused into `t`'s producer; `floats[node]` says why it is not integer.
    """

    tensors: dict[str, bool] = field(default_factory=dict)
    edges: set[tuple[str, int]] = field(default_factory=set)
    weights: dict[str, int] = field(default_factory=dict)
    group: dict[str, str] = field(default_factory=dict)
    bounds: dict[str, tuple[float, float]] = field(default_factory=dict)
    floats: dict[str, str] = field(default_factory=dict)
    ints: list[str] = field(default_factory=list)

    def root(self, tensor: str) -> str:
        while self.group.get(tensor, tensor) != tensor:
            tensor = self.group[tensor]
        return tensor


def plan(
    graph: Graph, dialect: Dialect, *, keep_float: Collection[str] = (), gates: str = "float"
) -> Plan:
    """The plan for `graph`; the nodes named in `keep_float` stay float, and so does a gate."""
    return _Planner(graph, dialect, frozenset(keep_float), gates == "float").run()


def activation_bounds(graph: Graph, node: NodeProto) -> tuple[float, float] | None:
    """(low, high) of a Relu or a Clip with constant limits, else None."""
    if node.op_type == "Relu":
        return 0.0, float("inf")
    if node.op_type != "Clip":
        return None
    limits = [-float("inf"), float("inf")]
    for index, name in enumerate(node.input[1:3]):
        if name:
            if name not in graph.constants:
                return None
            limits[index] = float(graph.constants[name])
    return limits[0], limits[1]


def weight_axis(graph: Graph, node: NodeProto) -> int | None:
    """The output-channel axis of an anchor's constant weight; None where it is no anchor."""
    if len(node.input) < 2 or node.input[1] not in graph.constants or node.domain:
        return None
    weight = graph.constants[node.input[1]]
    if weight.dtype != np.float32 or weight.size == 0:
        return None
    if node.op_type == "Conv":
        return 0 if weight.ndim >= 3 else None
    if node.op_type == "ConvTranspose":
        return 1 if attribute(node, "group", 1) == 1 else None
    if node.op_type == "MatMul":
        return 1 if weight.ndim == 2 else None
    if node.op_type == "Gemm":
        plain = attribute(node, "alpha", 1.0) == 1.0 and attribute(node, "beta", 1.0) == 1.0
        bias = graph.constants.get(node.input[2]) if len(node.input) > 2 else None
        vector = len(node.input) < 3 or (bias is not None and bias.ndim == 1)
        if plain and vector and not attribute(node, "transA", 0):
            return 0 if attribute(node, "transB", 0) else 1
    return None


class _Planner:
    def __init__(
        self, graph: Graph, dialect: Dialect, keep: frozenset[str], float_gates: bool
    ) -> None:
        self.graph, self.dialect, self.keep = graph, dialect, keep
        self.plan = Plan()
        self.gate_outputs: set[str] = set()
        self.gate_nodes = self._gates() if float_gates else set()
        self.ints: dict[str, NodeProto] = {}

    def run(self) -> Plan:
        for node in self.graph.nodes:
            reason = self._refused(node)
            if reason is None:
                self.ints[node.name] = node
            elif reason:
                self.plan.floats[node.name] = reason
        self._prune()
        self.plan.ints = list(self.ints)
        for node in self.ints.values():
            self._quantize_inputs(node)
        if self.dialect.placement == "outputs":
            for node in self.ints.values():
                self._quantize_output(node)
        self._share_grids()
        return self.plan

    def _refused(self, node: NodeProto) -> str | None:
        """Why `node` stays float; "" where that needs no words, None where it is integer."""
        if node.name in self.keep:
            return "kept in float as asked"
        if node.op_type in self.dialect.anchors:
            axis = weight_axis(self.graph, node)
            if axis is None:
                return "its weight is no constant matrix or kernel"
            if node.name in self.gate_nodes:
                return "gate of a squeeze-and-excite block"
            if not self.graph.is_float(node.input[0]):
                return "its input is not float32"
            self.plan.weights[node.name] = axis
            return None
        if node.op_type not in self.dialect.followers:
            return ""
        if node.name in self.gate_nodes:
            return "gate of a squeeze-and-excite block"
        inputs = [name for name in node.input if name and name not in self.graph.constants]
        if not all(map(self.graph.is_float, inputs)):
            return ""
        if any(user.op_type in NORMS for user in self.graph.consumers.get(node.output[0], [])):
            return "residual stream before a normalisation"
        if not all(self._integer_source(name) or name in self.gate_outputs for name in inputs):
            return "reads float"
        return None if inputs else ""

    def _integer_source(self, tensor: str) -> bool:
        node = self.graph.producer.get(tensor)
        if node is None:
            return False
        if node.name in self.ints:
            return node.op_type != "MatMul"
        if node.op_type in self.dialect.same_scale or activation_bounds(self.graph, node):
            return self._integer_source(node.input[0])
        return False

    def _prune(self) -> None:
        """A follower that no integer node reads would only add conversions."""
        for node in reversed(self.graph.nodes):
            if node.name in self.plan.weights or node.name not in self.ints:
                continue
            if not self._integer_reader(node.output[0]):
                del self.ints[node.name]
                self.plan.floats[node.name] = "nothing integer reads it"

    def _integer_reader(self, tensor: str) -> bool:
        for node in self.graph.consumers.get(tensor, []):
            if node.name in self.ints:
                return True
            passes = node.op_type in self.dialect.same_scale
            if (passes or activation_bounds(self.graph, node)) and self._integer_reader(
                node.output[0]
            ):
                return True
        return False

    def _quantize_inputs(self, node: NodeProto) -> None:
        activations = [
            (index, name)
            for index, name in enumerate(node.input)
            if name and (name not in self.graph.constants or node.name not in self.plan.weights)
        ]
        if node.name in self.plan.weights:
            activations = activations[:1]
        for index, name in activations:
            self.plan.edges.add((node.name, index))
            self._mark(name)
        if node.name in self.plan.weights and self.dialect.residual == "skip":
            self._skip_branch(node)

    def _mark(self, tensor: str) -> None:
        """Quantises `tensor`, and what it passes through on its way from an integer node."""
        self.plan.tensors.setdefault(tensor, False)
        node = self.graph.producer.get(tensor)
        if node is None or self.dialect.placement != "outputs":
            return
        if node.op_type in self.dialect.same_scale and self._integer_source(node.input[0]):
            self.plan.tensors[tensor] = True
            self.plan.group[tensor] = node.input[0]
            self.plan.edges.add((node.name, 0))
            self._mark(node.input[0])

    def _quantize_output(self, node: NodeProto) -> None:
        out, bounds = self._fused(node)
        if bounds is not None:
            self.plan.bounds[out] = bounds
        if out in self.graph.outputs or node.output[0] in self.graph.outputs:
            return
        if node.op_type == "MatMul" or (node.op_type == "Gemm" and not self._integer_reader(out)):
            return
        self.plan.tensors[out] = True

    def _fused(self, node: NodeProto) -> tuple[str, tuple[float, float] | None]:
        out = node.output[0]
        users = self.graph.consumers.get(out, [])
        if len(users) == 1 and out not in self.graph.outputs and users[0].input[0] == out:
            bounds = activation_bounds(self.graph, users[0])
            if bounds is not None:
                return users[0].output[0], bounds
        return out, None

    def _skip_branch(self, node: NodeProto) -> None:
        """TensorRT fuses conv + sum where the sum's other input comes from Q/DQ."""
        users = self.graph.consumers.get(node.output[0], [])
        if len(users) != 1 or users[0].op_type != "Add" or len(set(users[0].input)) != 2:
            return
        add = users[0]
        if any(user.op_type in NORMS for user in self.graph.consumers.get(add.output[0], [])):
            return
        if any((add.name, index) in self.plan.edges for index in (0, 1)):
            return
        other = 1 - list(add.input).index(node.output[0])
        if self.graph.is_float(add.input[other]) and self.graph.rank(add.input[other]) == 4:
            self.plan.edges.add((add.name, other))
            self._mark(add.input[other])

    def _share_grids(self) -> None:
        """Joins in a dialect where they must not requantise: one grid for inputs and output."""
        if "Concat" not in self.dialect.same_scale:
            return
        for node in self.ints.values():
            out, _ = self._fused(node)
            if node.op_type == "Concat":
                for name in (*node.input, out):
                    if name in self.plan.tensors and self.plan.root(name) != node.input[0]:
                        self.plan.group[self.plan.root(name)] = self.plan.root(node.input[0])

    def _gates(self) -> set[str]:
        """Nodes between a global pool and the product that it scales."""
        found: set[str] = set()
        for node in self.graph.nodes:
            if node.op_type != "Mul" or len(node.input) != 2:
                continue
            for name in node.input:
                chain = self._gate_chain(name)
                if chain:
                    found.update(chain)
                    self.gate_outputs.add(name)
        return found

    def _gate_chain(self, tensor: str) -> list[str]:
        chain: list[str] = []
        while (node := self.graph.producer.get(tensor)) is not None and len(chain) < 16:
            if len(self.graph.consumers.get(tensor, [])) > 1:
                return []
            chain.append(node.name)
            if node.op_type in POOLS:
                anchors = {"Conv", "Gemm", "MatMul"}
                ops = {self.graph.producer[n.output[0]].op_type for n in self._named(chain)}
                return chain if ops & anchors else []
            live = [name for name in node.input if name and name not in self.graph.constants]
            if len(live) != 1:
                return []
            tensor = live[0]
        return []

    def _named(self, names: list[str]) -> list[NodeProto]:
        return [node for node in self.graph.nodes if node.name in set(names)]
