"""Writes a plan as Q/DQ nodes into an ONNX graph, in the dialect's own grids."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from lepton_edge.calibration.dialects import Dialect
from lepton_edge.calibration.graph import Graph, attribute
from lepton_edge.calibration.grid import QParams
from lepton_edge.calibration.placement import Plan
from lepton_edge.model import Array

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

GREEDY = ("Conv", "ConvTranspose", "Gemm")  # onnxruntime quantises their float weights itself
BIAS_LIMIT = 2.0**30  # half of int32: the other half is left to the sum of products


@dataclass
class Weight:
    """Codes of an anchor's weight with their grid, and its float bias (None for no bias)."""

    codes: Array
    params: QParams
    bias: Array | None = None


@dataclass
class Quantized:
    """What the writer needs beside the plan: a grid for each tensor, codes for each anchor."""

    activations: dict[str, QParams] = field(default_factory=dict)
    weights: dict[str, Weight] = field(default_factory=dict)


def write(graph: Graph, plan: Plan, quantized: Quantized, dialect: Dialect) -> ModelProto:
    """The quantised model; the same arguments give the same bytes."""
    return _Writer(graph, plan, quantized, dialect).run()


def simulated(
    graph: Graph, plan: Plan, quantized: Quantized, dialect: Dialect
) -> tuple[ModelProto, dict[str, Array]]:
    """The model with float weights where `quantized` has none yet, and its constants.

    It must run without graph optimisation: onnxruntime's rounds float weights between Q/DQ itself.
    """
    writer = _Writer(graph, plan, quantized, dialect)
    return writer.run(), writer.constants


def weight_floor(bias: Array, input_scale: float) -> Array:
    """The smallest weight scale of each channel at which its int32 bias cannot overflow."""
    floor: Array = np.abs(bias.astype(np.float64)) / (input_scale * BIAS_LIMIT)
    return floor


