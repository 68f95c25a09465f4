"""A .tflite graph as a PyTorch module that trains: float, or rounded to the grids of an int8 file.

The int8 file, as the quantiser writes it with nearest weights, is the plan: each tensor's grid,
which tensors share one, what stays float. Its weights and biases are trained from the float file's
and put back as integers.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lepton_edge import errors
from lepton_edge.artifact import Binding, replacing
from lepton_edge.calibration import learn_tflite
from lepton_edge.calibration.dialects import Dialect
from lepton_edge.calibration.graph_tflite import Graph, Op, interpreter
from lepton_edge.calibration.grid import QParams
from lepton_edge.calibration.observe_onnx import Data
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
from lepton_edge.compress._tflite_ops import OPERATORS, Call, activated
from lepton_edge.model import Array

CHECKED = 8  # batches of calibration data that go through the file that was written


class TfliteModule(StepModule):
    """Runs `graph`, which is `floats` or the int8 file made of it.

    `inputs` and `outputs` bind the source's tensors to those of `floats`. With `layers`, pairs of
    an operator of `floats` and the same of `graph`, every int8 tensor is rounded to its grid, and
    these layers' weights and biases are parameters; `learned` makes steps parameters too, one for
    all tensors that an operator of `dialect.same_scale` ties, and none where it is fixed. Batches
    may have any size. Raises `CannotConvert` naming what cannot be trained.
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
        self.layers = {op.index: op for _, op in layers}
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
            for place in range(1, len(op.inputs)):
                if floats.is_constant(op.inputs[place]):
                    self._train(other.inputs[place], floats.constant(op.inputs[place]))
        self._names: dict[int, str] = {}
        for index in sorted({t for op in graph.ops for t in op.inputs if t >= 0}):
            if graph.is_constant(index) and index not in self.place:
                self._hold(index)
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
        for op in self.graph.ops:
            weighted = op.kind in dialect.anchors and self.graph.is_constant(op.inputs[1])
            held = self.graph.grid(op.inputs[1]) if weighted else None
            if held is None:
                continue
            if op.index not in self.layers:
                raise _refused(f"{op.kind} ({op.scope!r}) with weights that others share")
            key = self.place[op.inputs[1]]
            self.axes[op.index] = held.axis
            step = spread(self.trained[key].detach(), held.axis, dialect.weight.qmax)
            self._in_units(key, shaped(step, self.trained[key].ndim, held.axis))
            if len(op.inputs) > 2 and op.inputs[2] in self.place:
                unit = 100 * step * self.scale(op.inputs[0]).detach()
                self._in_units(self.place[op.inputs[2]], unit)
            self._learn(key, step)

    def _tie(self, dialect: Dialect) -> set[int]:
        """Finds the tensors with one grid; returns those, by their root, whose step stays."""
        stays: set[int] = set()
        for op in self.graph.ops:
            tensors = [t for t in (*op.inputs, *op.outputs) if t in self.grids]
            if op.kind in dialect.same_scale:
                for index in tensors[1:]:
                    self.roots[self.root(index)] = self.root(tensors[0])
                if any(self.graph.is_constant(t) and self.graph.grid(t) for t in op.inputs):
                    stays.update(tensors)
            elif op.kind in dialect.fixed:
                stays.update(t for t in op.outputs if t in self.grids)
        return {self.root(index) for index in stays}

    def root(self, index: int) -> int:
        """The tensor whose step is that of `index`."""
        while self.roots.get(index, index) != index:
            index = self.roots[index]
        return index

    def _try(self) -> None:
        """Runs two batches of zeros, so that what cannot be trained is refused before."""
        with torch.no_grad():
            values = {
                index: torch.zeros(2 * shape[0], *shape[1:])
                for index in self.graph.inputs
                for shape in [self.graph.shape(index)]
            }
            found = self.run(values)
        for index in self.graph.outputs:
            shape = self.graph.shape(index)
            if found[index].shape != (2 * shape[0], *shape[1:]):
                raise _refused(f"an output ({self.graph.name(index)!r}) that mixes samples")

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        """The source's outputs by name, for its inputs in order, in its layout."""
        values = {}
        for (index, permute), value in zip(self.inputs, inputs, strict=True):
            values[index] = value if permute is None else value.permute(permute)
        found = self.run(values)
        outputs = {}
        for index, binding in self.outputs:
            value = found[index]
            if binding.permute is not None:
                value = value.permute(*np.argsort(binding.permute).tolist())
            outputs[binding.name] = value
        return outputs

    def run(self, inputs: dict[int, Tensor]) -> dict[int, Any]:
        """Every tensor of the file, in real values, for its inputs by number."""
        values: dict[int, Any] = {i: getattr(self, name) for i, name in self._names.items()}
        values.update(self.whole)
        for index, value in inputs.items():
            values[index] = self._rounded(index, value)
        for op in self.graph.ops:
            given = [None if index < 0 else values.get(index) for index in op.inputs]
            if op.index in self.layers:
                self._weights(op, given)
            call = self.calls[op.index]
            try:
                value = activated(call, OPERATORS[op.kind](call, given))
            except NotImplementedError as error:
                raise _refused(str(error)) from None
            values[op.outputs[0]] = self._rounded(op.outputs[0], value)
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
            codes = torch.from_numpy(self.given[index].astype(np.float32)) - zero
        return codes * scale

    def scale(self, index: int) -> Tensor:
        """The step of an activation's grid."""
        return self._step(f"a{self.root(index)}")

    def weight_scale(self, op: Op) -> Tensor:
        """The step of each channel of a layer's weight; wide enough for its int32 bias."""
        assert self.dialect is not None
        if self.learned:
            step = self._step(self.place[op.inputs[1]])
        else:
            weight = self.value(op.inputs[1]).detach()
            step = spread(weight, self.axes[op.index], self.dialect.weight.qmax)
        if len(op.inputs) > 2 and op.inputs[2] in self.place:
            step = widened(step, self.value(op.inputs[2]), self.scale(op.inputs[0]))
        return step

    def integers(self, op: Op) -> tuple[Tensor, Tensor, Tensor | None]:
        """Codes of a layer's weight, its step (one, or one a channel), and codes of its bias."""
        assert self.dialect is not None
        weight, step = self.value(op.inputs[1]), self.weight_scale(op)
        bounds = self.dialect.weight.qmin, self.dialect.weight.qmax
        codes = on_grid(weight, shaped(step, weight.ndim, self.axes[op.index]), bounds)
        bias = None
        if len(op.inputs) > 2 and op.inputs[2] in self.place:
            bias = bias_codes(self.value(op.inputs[2]), step * self.scale(op.inputs[0]))
        return codes, step, bias

    def _weights(self, op: Op, given: list[Any]) -> None:
        codes, step, bias = self.integers(op)
        given[1] = codes * shaped(step, codes.ndim, self.axes[op.index])
        if bias is not None:
            unit = step * self.scale(op.inputs[0])
            given[2] = bias.to(unit.dtype) * unit

    def write(self, out: Path) -> None:
        """Puts what was trained into the int8 graph, and that into the file `out`."""
        with torch.no_grad():
            for index in self.grids:
                self.graph.set_scale(index, float32(self.scale(index)))
            for op in self.layers.values():
                codes, step, bias = self.integers(op)
                self.graph.set_constant(op.inputs[1], codes.cpu().numpy())
                self.graph.set_scale(op.inputs[1], float32(step))
                if bias is not None:
                    self.graph.set_constant(op.inputs[2], bias.cpu().numpy())
                    unit = float32(step * self.scale(op.inputs[0]))
                    self.graph.set_scale(op.inputs[2], unit)
        with replacing(out) as temporary:
            temporary.write_bytes(self.graph.to_bytes())


