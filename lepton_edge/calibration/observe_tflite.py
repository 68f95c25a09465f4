"""One pass over a float .tflite: statistics of every activation, and ranges in TFLite's rules.

`ranges_for_tflite` returns what ai_edge_quantizer calls a calibration result: a dict of
{tensor name: {"min": array, "max": array}}.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lepton_edge import errors
from lepton_edge.calibration import ranges
from lepton_edge.calibration.dialects import Dialect
from lepton_edge.calibration.statistics import Statistics, TensorStats
from lepton_edge.model import Array

Range = tuple[float, float]


@dataclass(frozen=True)
class Operation:
    """One operator of the file: its TFLite name, and the indices of its float activations."""

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Observed:
    """Statistics by tensor name, the operators, and the names by index."""

    statistics: Statistics
    operations: tuple[Operation, ...]
    names: dict[int, str]
    ranks: dict[str, int]


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
    found: dict[str, dict[str, Array]] = {}
    for name, (low, high) in sorted(solved.items()):
        shape = (1,) * observed.ranks[name]
        found[name] = {
            "min": np.full(shape, low, np.float32),
            "max": np.full(shape, high, np.float32),
        }
    return found


def observe(model: Path, feeds: Iterable[Mapping[str, Array]], *, threads: int = 1) -> Observed:
    """Runs `model` over `feeds`, one batch in memory; raises `UsageError` for empty data."""
    interpreter = _interpreter(model, threads)
    inputs = {item["name"]: item for item in interpreter.get_input_details()}
    details = {item["index"]: item for item in interpreter.get_tensor_details()}
    operations = _operations(interpreter, details)
    produced = {index for operation in operations for index in operation.outputs}
    given = {item["index"] for item in inputs.values() if item["dtype"] is np.float32}
    names = {index: details[index]["name"] for index in sorted(produced | given)}
    ranks = {details[index]["name"]: len(details[index]["shape"]) for index in names}
    stats = Statistics({n: TensorStats(ranks[n] - 1 if ranks[n] > 1 else None) for n in ranks})
    for batch in feeds:
        if set(batch) != set(inputs):
            raise errors.UsageError(
                f"The data has inputs {sorted(batch)}; {str(model)!r} takes {sorted(inputs)}."
            )
        for name, value in batch.items():
            interpreter.set_tensor(inputs[name]["index"], value)
        interpreter.invoke()
        for index, name in names.items():
            stats.tensors[name].update(interpreter.get_tensor(index))
        stats.n += next(iter(batch.values())).shape[0]
    if stats.n == 0:
        raise errors.UsageError("The calibration data is empty.", next="Give 100 or more samples.")
    return Observed(stats, operations, names, ranks)


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
    solved: dict[str, Range] = {}
    for name, stats in observed.statistics.tensors.items():
        low, high = ranges.solve(stats, dialect.activation, method, percentile=percentile)
        if name in fixed:
            low, high = fixed[name]
        before = solved.get(root(name), (0.0, 0.0))
        solved[root(name)] = min(low, before[0]), max(high, before[1])
    return {name: fixed.get(name, solved[root(name)]) for name in observed.statistics.tensors}


def _interpreter(model: Path, threads: int) -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
    except ImportError:
        raise errors.BackendMissing(
            "ai-edge-litert is not installed.", next="pip install 'lepton-edge[tflite]'."
        ) from None
    with warnings.catch_warnings():
        # Keeping every tensor is the purpose; the interpreter warns that it takes memory.
        warnings.simplefilter("ignore")
        try:
            interpreter = Interpreter(
                model_path=str(model),
                num_threads=threads,
                experimental_preserve_all_tensors=True,
                experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            )
            interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise errors.BadInput(
                f"Cannot open the TFLite model {str(model)!r}: {str(error).splitlines()[0]}"
            ) from None
    return interpreter


def _operations(interpreter: Any, details: Mapping[int, Any]) -> tuple[Operation, ...]:
    found = []
    for item in interpreter._get_ops_details():
        floats = [
            tuple(int(i) for i in item[side] if i in details and details[i]["dtype"] is np.float32)
            for side in ("inputs", "outputs")
        ]
        found.append(Operation(item["op_name"], *floats))
    return tuple(found)
