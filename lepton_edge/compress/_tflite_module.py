"""A .tflite graph as a PyTorch module that trains: float, or rounded to the grids of an int8 file.

The int8 file, as the quantiser writes it with nearest weights, is the plan: each tensor's grid,
which tensors share one, what stays float. Its weights and biases are trained from the float file's
and put back as integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lepton_edge import errors
from lepton_edge.artifact import Binding, replacing
from lepton_edge.calibration.dialects import Dialect
from lepton_edge.calibration.graph_tflite import Graph, Op
from lepton_edge.calibration.grid import QParams
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
from lepton_edge.compress._tflite_ops import DTYPES, OPERATORS, Call, activated
from lepton_edge.model import Array


@dataclass(frozen=True)
class Layer:
    """The tensors of an operator with weights; a bias of -1 is none."""

    source: int
    weight: int
    bias: int

    @staticmethod
    def of(op: Op) -> Layer:
        places = (2, 1, 3) if op.kind == "TRANSPOSE_CONV" else (0, 1, 2)
        return Layer(*((*op.inputs, -1)[min(place, len(op.inputs))] for place in places))


def trainable(
    graph: Graph, quantized: Graph, pairs: dict[int, int], dialect: Dialect
) -> list[tuple[Op, Op]]:
    """The operators with constant weights, in float and in int8, that are integers there."""
    found = []
    for op in graph.ops:
        if op.kind in dialect.anchors and op.index in pairs and graph.is_constant(op.inputs[1]):
            other = quantized.ops[pairs[op.index]]
            layer = Layer.of(other)
            if all(quantized.grid(tensor) for tensor in (layer.source, layer.weight)):
                found.append((op, other))
    return found


class TfliteModule(StepModule):
    """Runs `graph`, which is `floats` or the int8 file made of it.

    `inputs` and `outputs` bind the source's tensors to those of `floats`. With `layers`, pairs of
    an operator of `floats` and the same of `graph`, every int8 tensor is rounded to its grid, and
    these layers' weights and biases are parameters, one where several layers read it; `learned`
    makes steps parameters too, one for all tensors that an operator of `dialect.same_scale` or a
    bias ties, and none where it is fixed. Batches may have any size. Raises `CannotConvert` naming
    what cannot be trained.
    """

    def __init__(
        self,
        graph: Graph,
        floats: Graph,
        inputs: Sequence[Binding],
        outputs: Sequence[Binding],
        *,
        layers: Sequence[tuple[Op, Op]] = (),
        dialect: Dialect | None = None,
        learned: bool = False,
    ) -> None:
        super().__init__(learned)
        unknown = {op.kind for op in graph.ops} - set(OPERATORS)
        if unknown:
            raise _refused(", ".join(sorted(unknown)))
        self.graph, self.source, self.dialect = graph, floats, dialect
        self.layers = {other.index: Layer.of(other) for _, other in layers}
        self.readers: dict[int, list[Layer]] = {}  # of a weight, one for each bias; of a bias, one
        self.calls = {op.index: Call.of(graph, op) for op in graph.ops}
        tensors = {  # the int8 file has other names, in the same order
            floats.name(before): after
            for before, after in zip(
                (*floats.inputs, *floats.outputs), (*graph.inputs, *graph.outputs), strict=True
            )
        }
        self.inputs = [(tensors[each.tensor], each.permute) for each in inputs]
        self.outputs = [(tensors[each.tensor], each) for each in outputs]
        self.codes: dict[int, Tensor] | None = None  # filled by a forward where it is a dict
        self.given: dict[int, Array] = {}  # codes that take the place of those computed
        self.grids: dict[int, QParams] = {}
        self.roots: dict[int, int] = {}
        self.axes: dict[int, int | None] = {}
        self.whole: dict[int, Array] = {}  # integer constants
        for op, other in layers:
            before, after = Layer.of(op), self.layers[other.index]
            for value, index in ((before.weight, after.weight), (before.bias, after.bias)):
                if floats.is_constant(value):
                    self._train(index, floats.constant(value))
                    known = self.readers.setdefault(index, [])
                    if after.bias not in [each.bias for each in known]:
                        known.append(after)
        self._names: dict[int, str] = {}
        for index, consumers in sorted(graph.consumers.items()):
            if index not in self.place:
                if graph.is_constant(index):
                    self._hold(index)
                continue
            others = {op.kind for op in consumers if op.index not in self.layers}
            if others:
                raise _refused(f"weights that {', '.join(sorted(others))} reads too")
        if dialect is not None:
            self._begin_steps(dialect)
        self._try()

    def _hold(self, index: int) -> None:
        value, params = self.graph.constant(index), self.graph.grid(index)
        if params is not None:
            value = params.dequantize(value)
        elif self.graph.dtype(index) != "FLOAT32":
            self.whole[index] = value
            return
        self._names[index] = f"constant{index}"
        held = torch.from_numpy(np.array(value))
        self.register_buffer(self._names[index], held, persistent=False)

    def _begin_steps(self, dialect: Dialect) -> None:
        made = {*self.graph.inputs, *(t for op in self.graph.ops for t in op.outputs)}
        grids = {index: self.graph.grid(index) for index in sorted(made)}
        self.grids = {index: params for index, params in grids.items() if params is not None}
        fixed = self._tie(dialect)
        for index, params in self.grids.items():
            if self.root(index) == index:
                step = torch.tensor(float(params.scale))
                if index in fixed:
                    self.first[f"a{index}"] = step
                else:
                    self._learn(f"a{index}", step)
        for layer in self.layers.values():
            key, bias = self.place[layer.weight], self.place.get(layer.bias)
            if key not in self.units:
                held = self.graph.grid(layer.weight)
                assert held is not None
                self.axes[layer.weight] = held.axis
                step = spread(self.trained[key].detach(), held.axis, dialect.weight.qmax)
                self._in_units(key, shaped(step, self.trained[key].ndim, held.axis))
                self._learn(key, step)
            if bias is not None and bias not in self.units:
                unit = 100 * self.first[key] * self.scale(layer.source).detach()
                self._in_units(bias, unit)

    def _tie(self, dialect: Dialect) -> set[int]:
        """Finds the tensors with one grid; returns those, by their root, whose step stays."""
        stays: set[int] = set()
        for op in self.graph.ops:
            tensors = [t for t in (*op.inputs, *op.outputs) if t in self.grids]
            if op.kind in dialect.same_scale:
                for index in tensors[1:]:
                    self._bind(index, tensors[0])
                if any(self.graph.is_constant(t) and self.graph.grid(t) for t in op.inputs):
                    stays.update(tensors)
            elif op.kind in dialect.fixed:
                stays.update(t for t in op.outputs if t in self.grids)
        for layer in self.layers.values():
            if layer.bias in self.place:  # whose unit is that of the layer's input
                first = self.readers[layer.bias][0]
                one, other = self.grids[layer.source], self.grids[first.source]
                same = (one.scale, one.zero_point) == (other.scale, other.zero_point)
                if not same or layer.weight != first.weight:
                    raise _refused("bias that layers with other weights or inputs share")
                self._bind(layer.source, first.source)
        return {self.root(index) for index in stays}

    def _bind(self, index: int, other: int) -> None:
        self.roots[self.root(index)] = self.root(other)

    def root(self, index: int) -> int:
        """The tensor whose step is that of `index`."""
        while self.roots.get(index, index) != index:
            index = self.roots[index]
        return index

    def _try(self) -> None:
        """Runs two copies of zeros, so that what cannot be trained is refused before."""
        graph = self.graph
        batches = {graph.shape(index)[:1] for index in (*graph.inputs, *graph.outputs)}
        if len(batches) != 1 or () in batches:
            raise _refused("inputs and outputs of several batch sizes")
        ((self.batch,),) = batches
        values = {
            index: torch.zeros(2, *graph.shape(index), dtype=DTYPES.get(graph.dtype(index)))
            for index in graph.inputs
        }
        with torch.no_grad():
            found = self.run(values)
        for index in graph.outputs:
            if found[index].shape != (2, *graph.shape(index)):
                raise _refused(f"an output ({graph.name(index)!r}) that no input reaches")

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        """The source's outputs by name, for its inputs in order, in its layout."""
        values, rows = {}, len(inputs[0])
        for (index, permute), value in zip(self.inputs, inputs, strict=True):
            value = value if permute is None else value.permute(permute)
            filled = torch.cat([value, value[-1:].expand(-rows % self.batch, *value.shape[1:])])
            values[index] = filled.reshape(-1, self.batch, *value.shape[1:])
        found = self.run(values)
        outputs = {}
        for index, binding in self.outputs:
            value = found[index].flatten(0, 1)[:rows]
            if binding.permute is not None:
                value = value.permute(*np.argsort(binding.permute).tolist())
            outputs[binding.name] = value
        return outputs

    def run(self, inputs: dict[int, Tensor]) -> dict[int, Any]:
        """Every tensor of the file, in real values, for its inputs by number, copy by copy."""
        values: dict[int, Any] = {i: getattr(self, name)[None] for i, name in self._names.items()}
        values.update(self.whole)
        for index, value in inputs.items():
            values[index] = self._rounded(index, value)
        for op in self.graph.ops:
            layer = self.layers.get(op.index)
            if layer is not None and layer.weight not in values:
                values.update(self._weights(layer))
            given = [None if index < 0 else values[index] for index in op.inputs]
            call = self.calls[op.index]
            try:
                value = activated(call, OPERATORS[op.kind](call, given))
            except NotImplementedError as error:
                raise _refused(str(error)) from None
            made = value if isinstance(value, list) else [value]
            for index, each in zip(op.outputs, made, strict=True):
                values[index] = self._rounded(index, each)
        return values

    def _rounded(self, index: int, value: Tensor) -> Tensor:
        """The value on the tensor's grid."""
        params = self.grids.get(index)
        if params is None:
            return value
        zero, scale = float(params.zero_point), self.scale(index)
        steps = torch.clamp(value / scale, params.grid.qmin - zero, params.grid.qmax - zero)
        codes = rounded(steps)
        if self.codes is not None:
            self.codes[index] = (codes.detach() + zero).to(torch.int32)
        if index in self.given:
            codes = torch.from_numpy(self.given[index].astype(np.float32))[None] - zero
        return codes * scale

    def scale(self, index: int) -> Tensor:
        """The step of an activation's grid."""
        return self._step(f"a{self.root(index)}")

    def weight_scale(self, layer: Layer) -> Tensor:
        """The step of each channel of a layer's weight; wide enough for its int32 biases."""
        assert self.dialect is not None
        if self.learned:
            step = self._step(self.place[layer.weight])
        else:
            weight = self.value(layer.weight).detach()
            step = spread(weight, self.axes[layer.weight], self.dialect.weight.qmax)
        for each in self.readers[layer.weight]:
            if each.bias in self.place:
                step = widened(step, self.value(each.bias), self.scale(each.source))
        return step

    def integers(self, layer: Layer) -> tuple[Tensor, Tensor, Tensor | None]:
        """Codes of a layer's weight, its step (one, or one a channel), and codes of its bias."""
        assert self.dialect is not None
        weight, step = self.value(layer.weight), self.weight_scale(layer)
        bounds = self.dialect.weight.qmin, self.dialect.weight.qmax
        codes = on_grid(weight, shaped(step, weight.ndim, self.axes[layer.weight]), bounds)
        bias = None
        if layer.bias in self.place:
            bias = bias_codes(self.value(layer.bias), step * self.scale(layer.source))
        return codes, step, bias

    def _weights(self, layer: Layer) -> dict[int, Tensor]:
        """The constants of a layer, and of all that share its weight, on their grids."""
        values = {}
        for each in self.readers[layer.weight]:
            codes, step, bias = self.integers(each)
            values[each.weight] = (codes * shaped(step, codes.ndim, self.axes[each.weight]))[None]
            if bias is not None:
                unit = step * self.scale(each.source)
                values[each.bias] = (bias.to(unit.dtype) * unit)[None]
        return values

    def written(self) -> list[Layer]:
        """Layers that have all weights and biases between them, each once but for shared ones."""
        return [each for weight in self.axes for each in self.readers[weight]]

    def write(self, out: Path) -> None:
        """Puts what was trained into the int8 graph, and that into the file `out`."""
        with torch.no_grad():
            for index in self.grids:
                self.graph.set_scale(index, float32(self.scale(index)))
            for layer in self.written():
                codes, step, bias = self.integers(layer)
                self.graph.set_constant(layer.weight, codes.cpu().numpy())
                self.graph.set_scale(layer.weight, float32(step))
                if bias is not None:
                    self.graph.set_constant(layer.bias, bias.cpu().numpy())
                    self.graph.set_scale(layer.bias, float32(step * self.scale(layer.source)))
        with replacing(out) as temporary:
            temporary.write_bytes(self.graph.to_bytes())


def _refused(what: str) -> errors.CannotConvert:
    return errors.CannotConvert(
        f"Training with quantisation in the loop has no {what}.",
        next="Quantise after training, with convert --precision int8.",
    )
