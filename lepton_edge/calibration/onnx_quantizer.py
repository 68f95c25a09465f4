"""Float ONNX to Q/DQ ONNX in a dialect: observe, solve, correct, write."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_edge import errors
from lepton_edge.artifact import replacing
from lepton_edge.calibration import (
    dialects,
    equalize,
    grid,
    learn_onnx,
    placement,
    ranges,
    write_onnx,
)
from lepton_edge.calibration.dialects import Dialect
from lepton_edge.calibration.graph import Graph, prepare, separate_weights
from lepton_edge.calibration.observe_onnx import Data, cut, observe
from lepton_edge.calibration.placement import Plan
from lepton_edge.calibration.statistics import Statistics, fingerprint, keep_newest
from lepton_edge.calibration.tuning import Tuning
from lepton_edge.model import Array

if TYPE_CHECKING:
    import onnx
    from onnx import NodeProto


EQUALIZE_SAMPLES = 64  # whose channel ranges are balanced


def quantize_onnx(
    model: Path,
    out: Path,
    data: Data,
    dialect: Dialect,
    options: Tuning | None = None,
    *,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Writes the quantised model to `out` and returns a JSON-able record of what was done.

    `cache` is a folder where statistics are kept: those of one model and its data serve every
    dialect. The same model, data and options give the same bytes on one machine. Raises
    `CannotConvert` where the graph has nothing that the dialect can quantise, and `UsageError` for
    empty data or a node to keep in float that is not there.
    """
    work = Work(model, data, dialect, options or Tuning(), cache=cache)
    plan = work.plan()
    quantized, record = work.quantize(plan)
    work.write(plan, quantized, out)
    return {**work.record(plan), **record}


class Work:
    """A float model made ready, with its statistics: from here it can be quantised in many ways."""

    def __init__(
        self, model: Path, data: Data, dialect: Dialect, options: Tuning, *, cache: Path | None
    ) -> None:
        self.name, self.data, self.dialect, self.options = str(model), data, dialect, options
        self.graph = graph = prepare(model)
        unknown = set(options.keep_float) - {node.name for node in graph.nodes}
        if unknown:
            raise errors.unknown("node", min(unknown), [node.name for node in graph.nodes])
        self.plan()  # refuses before the data is read
        tensors = _make_ready(graph, with_bias=options.correct_bias)
        scaled = equalize_channels(graph, data, options, cache) if options.equalize else []
        self.stats = statistics(graph, tensors, data, options.threads, cache)
        changed = [each.rein_in(graph, self.stats) for each in scaled]
        if any(changed):
            self.stats = statistics(graph, tensors, data, options.threads, cache)
        self.equalized = [equalize.record(each.group.tensors[0], each.factor) for each in scaled]

    def plan(self, keep_float: Collection[str] = ()) -> Plan:
        """Where int8 goes; `keep_float` adds to the nodes that the options keep."""
        keep = {*self.options.keep_float, *keep_float}
        found = placement.plan(self.graph, self.dialect, keep_float=keep, gates=self.options.gates)
        if not found.weights and not keep_float:
            raise errors.CannotConvert(
                f"{self.name!r} has no operator that {self.dialect.name} runs in int8:"
                " no convolution or matrix product with constant weights.",
                next="Use int8-dynamic, int8-weights or fp32.",
            )
        return found

    def nearest(self, plan: Plan) -> write_onnx.Quantized:
        """Every weight rounded to its nearest code, nothing learned or corrected."""
        quantized, grids = self._grids(plan)
        quantized.weights = {
            node.name: learn_onnx.nearest(self.graph, node, grids(node))
            for node in self.graph.nodes
            if node.name in plan.weights
        }
        return quantized

    def quantize(self, plan: Plan) -> tuple[write_onnx.Quantized, dict[str, Any]]:
        """Codes and biases as the options ask, and the record of each layer."""
        options = self.options
        if options.rounding == "nearest" and not options.correct_bias:
            return self.nearest(plan), {"layers": [], "bias_scales_widened": []}
        quantized, grids = self._grids(plan)
        learned = learn_onnx.learn(
            self.graph,
            plan,
            quantized.activations,
            self.dialect,
            self.data,
            grids,
            samples=min(options.correction_samples, self.stats.n),
            rounded=options.rounding == "learned",
            compensated=options.compensate,
            corrected=options.correct_bias,
            threads=options.threads,
        )
        quantized.weights = learned.weights
        return quantized, {"layers": learned.as_dicts(), "bias_scales_widened": grids.widened}

    def build(self, plan: Plan, quantized: write_onnx.Quantized) -> onnx.ModelProto:
        return write_onnx.write(self.graph, plan, quantized, self.dialect)

    def write(self, plan: Plan, quantized: write_onnx.Quantized, out: Path) -> None:
        content = self.build(plan, quantized).SerializeToString(deterministic=True)
        with replacing(out) as temporary:
            temporary.write_bytes(content)

    def record(self, plan: Plan) -> dict[str, Any]:
        return {
            "quantizer": "lepton-edge",
            "dialect": self.dialect.name,
            "options": {each.name: getattr(self.options, each.name) for each in fields(Tuning)},
            "samples": self.stats.n,
            "statistics": self.stats.key,
            "equalized": self.equalized,
            "int8_nodes": len(plan.ints),
            "float_nodes": dict(sorted(plan.floats.items())),
        }

    def _grids(self, plan: Plan) -> tuple[write_onnx.Quantized, WeightGrids]:
        grids = activation_grids(self.graph, plan, self.stats, self.dialect, self.options)
        quantized = write_onnx.Quantized(grids)
        return quantized, WeightGrids(self.graph, plan, quantized, self.dialect)


