"""Float ONNX to Q/DQ ONNX in a dialect: observe, solve, correct, write."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lepton_edge import errors
from lepton_edge.artifact import replacing
from lepton_edge.calibration import equalize, grid, learn_onnx, placement, ranges, write_onnx
from lepton_edge.calibration.dialects import Dialect
from lepton_edge.calibration.graph import Graph, prepare, separate_weights
from lepton_edge.calibration.observe_onnx import Data, cut, observe
from lepton_edge.calibration.placement import Plan
from lepton_edge.calibration.statistics import Statistics, fingerprint

if TYPE_CHECKING:
    from onnx import NodeProto


EQUALIZE_SAMPLES = 64  # whose channel ranges are balanced


@dataclass(frozen=True)
class Options:
    """How to quantise; the record of an artefact holds them all.

    `rounding` is learned (Hessian-guided) or nearest. `compensate` lets a layer's weights make up
    for what the layers before it lost, as far as that holds on data kept out of the fit.
    `correct_bias` gives each channel the float network's mean. `correction_samples` of the data
    serve these three; statistics always come from all. `equalize` balances
    the channels of a tensor first, by scaling weights. `gates` of squeeze-and-excite blocks stay
    float or not. `keep_float` names nodes that stay float. `cache` is a folder for statistics.
    """

    ranges: ranges.Method = "auto"
    percentile: float = 99.99
    rounding: Literal["learned", "nearest"] = "learned"
    compensate: bool = True
    correct_bias: bool = True
    correction_samples: int = 128
    equalize: bool = True
    gates: Literal["float", "int8"] = "float"
    keep_float: tuple[str, ...] = ()
    threads: int = 1
    cache: str | None = None


def quantize_onnx(
    model: Path, out: Path, data: Data, dialect: Dialect, options: Options | None = None
) -> dict[str, Any]:
    """Writes the quantised model to `out` and returns a JSON-able record of what was done.

    The same model, data and options give the same bytes on one machine. Raises `CannotConvert`
    where the graph has nothing that the dialect can quantise, and `UsageError` for empty data or a
    node to keep in float that is not there.
    """
    options = options or Options()
    graph = prepare(model)
    unknown = set(options.keep_float) - {node.name for node in graph.nodes}
    if unknown:
        raise errors.unknown("node", min(unknown), [node.name for node in graph.nodes])
    plan = placement.plan(graph, dialect, keep_float=options.keep_float, gates=options.gates)
    if not plan.weights:
        raise errors.CannotConvert(
            f"{str(model)!r} has no operator that {dialect.name} runs in int8:"
            " no convolution or matrix product with constant weights.",
            next="Use int8-dynamic, int8-weights or fp32.",
        )
    separate_weights(graph, plan.weights, with_bias=options.correct_bias)
    equalized = equalize_channels(graph, data, options) if options.equalize else []
    stats = statistics(graph, plan, data, options)
    quantized = write_onnx.Quantized(activation_grids(graph, plan, stats, dialect, options))
    grids = WeightGrids(graph, plan, quantized, dialect)
    record: dict[str, Any] = {"layers": []}
    if options.rounding == "learned" or options.correct_bias:
        learned = learn_onnx.learn(
            graph,
            plan,
            quantized.activations,
            dialect,
            data,
            grids,
            samples=min(options.correction_samples, stats.n),
            rounded=options.rounding == "learned",
            compensated=options.compensate,
            corrected=options.correct_bias,
            threads=options.threads,
        )
        quantized.weights = learned.weights
        record["layers"] = learned.as_dicts()
    else:
        quantized.weights = {
            node.name: learn_onnx.nearest(graph, node, grids(node))
            for node in graph.nodes
            if node.name in plan.weights
        }
    result = write_onnx.write(graph, plan, quantized, dialect)
    with replacing(out) as temporary:
        temporary.write_bytes(result.SerializeToString(deterministic=True))
    return {
        "quantizer": "lepton-edge",
        "dialect": dialect.name,
        "options": asdict(options),
        "samples": stats.n,
        "statistics": stats.key,
        "equalized": equalized,
        "int8_nodes": len(plan.ints),
        "float_nodes": dict(sorted(plan.floats.items())),
        "bias_scales_widened": grids.widened,
        **record,
    }


def equalize_channels(graph: Graph, data: Data, options: Options) -> list[dict[str, Any]]:
    """Equalises what can be; one row a group: its first tensor and the span of its factors."""
    found = equalize.groups(graph)
    names = equalize.measured(found, graph)
    if not names:
        return []
    few = Data(lambda: cut(data.feeds(), EQUALIZE_SAMPLES), data.fingerprint)
    stats = observe(graph, few, names, threads=options.threads)
    rows = []
    for group in found:
        factor = equalize.scales(group, stats.tensors)
        if factor is not None:
            equalize.apply(graph, group, factor)
            rows.append(
                {
                    "tensor": group.tensors[0],
                    "least": float(factor.min()),
                    "most": float(factor.max()),
                }
            )
    return rows


def statistics(graph: Graph, plan: Plan, data: Data, options: Options) -> Statistics:
    """Statistics of every activation in the plan, from the cache where it holds them."""
    tensors = sorted(name for name in plan.tensors if name not in graph.constants)
    key = fingerprint(
        graph.build().SerializeToString(deterministic=True), data.fingerprint, "", tensors
    )
    path = Path(options.cache, f"{key}.npz") if options.cache else None
    if path is not None and path.exists():
        return Statistics.load(path)
    stats = observe(graph, data, tensors, threads=options.threads)
    stats.key = key
    if path is not None:
        stats.save(path)
    return stats


def activation_grids(
    graph: Graph, plan: Plan, stats: Statistics, dialect: Dialect, options: Options
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