def compare(file: Path, module: TfliteModule, data: Data) -> dict[str, Any]:
    """The written file's integers against the training's, layer by layer.

    Weights, biases and every scale: `EdgeError` where one differs. Activations, of the first
    batches through LiteRT as it runs files by default (XNNPACK): the share of each tensor that is
    equal, and the largest difference in steps, where the simulation of each operator is given the
    integers that the kernels computed before it. `network_equal` is the share without that, from
    the inputs on: a tie that was rounded otherwise goes through all that follows.
    """
    stored = Graph(file.read_bytes())
    biases = 0
    with torch.no_grad():
        for op in module.layers.values():
            codes, step, bias = module.integers(op)
            _equal(stored, op.inputs[1], codes, step)
            if bias is not None:
                _equal(stored, op.inputs[2], bias, step * module.scale(op.inputs[0]))
                biases += 1
        for index, params in module.grids.items():
            found = stored.grid(index)
            wanted = (float32(module.scale(index)), params.zero_point)
            if found is None or (found.scale, found.zero_point) != wanted:
                raise _differs(stored, index)
    shown = [index for index in module.grids if index not in stored.inputs]
    runner = interpreter(stored.showing(shown), 1, delegated=True, name=str(file))
    seen: dict[int, list[Array]] = {index: [] for index in shown}
    free: dict[int, list[Array]] = {index: [] for index in shown}
    for batch in itertools.islice(data.feeds(), CHECKED):
        fed = learn_tflite.given(batch, module.source, stored)
        for item in runner.get_input_details():
            runner.set_tensor(item["index"], fed[item["name"]])
        runner.invoke()
        places = runner.get_output_details()
        kernels = {
            index: runner.get_tensor(item["index"])
            for index, item in zip(shown, places, strict=True)
        }
        values = {
            after: torch.from_numpy(np.array(batch[module.source.name(before)]))
            for before, after in zip(module.source.inputs, stored.inputs, strict=True)
        }
        for given, gaps in ((kernels, seen), ({}, free)):
            module.given, module.codes = given, {}
            with torch.inference_mode():
                module.run(values)
            for index in shown:
                gap = np.abs(kernels[index].astype(np.int64) - module.codes[index].numpy())
                gaps[index].append(gap)
        module.given, module.codes = {}, None
    layers = {}
    for index, each in seen.items():
        every = np.stack(each)
        layers[stored.name(index)] = {
            "equal": float((every == 0).mean()),
            "largest_step": int(every.max()),
        }
    return {
        "weights": len(module.layers),
        "biases": biases,
        "activations": layers,
        "activations_equal": _share(seen),
        "network_equal": _share(free),
    }


def _share(gaps: dict[int, list[Array]]) -> float:
    every = [gap.reshape(-1) for each in gaps.values() for gap in each]
    return float((np.concatenate(every) == 0).mean())


def _equal(stored: Graph, index: int, codes: Tensor, step: Tensor) -> None:
    held = np.asarray(stored.main.tensors[index].quantization.scale, np.float32)
    same = np.array_equal(stored.constant(index), codes.cpu().numpy())
    if not same or not np.array_equal(held, float32(step).reshape(-1)):
        raise _differs(stored, index)


def _differs(stored: Graph, index: int) -> errors.EdgeError:
    return errors.EdgeError(f"{stored.name(index)!r} in the file is not what was trained.")


def _refused(what: str) -> errors.CannotConvert:
    return errors.CannotConvert(
        f"Training with quantisation in the loop has no {what}.",
        next="Quantise after training, with convert --precision int8.",
    )