@dataclass
class Scaled:
    """A group of tensors whose channels were scaled by `factor`, as `few` samples asked."""

    group: equalize.Group
    factor: Array
    few: Statistics

    def rein_in(self, graph: Graph, stats: Statistics) -> bool:
        """Undoes what all samples show to be too much; whether there was any."""
        back = equalize.reined_in(self.group, self.few.tensors, self.factor, stats.tensors)
        if back is None:
            return False
        equalize.apply(graph, self.group, back)
        self.factor = self.factor * back
        return True


def equalize_channels(
    graph: Graph, data: Data, options: Tuning, cache: Path | None = None
) -> list[Scaled]:
    """Equalises what can be, by the channels' ranges on a few samples."""
    found = equalize.groups(graph)
    names = equalize.measured(found, graph)
    if not names:
        return []
    few = Data(
        lambda: cut(data.feeds(), EQUALIZE_SAMPLES), f"{data.fingerprint}:{EQUALIZE_SAMPLES}"
    )
    stats = statistics(graph, names, few, options.threads, cache)
    rows = []
    for group in found:
        factor = equalize.scales(group, stats.tensors)
        if factor is not None:
            equalize.apply(graph, group, factor)
            rows.append(Scaled(group, factor, stats))
    return rows


def _make_ready(graph: Graph, *, with_bias: bool) -> list[str]:
    """Separates the weights of every layer that some dialect quantises, and names the activations.

    Both are the same for each dialect, so that one set of statistics serves them all.
    """
    plans = [
        placement.plan(graph, dialect, gates="int8")
        for dialect in map(dialects.load, dialects.names())
        if dialect.container == "onnx"
    ]
    separate_weights(graph, {name for plan in plans for name in plan.weights}, with_bias=with_bias)
    return sorted({name for plan in plans for name in plan.tensors} - set(graph.constants))


def statistics(
    graph: Graph, tensors: Sequence[str], data: Data, threads: int, cache: Path | None
) -> Statistics:
    """Statistics of `tensors` over all of the data, from the cache where it holds them."""
    key = fingerprint(
        graph.build().SerializeToString(deterministic=True), data.fingerprint, "", tensors
    )
    path = cache / f"{key}.npz" if cache else None
    if path is not None and path.exists():
        return Statistics.load(path)
    stats = observe(graph, data, tensors, threads=threads)
    stats.key = key
    if path is not None:
        stats.save(path)
        keep_newest(path.parent)
    return stats


def activation_grids(
    graph: Graph, plan: Plan, stats: Statistics, dialect: Dialect, options: Tuning
) -> dict[str, grid.QParams]:
    """A grid for each tensor that has its own, wide enough for all that share it."""
    found: dict[str, tuple[float, float]] = {}
    auto = options.ranges == "auto"
    for name in plan.tensors:
        root = plan.root(name)
        if root != name and not _joined(graph, plan, name):
            continue  # passes its root's values through
        if name in graph.constants:
            values = graph.constants[name]
            low, high = float(values.min()), float(values.max())
        else:
            low, high = ranges.solve(
                stats.tensors[name],
                dialect.activation,
                # Images come in 256 even steps, which only the whole range keeps.
                "minmax" if auto and name in graph.inputs else options.ranges,
                percentile=options.percentile,
            )
        floor, ceiling = plan.bounds.get(name, (-np.inf, np.inf))
        low, high = max(low, floor), min(high, ceiling)
        before = found.get(root, (0.0, 0.0))
        found[root] = min(low, before[0]), max(high, before[1])
    return {name: grid.params(*ends, dialect.activation) for name, ends in found.items()}


def _joined(graph: Graph, plan: Plan, name: str) -> bool:
    """Whether `name` shares a grid by a join and not because it passes through."""
    producer = graph.producer.get(name)
    return producer is None or plan.group[name] not in producer.input


class WeightGrids:
    """The grid of each anchor's weight; `widened` names those that a bias made wider."""

    def __init__(
        self, graph: Graph, plan: Plan, quantized: write_onnx.Quantized, dialect: Dialect
    ) -> None:
        self.graph, self.plan, self.quantized, self.dialect = graph, plan, quantized, dialect
        self.widened: list[str] = []

    def __call__(self, node: NodeProto) -> grid.QParams:
        """Min-max per output channel, wider where an int32 bias would overflow."""
        weight, axis = self.graph.constants[node.input[1]], self.plan.weights[node.name]
        most = np.abs(weight.astype(np.float64)).max(
            axis=tuple(i for i in range(weight.ndim) if i != axis)
        )
        if self.dialect.bias == "int32" and len(node.input) > 2 and node.input[2]:
            source = self.quantized.activations[self.plan.root(node.input[0])]
            # Twice the bias: its correction is not known yet.
            floor = write_onnx.weight_floor(
                2 * self.graph.constants[node.input[2]], float(source.scale)
            )
            floor = floor * self.dialect.weight.qmax
            if (floor > most).any() and (most[floor > most] > 0).any():
                self.widened.append(node.name)
            most = np.maximum(most, floor)
        if not self.dialect.per_channel:
            return grid.params(-most.max(), most.max(), self.dialect.weight)
        return grid.params(-most, most, self.dialect.weight, axis)
