"""An ONNX graph as a PyTorch module that trains: float, or rounded to a dialect's grids.

Where a `Plan` puts QuantizeLinear and DequantizeLinear, values are rounded to the same integers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lepton_edge import errors
from lepton_edge.calibration import grid
from lepton_edge.calibration.dialects import Dialect
from lepton_edge.calibration.graph import STANDARD, Graph
from lepton_edge.calibration.placement import Plan
from lepton_edge.calibration.write_onnx import Quantized, Weight
from lepton_edge.compress._onnx_ops import OPERATORS
from lepton_edge.compress._steps import (
    StepModule,
    bias_codes,
    float32,
    on_grid,
    rounded,
    shaped,
    spread,
    widened,
)

SHRINK = np.linspace(0.3, 1.0, 36)  # of a channel's largest weight, tried for the least error


class OnnxModule(StepModule):
    """Runs `graph`; its convolutions' and matrix products' weights and biases are parameters.

    Without a plan it computes in float. With one, `activations` are the grids of its tensors, and
    `learned` makes their steps and those of the weights parameters too.
    """

    def __init__(
        self,
        graph: Graph,
        anchors: dict[str, int],
        *,
        plan: Plan | None = None,
        dialect: Dialect | None = None,
        activations: dict[str, grid.QParams] | None = None,
        learned: bool = False,
    ) -> None:
        super().__init__(learned)
        unknown = {
            node.op_type
            for node in graph.nodes
            if node.op_type not in OPERATORS or node.domain not in STANDARD[:2]
        }
        if unknown:
            raise errors.CannotConvert(
                f"Training with quantisation in the loop has no {', '.join(sorted(unknown))}.",
                next="Quantise after training, with convert --precision int8.",
            )
        self.graph, self.anchors, self.plan, self.dialect = graph, anchors, plan, dialect
        self.grids = activations or {}
        self.codes: dict[str, Tensor] | None = None  # filled by a forward where it is a dict
        for node in graph.nodes:
            if node.name in anchors:
                for index in (1, 2):
                    name = node.input[index] if index < len(node.input) else ""
                    if name in graph.constants:
                        self._train(name, graph.constants[name])
        self.ratios: dict[str, Tensor] = {}
        self._names = [name for name in graph.constants if name not in self.place]
        for index, name in enumerate(self._names):
            value = torch.from_numpy(np.array(graph.constants[name]))
            self.register_buffer(f"constant{index}", value, persistent=False)
        if plan is not None:
            self._begin_steps()

    def _begin_steps(self) -> None:
        assert self.dialect is not None
        for node in self.graph.nodes:
            if node.name not in self.anchors:
                continue
            key, axis = self.place[node.input[1]], self.anchors[node.name]
            weight = self.trained[key].detach()
            self.ratios[key] = ratio = _least_error(weight, axis, self.dialect)
            step = self._spread(weight, axis, ratio)
            self._in_units(key, shaped(step, weight.ndim, axis))
            bias = self.place.get(node.input[2]) if len(node.input) > 2 else None
            if bias is not None:
                self._in_units(bias, 100 * step * float(self.grids[self._source(node)].scale))
            self._learn(key, step)
        for index, params in enumerate(self.grids.values()):
            self._learn(f"a{index}", torch.tensor(float(params.scale)))

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        """The graph's outputs by name, for its inputs in order."""
        values: dict[str, Any] = {
            name: getattr(self, f"constant{index}") for index, name in enumerate(self._names)
        }
        values.update({name: self.value(name) for name in self.place})
        for name, value in zip(self.graph.inputs, inputs, strict=True):
            values[name] = value
            self._quantize(name, values)
        for node in self.graph.nodes:
            given = [values[self._read(node, i)] if name else None
                     for i, name in enumerate(node.input)]  # fmt: skip
            if self.plan is not None and node.name in self.anchors:
                self._weights(node, given, values)
            attributes = _attributes(node)
            if node.op_type == "Split":
                attributes.setdefault("num_outputs", len(node.output))
            try:
                result = OPERATORS[node.op_type](attributes, given)
            except NotImplementedError as error:
                raise errors.CannotConvert(
                    f"Training with quantisation in the loop has no {error}.",
                    next="Quantise after training, with convert --precision int8.",
                ) from None
            results = result if isinstance(result, tuple) else (result,)
            for name, value in zip(node.output, results, strict=False):
                values[name] = value
                self._quantize(name, values)
        return {name: values[name] for name in self.graph.outputs}

    def _read(self, node: Any, index: int) -> str:
        """The tensor that an input reads: rounded where the plan says so."""
        name: str = node.input[index]
        if self.plan is None:
            return name
        if self.plan.tensors.get(name) or (node.name, index) in self.plan.edges:
            return f"{name}_dq"
        return name

    def _quantize(self, name: str, values: dict[str, Any]) -> None:
        if self.plan is None or name not in self.plan.tensors:
            return
        root = self.plan.root(name)
        params = self.grids[root]
        zero, low, high = float(params.zero_point), params.grid.qmin, params.grid.qmax
        steps = values[name] / self.scale(root)
        codes = rounded(torch.clamp(steps, low - zero, high - zero))
        if self.codes is not None:
            self.codes[name] = (codes.detach() + zero).to(torch.int32)
        values[f"{name}_dq"] = codes * self.scale(root)

    def scale(self, root: str) -> Tensor:
        """The step of an activation's grid."""
        return self._step(f"a{list(self.grids).index(root)}")

    def weight_scale(self, node: Any) -> Tensor:
        """The step of each channel of an anchor's weight; wide enough for its int32 bias."""
        assert self.dialect is not None
        key, axis = self.place[node.input[1]], self.anchors[node.name]
        if self.learned:
            step = self._step(key)
        else:
            weight = self.value(node.input[1]).detach()
            step = self._spread(weight, axis, self.ratios[key].to(weight.device))
        if self.dialect.bias == "int32" and len(node.input) > 2 and node.input[2] in self.place:
            step = widened(step, self.value(node.input[2]), self.scale(self._source(node)))
        return step

    def _source(self, node: Any) -> str:
        assert self.plan is not None
        return self.plan.root(node.input[0])

    def _spread(self, weight: Tensor, axis: int, ratio: Tensor) -> Tensor:
        assert self.dialect is not None
        each = axis if self.dialect.per_channel else None
        return spread(weight, each, self.dialect.weight.qmax, ratio)

    def _weights(self, node: Any, given: list[Any], values: dict[str, Any]) -> None:
        """Rounds the weight of an anchor, and its bias where the dialect stores integers."""
        assert self.dialect is not None
        step, axis = self.weight_scale(node), self.anchors[node.name]
        each = shaped(step, given[1].ndim, axis)
        bounds = self.dialect.weight.qmin, self.dialect.weight.qmax
        given[1] = on_grid(given[1], each, bounds) * each
        if self.dialect.bias == "int32" and len(given) > 2 and given[2] is not None:
            bias_step = step * self.scale(self._source(node))
            given[2] = bias_codes(given[2], bias_step).to(bias_step.dtype) * bias_step

    def quantized(self) -> Quantized:
        """The grids and codes that the last forward rounded to, for the writer."""
        assert self.dialect is not None
        assert self.plan is not None
        with torch.no_grad():
            found = Quantized(
                {
                    name: grid.QParams(
                        float32(self.scale(name)), params.zero_point, params.grid, params.axis
                    )
                    for name, params in self.grids.items()
                }
            )
            for node in self.graph.nodes:
                if node.name not in self.anchors:
                    continue
                weight = self.value(node.input[1]).detach().numpy()
                scale = float32(self.weight_scale(node))
                axis = self.anchors[node.name] if scale.ndim else None
                zero = np.zeros(scale.shape, self.dialect.weight.storage)
                params = grid.QParams(scale, zero, self.dialect.weight, axis)
                bias = None
                if len(node.input) > 2 and node.input[2] in self.place:
                    bias = self.value(node.input[2]).detach().numpy().copy()
                found.weights[node.name] = Weight(params.quantize(weight), params, bias)
        return found


def _attributes(node: Any) -> dict[str, Any]:
    from onnx import helper

    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


def _least_error(weight: Tensor, axis: int, dialect: Dialect) -> Tensor:
    """The share of each channel's largest weight at which rounding errs least; 1 for 8 bits."""
    others = [each for each in range(weight.ndim) if each != axis]
    most = weight.abs().amax(others, keepdim=True).clamp_min(1e-30)
    best = torch.ones_like(most)
    if dialect.weight.bits < 8 and dialect.per_channel:
        least = torch.full_like(most, float("inf"))
        for ratio in SHRINK.tolist():
            step = ratio * most / dialect.weight.qmax
            back = torch.clamp(weight / step, dialect.weight.qmin, dialect.weight.qmax).round()
            error = (back * step - weight).pow(2).sum(others, keepdim=True)
            best = torch.where(error < least, torch.full_like(best, ratio), best)
            least = torch.minimum(least, error)
    flat = best.reshape(-1)
    return flat if dialect.per_channel else flat.max()
