"""Which operators the compiler puts into its one Edge TPU segment, and why the others stay out.

The compiler maps one segment. It cuts the graph as TensorFlow Lite cuts it for any delegate
(tensorflow/lite/graph_info.cc, PartitionGraphIntoIndependentNodeSubsets): in rounds, each round
taking every operator of one kind whose inputs are ready. The first round of mappable operators is
the segment. So what comes after an unmappable operator stays on the CPU, a branch that does not
need it stays on the Edge TPU, and operators behind an unmappable *first* operator (a QUANTIZE of a
float input) are mapped all the same. Compilers' published logs and Coral's DeepLab show each.
"""

from __future__ import annotations

from dataclasses import dataclass

from lepton_edge.devices._tflite import Graph
from lepton_edge.devices.edgetpu import rules
from lepton_edge.devices.edgetpu._checks import Breach


@dataclass(frozen=True)
class Placed:
    """One operator's place. `blocked_by` is the unmapped operator that it waits for, if any."""

    index: int
    op: str
    mapped: bool
    breach: Breach | None
    blocked_by: int | None = None


def partition(graph: Graph, runtime: int = rules.LATEST_RUNTIME) -> tuple[Placed, ...]:
    """Every operator's place, in the order of the file."""
    if whole := rules.refused(graph):
        return tuple(Placed(o.index, o.name, False, whole) for o in graph.operators)
    breaches = [rules.breach(graph, operator, runtime) for operator in graph.operators]
    segment = _first_segment(graph, [found is None for found in breaches])
    producer = {index: o.index for o in graph.operators for index in o.outputs}
    blocker: dict[int, int] = {}
    for operator in graph.operators:
        for index in operator.inputs:
            before = producer.get(index)
            if before is None or before in segment:
                continue
            blocker.setdefault(operator.index, blocker.get(before, before))
    return tuple(
        Placed(o.index, o.name, o.index in segment, found, blocker.get(o.index))
        for o, found in zip(graph.operators, breaches, strict=True)
    )


def _first_segment(graph: Graph, mappable: list[bool]) -> frozenset[int]:
    produced = {index for operator in graph.operators for index in operator.outputs}
    waiting = [operator.index for operator in graph.operators]
    ready = set(range(len(graph.tensors))) - produced
    while waiting:
        kind: bool | None = None
        taken = []
        for index in waiting:
            operator = graph.operators[index]
            if any(tensor >= 0 and tensor not in ready for tensor in operator.inputs):
                continue
            if kind is None:
                kind = mappable[index]
            if mappable[index] == kind:
                taken.append(index)
                ready.update(operator.outputs)
        if not taken:  # a cycle: no valid file has one, and nothing in it can run
            break
        if kind:
            return frozenset(taken)
        waiting = [index for index in waiting if index not in taken]
    return frozenset()
