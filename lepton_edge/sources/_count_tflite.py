"""Counts of .tflite files, from the file alone."""

from __future__ import annotations

from collections import Counter

from lepton_edge.devices import _cost_tflite, _tflite
from lepton_edge.model import Model
from lepton_edge.sources._counts import Counts


def count(model: Model) -> Counts:
    """MACs as the device models count them; a free dimension counts as one."""
    graph = _tflite.read(model.native)
    operators = Counter(operator.name for operator in graph.operators)
    parameters = sum(tensor.size for tensor in graph.tensors if tensor.is_constant)
    unknown = sorted(name for name in operators if _cost_tflite.UNCOUNTED.search(name))
    if unknown:
        return Counts(operators, parameters, None, f"the graph has {', '.join(unknown)}")
    return Counts(operators, parameters, _cost_tflite.tflite_cost(graph)[0].macs)
