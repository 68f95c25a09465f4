"""Counts of SavedModels, from the graph of the serving signature."""

from __future__ import annotations

import re
from collections import Counter
from math import prod
from typing import Any

from lepton_edge.model import Model
from lepton_edge.sources import _tensorflow
from lepton_edge.sources._counts import Counts

_COUNTED = {
    *("Conv2D", "Conv3D", "DepthwiseConv2dNative", "Conv2DBackpropInput", "Conv3DBackpropInputV2"),
    *("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"),
}
# Products and bodies that are not counted here, so that their sum would be wrong without them.
_UNCOUNTED = re.compile(
    r"^(Stateless)?(While|If|Case)$|Conv\dD|Conv2d|MatMul|Einsum|LSTM|GRU|RNN|PartitionedCall"
)


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
    unknown = sorted(name for name in operators if _UNCOUNTED.search(name) and name not in _COUNTED)
    if unknown:
        return Counts(operators, parameters, None, f"the graph has {', '.join(unknown)}")
    try:
        macs = sum(_macs(node) for node in nodes if node.type in _COUNTED)
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
    if node.type.startswith(("Conv2DBack", "Conv3DBack")):  # sizes, weights, what is spread
        output = node.inputs[2].shape.as_list()
    spatial = output[2:] if node.get_attr("data_format").startswith(b"NC") else output[1:-1]
    return int(prod(spatial) * prod(weights))


def _transposed(node: Any) -> bool:
    return (
        node.type.endswith("MatMul")
        and "transpose_a" in node.node_def.attr
        and bool(node.get_attr("transpose_a"))
    )
