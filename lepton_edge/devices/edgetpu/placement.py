"""Where every operator of a .tflite runs on a host with an Edge TPU, as the JSON documents say it.

`predict` reads a raw file and applies the rules; `observe` says what a compiled file really does.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from lepton_edge import errors
from lepton_edge.devices._tflite import Graph, Operator
from lepton_edge.devices.edgetpu import cache, compiled, partition, rules

ACCELERATOR, CPU, UNSUPPORTED = "accelerator", "cpu", "unsupported"


def place(graph: Graph, runtime: int = rules.LATEST_RUNTIME) -> dict[str, Any]:
    """`operators` and `summary` of the graph: observed where it is compiled, else predicted."""
    if compiled.is_compiled(graph):
        return observe(graph)
    return predict(graph, runtime)


def predict(graph: Graph, runtime: int = rules.LATEST_RUNTIME) -> dict[str, Any]:
    """What the compiler will map, and why not the rest."""
    placed = partition.partition(graph, runtime)
    mapped = {item.index for item in placed if item.mapped}
    rows = [_row(graph.operators[item.index], item, graph) for item in placed]
    parameters = cache.predict(graph, mapped)
    refusal = rules.refused(graph)
    if refusal is None and not mapped:
        refusal = next((item.breach for item in placed if item.breach), None)
    return {
        "operators": rows,
        "summary": {
            **_counts(rows),
            "source": "predicted",
            "compiles": bool(mapped),
            "reason": None if mapped else _sentence(f"Nothing can be mapped: {refusal}"),
            "segments": 1 if mapped else 0,
            **parameters.as_dict(),
            "rules": sorted({item.breach.rule for item in placed if item.breach}),
        },
    }


def observe(graph: Graph) -> dict[str, Any]:
    """What a compiled file does: its own operators, and the numbers that the compiler left."""
    facts = compiled.describe(graph)
    rows = []
    for operator in graph.operators:
        there = operator.name == compiled.CUSTOM_OP
        place = ACCELERATOR if there else UNSUPPORTED if _is_flex(operator) else CPU
        reason = None if there else "the compiler left it to the CPU"
        rows.append(
            {"index": operator.index, "op": operator.name, "placement": place, "reason": reason}
        )
    return {
        "operators": rows,
        "summary": {
            **_counts(rows),
            "source": "compiled",
            "compiles": True,
            "reason": None,
            "segments": facts.segments,
            "cached_bytes": facts.cached_bytes,
            "streamed_bytes": facts.streamed_bytes,
            "instruction_bytes": facts.instruction_bytes,
            "input_bytes": facts.input_bytes,
            "output_bytes": facts.output_bytes,
            "cycles": facts.cycles,
            "min_runtime": facts.min_runtime,
            "compiler": facts.compiler,
        },
    }


def left_to_cpu(raw: Graph, compiled_graph: Graph) -> list[int]:
    """The raw file's operators that the compiled file still lists, by the tensors they make.

    Raises `BadInput` where the compiled file was not made from this raw one.
    """
    makers = {raw.tensors[index].name: o.index for o in raw.operators for index in o.outputs}
    kept: list[int] = []
    for operator in compiled_graph.operators:
        if operator.name == compiled.CUSTOM_OP:
            continue
        names = [tensor.name for tensor in compiled_graph.results(operator)]
        found = {makers[name] for name in names if name in makers}
        if len(found) != 1 or raw.operators[next(iter(found))].name != operator.name:
            raise errors.BadInput(
                f"{compiled_graph.path!r} was not compiled from {raw.path!r}: it has an operator"
                f" {operator.name} that the other has not.",
                next="Give the file that was compiled.",
            )
        kept.extend(found)
    return sorted(kept)


def _row(operator: Operator, item: partition.Placed, graph: Graph) -> dict[str, Any]:
    if item.mapped:
        note = rules.MAPPED[operator.name].note
        return {"index": item.index, "op": item.op, "placement": ACCELERATOR, "reason": note}
    if item.breach is not None:
        reason = _sentence(str(item.breach))
    elif item.blocked_by is not None:
        before = graph.operators[item.blocked_by].name
        reason = (
            f"It could be mapped, but it waits for operator {item.blocked_by} ({before}), which"
            " runs on the CPU, and the compiler makes one segment."
        )
    else:
        reason = "It could be mapped, but lies in a second segment, and the compiler makes one."
    place = UNSUPPORTED if _is_flex(operator) else CPU
    row = {"index": item.index, "op": item.op, "placement": place, "reason": reason}
    return row | ({"rule": item.breach.rule} if item.breach else {"rule": "one-segment"})


def _is_flex(operator: Operator) -> bool:
    """TensorFlow's own operators inside a .tflite: LiteRT alone cannot run them anywhere."""
    return operator.is_custom and operator.name.startswith("Flex")


def _counts(rows: list[dict[str, Any]]) -> dict[str, int]:
    counted = Counter(row["placement"] for row in rows)
    return {
        "total": len(rows),
        **{place: counted[place] for place in (ACCELERATOR, CPU, UNSUPPORTED)},
    }


def _sentence(clause: str) -> str:
    return clause[:1].upper() + clause[1:] + ("" if clause.endswith(".") else ".")
