"""One pass over a float .tflite: statistics of every activation, and ranges in TFLite's rules.

`ranges_for_tflite` returns what ai_edge_quantizer calls a calibration result: a dict of
{tensor name: {"min": array, "max": array}}.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lepton_edge import errors
from lepton_edge.calibration import ranges
from lepton_edge.calibration.dialects import Dialect
from lepton_edge.calibration.graph_tflite import Graph, interpreter
from lepton_edge.calibration.statistics import (
    SUBSAMPLE,
    Statistics,
    TensorStats,
    fingerprint,
    keep_newest,
)
from lepton_edge.model import Array

Range = tuple[float, float]
TOGETHER = SUBSAMPLE  # values of small tensors that are taken in at once


@dataclass(frozen=True)
class Operation:
    """One operator of the file: its TFLite name, and the indices of its float activations."""

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Observed:
    """Statistics by tensor name, the operators, the names by index, and which are inputs."""

    statistics: Statistics
    operations: tuple[Operation, ...]
    names: dict[int, str]
    ranks: dict[str, int]
    inputs: frozenset[str] = frozenset()


def ranges_for_tflite(
    model: Path,
    feeds: Iterable[Mapping[str, Array]],
    dialect: Dialect,
    *,
    method: ranges.Method = "auto",
    percentile: float = 99.99,
    threads: int = 1,
) -> dict[str, dict[str, Array]]:
    """Ranges of every float activation of `model` for `dialect`, over all of `feeds`.

    `feeds` are under the file's own tensor names, in its layout and batch size. Tensors that an
    operator forces onto one grid get one range; those with a fixed grid get its range.
    """
    observed = observe(model, feeds, threads=threads)
    solved = solve(observed, dialect, method, percentile)
    return as_qsvs(solved, observed.ranks)


def as_qsvs(solved: Mapping[str, Range], ranks: Mapping[str, int]) -> dict[str, dict[str, Array]]:
    """Ranges in the form that ai_edge_quantizer takes."""
    found = {}
    for name, (low, high) in sorted(solved.items()):
        shape = (1,) * ranks[name]
        found[name] = {
            "min": np.full(shape, low, np.float32),
            "max": np.full(shape, high, np.float32),
        }
    return found


def observe(model: Path, feeds: Iterable[Mapping[str, Array]], *, threads: int = 1) -> Observed:
    """Runs `model` over `feeds`, one batch in memory; raises `UsageError` for empty data."""
    content = model.read_bytes()
    interpreter(content, threads, name=str(model))  # refuses what is no model
    return measure(Graph(content), feeds, threads=threads, name=str(model))


def measure(
    graph: Graph,
    feeds: Iterable[Mapping[str, Array]],
    *,
    threads: int = 1,
    only: Collection[str] | None = None,
    cache: Path | None = None,
    data: str = "",
    name: str = "the model",
) -> Observed:
    """As `observe`, of a graph; of the tensors `only`, all without it.

    `cache` is a folder where statistics are kept by the graph and `data`, the data's fingerprint.
    """
    floats = {*graph.activations(), *(t for t in graph.inputs if graph.dtype(t) == "FLOAT32")}
    names = {t: graph.name(t) for t in sorted(floats) if only is None or graph.name(t) in only}
    ranks = {names[t]: len(graph.shape(t)) for t in names}
    operations = tuple(
        Operation(
            op.kind, *(tuple(t for t in side if t in names) for side in (op.inputs, op.outputs))
        )
        for op in graph.ops
    )
    inputs = frozenset(names[t] for t in graph.inputs if t in names)
    content = graph.to_bytes()
    key = fingerprint(content, data, "", ranks)
    path = cache / f"{key}.npz" if cache else None
    if path is not None and path.exists():
        stats = Statistics.load(path)
    else:
        stats = _run(content, names, ranks, feeds, threads, name)
        stats.key = key
        if path is not None:
            stats.save(path)
            keep_newest(path.parent)
    return Observed(stats, operations, names, ranks, inputs)


def _run(
    content: bytes,
    names: Mapping[int, str],
    ranks: Mapping[str, int],
    feeds: Iterable[Mapping[str, Array]],
    threads: int,
    name: str,
) -> Statistics:
    runner = interpreter(content, threads, keep_all=True, name=name)
    inputs = {item["name"]: item["index"] for item in runner.get_input_details()}
    stats = Statistics({n: TensorStats(ranks[n] - 1 if ranks[n] > 1 else None) for n in ranks})
    waiting: dict[str, list[Array]] = {}
    for batch in feeds:
        if set(batch) != set(inputs):
            raise errors.UsageError(
                f"The data has inputs {sorted(batch)}; {name!r} takes {sorted(inputs)}."
            )
        for each, value in batch.items():
            runner.set_tensor(inputs[each], value)
        runner.reset_all_variables()
        runner.invoke()
        for index, tensor in names.items():
            few = waiting.setdefault(tensor, [])
            few.append(np.atleast_1d(runner.get_tensor(index)))
            if (len(few) + 1) * few[0].size > TOGETHER:
                stats.tensors[tensor].update(np.concatenate(waiting.pop(tensor)))
        stats.n += next(iter(batch.values())).shape[0]
    for tensor, few in waiting.items():
        stats.tensors[tensor].update(np.concatenate(few))
    if stats.n == 0:
        raise errors.UsageError("The calibration data is empty.", next="Give 100 or more samples.")
    return stats


def solve(
    observed: Observed, dialect: Dialect, method: ranges.Method = "auto", percentile: float = 99.99
) -> dict[str, Range]:
    """One range a tensor name, with the dialect's shared and fixed grids."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.get(name, name) != name:
            name = parent[name]
        return name

    fixed: dict[str, Range] = {}
    derived: set[str] = set()  # what they hold, their source holds too
    for operation in observed.operations:
        ins = [observed.names[i] for i in operation.inputs if i in observed.names]
        outs = [observed.names[i] for i in operation.outputs if i in observed.names]
        if operation.name in dialect.fixed:
            scale, zero = dialect.fixed[operation.name]
            grid = dialect.activation
            for name in outs:
                fixed[name] = ((grid.qmin - zero) * scale, (grid.qmax - zero) * scale)
        elif operation.name in dialect.same_scale and ins and outs:
            for name in (*ins[1:], *outs):
                parent[root(name)] = root(ins[0])
            if len(ins) == 1:
                derived.update(outs)
    solved: dict[str, Range] = {}
    for name, stats in observed.statistics.tensors.items():
        if name in derived:
            continue
        # Images come in 256 even steps, which only the whole range keeps.
        chosen = "minmax" if method == "auto" and name in observed.inputs else method
        low, high = ranges.solve(stats, dialect.activation, chosen, percentile=percentile)
        if name in fixed:
            low, high = fixed[name]
        before = solved.get(root(name), (0.0, 0.0))
        solved[root(name)] = min(low, before[0]), max(high, before[1])
    return {name: fixed.get(name, solved[root(name)]) for name in observed.statistics.tensors}
