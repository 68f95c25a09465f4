"""Counts of SavedModels, from the graph of the serving signature."""

from __future__ import annotations

from collections import Counter
from math import prod
from typing import Any

from lepton_edge.model import Model
from lepton_edge.sources import _tensorflow
from lepton_edge.sources._counts import Counts

_LOOPS = {"While", "StatelessWhile", "If", "StatelessIf"}
_MULTIPLY = ("Conv2D", "DepthwiseConv2dNative", "MatMul")


def count(model: Model) -> Counts:
    """A free batch is not counted. MACs are None where the graph has loops or unknown shapes."""
    tf = _tensorflow.library()
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    loaded = tf.saved_model.load(model.native)
    parameters = sum(prod(variable.shape) for variable in getattr(loaded, "variables", ()))
    frozen = convert_variables_to_constants_v2(
        loaded.signatures["serving_default"], lower_control_flow=False
    )
    nodes = frozen.graph.get_operations()
    operators = Counter(
        node.type for node in nodes if node.type not in ("Const", "Identity", "NoOp", "Placeholder")
    )
    loops = sorted(_LOOPS & set(operators))
    if loops:
        return Counts(operators, parameters, None, f"the graph has {', '.join(loops)}")
    try:
        macs = sum(_macs(node) for node in nodes if node.type.endswith(_MULTIPLY))
    except (ValueError, TypeError):
        return Counts(operators, parameters, None, "shapes that the file does not fix")
    return Counts(operators, parameters, macs)


def _macs(node: Any) -> int:
    """Raises ValueError or TypeError where a shape is unknown."""
    output = node.outputs[0].shape.as_list()
    weights = node.inputs[1].shape.as_list()
    if node.type.endswith("MatMul"):
        inner = node.inputs[0].shape.as_list()[0 if _transposed(node) else -1]
        return int(prod(size for size in output[1:]) * inner)
    spatial = output[2:] if node.get_attr("data_format") == b"NCHW" else output[1:-1]
    return int(prod(spatial) * prod(weights))


def _transposed(node: Any) -> bool:
    return (
        node.type.endswith("MatMul")
        and "transpose_a" in node.node_def.attr
        and bool(node.get_attr("transpose_a"))
    )