class _Writer:
    def __init__(self, graph: Graph, plan: Plan, quantized: Quantized, dialect: Dialect) -> None:
        self.graph, self.plan, self.quantized, self.dialect = graph, plan, quantized, dialect
        self.constants = dict(graph.constants)
        self.nodes: list[NodeProto] = []
        self.folded = self._foldable()

    def run(self) -> ModelProto:
        for name in self.graph.inputs:
            self._convert(name)
        for original in self.graph.nodes:
            if original.name in self.folded.values():
                continue
            node = type(original)()
            node.CopyFrom(original)
            if original.name in self.folded:
                activation = self._node(self.folded[original.name])
                node.output[0] = activation.output[0]
            self._read(node)
            self.nodes.append(node)
            for name in node.output:
                self._convert(name)
        result = Graph(self.graph.model)
        result.nodes, result.constants = self.nodes, self.constants
        model = result.build()
        del model.graph.value_info[:]
        return model

    def _node(self, name: str) -> NodeProto:
        return next(node for node in self.graph.nodes if node.name == name)

    def _foldable(self) -> dict[str, str]:
        """Anchor or follower -> its activation, where the grid saturates at the same values."""
        found: dict[str, str] = {}
        if not self.dialect.fold_activation:
            return found
        for tensor, (low, high) in self.plan.bounds.items():
            params = self.quantized.activations.get(self.plan.root(tensor))
            if params is None or not self.plan.tensors.get(tensor):
                continue
            slack = float(params.scale) * 1e-3
            if params.low >= low - slack and params.high <= high + slack:
                activation = self.graph.producer[tensor]
                producer = self.graph.producer[activation.input[0]]
                found[producer.name] = activation.name
        return found

    def _read(self, node: NodeProto) -> None:
        """Points the node's inputs to the quantised tensors."""
        weight = self.quantized.weights.get(node.name)
        for index, name in enumerate(node.input):
            if not (self.plan.tensors.get(name) or (node.name, index) in self.plan.edges):
                continue
            if name in self.graph.constants:
                self._constant(name)
            node.input[index] = f"{name}_dq"
        if weight is None:
            if (
                node.op_type in ("Conv", "ConvTranspose", "Gemm")
                and node.name not in self.plan.ints
            ):
                self._keep_float(node)
            return
        source = node.input[0].removesuffix("_dq")
        node.input[1] = self._stored(f"{node.name}_weight", weight.codes, weight.params)
        if weight.bias is not None:
            name = f"{node.name}_bias"
            if self.dialect.bias == "int32":
                input_scale = self.quantized.activations[self.plan.root(source)].scale
                scale = (weight.params.scale * input_scale).astype(np.float32)
                codes = np.rint(weight.bias.astype(np.float64) / scale)
                codes = np.clip(codes, -(2**31) + 1, 2**31 - 1).astype(np.int32)
                name = self._dequantized(name, codes, scale, np.zeros(scale.shape, np.int32), 0)
            else:
                self.constants[name] = weight.bias.astype(np.float32)
            if len(node.input) > 2:
                node.input[2] = name
            else:
                node.input.append(name)

    def _keep_float(self, node: NodeProto) -> None:
        """Reads the input through a scale for each channel, all of them equal.

        onnxruntime (WeightBiasQuantization) quantises float weights, per tensor, of a layer between
        a DequantizeLinear with one scale and a QuantizeLinear.
        """
        from onnx import helper

        name = node.input[0].removesuffix("_dq")
        weight = self.graph.constants.get(node.input[1])
        if name == node.input[0] or weight is None:
            return
        params = self.quantized.activations[self.plan.root(name)]
        channels = weight.shape[0]
        if node.op_type == "Conv":
            channels = weight.shape[1] * attribute(node, "group", 1)
        elif node.op_type == "Gemm" and attribute(node, "transB", 0):
            channels = weight.shape[1]
        node.input[0] = f"{node.name}_in"
        scale, zero = f"{node.name}_in_scale", f"{node.name}_in_zero"
        self.constants[scale] = np.full(channels, params.scale)
        self.constants[zero] = np.full(channels, params.zero_point)
        self.nodes.append(
            helper.make_node(
                "DequantizeLinear",
                [f"{name}_q", scale, zero],
                [node.input[0]],
                node.input[0],
                axis=1,
            )
        )

    def _stored(self, name: str, codes: Array, params: QParams) -> str:
        return self._dequantized(name, codes, params.scale, params.zero_point, params.axis)

    def _dequantized(
        self, name: str, codes: Array, scale: Array, zero: Array, axis: int | None
    ) -> str:
        from onnx import helper

        for suffix, value in (("_q", codes), ("_scale", scale), ("_zero", zero)):
            self.constants[name + suffix] = value
        inputs = [name + "_q", name + "_scale", name + "_zero"]
        node = helper.make_node("DequantizeLinear", inputs, [f"{name}_dq"], f"{name}_dq")
        if axis is not None and scale.ndim:
            node.attribute.append(helper.make_attribute("axis", axis))
        self.nodes.append(node)
        return f"{name}_dq"

    def _constant(self, name: str) -> None:
        """A constant operand of a follower: stored in integers, once."""
        if f"{name}_q" not in self.constants:
            params = self.quantized.activations[name]
            self._stored(name, params.quantize(self.graph.constants[name]), params)

    def _convert(self, name: str) -> None:
        """Q and DQ behind the tensor's producer."""
        from onnx import helper

        if name not in self.plan.tensors or name in self.graph.constants:
            return
        root = self.plan.root(name)
        params = self.quantized.activations[root]
        scale, zero = f"{root}_scale", f"{root}_zero"
        self.constants[scale], self.constants[zero] = params.scale, params.zero_point
        self.nodes.append(
            helper.make_node("QuantizeLinear", [name, scale, zero], [f"{name}_q"], f"{name}_q")
        )
        self.nodes.append(
            helper.make_node(
                "DequantizeLinear", [f"{name}_q", scale, zero], [f"{name}_dq"], f"{name}_dq"
            )
        )
