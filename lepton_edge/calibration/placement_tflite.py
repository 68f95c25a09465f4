"""Where int8 goes in a .tflite file: which operators stay float, and why.

As in `placement`: layers with constant weights are integer; other operators follow where all that
they read is integer and someone integer reads them. So the residual stream and the normalisation
of a Transformer stay float, and softmax, and the gates of squeeze-and-excite blocks. A
full-integer dialect leaves nothing float.
"""

from __future__ import annotations

from collections.abc import Collection

from lepton_edge.calibration.dialects import Dialect
from lepton_edge.calibration.graph_tflite import Graph, Op

FRAGILE = frozenset(
    {"SOFTMAX", "LOG_SOFTMAX", "L2_NORMALIZATION", "SQUARED_DIFFERENCE", "RSQRT", "SQRT", "DIV"}
    | {"SUM", "REDUCE_MIN", "REDUCE_MAX"}
)
_MOVES = frozenset({"SLICE", "STRIDED_SLICE", "SPLIT", "UNPACK", "GATHER", "RESHAPE", "TRANSPOSE"})


def anchors(graph: Graph, dialect: Dialect) -> list[Op]:
    """The operators with constant weights and integer kernels, in their order."""
    return [
        op
        for op in graph.ops
        if op.kind in dialect.anchors and len(op.inputs) > 1 and graph.is_constant(op.inputs[1])
    ]


def floats(
    graph: Graph, dialect: Dialect, supported: Collection[str], *, keep: Collection[str], gates: str
) -> dict[str, str]:
    """{scope: reason} of the operators that stay float; `supported` are what the writer knows.

    `keep` are scopes that the user keeps, `gates` is `float` or `int8`.
    """
    if dialect.full_integer:
        return {}
    found = {op.scope: "kept by the options" for op in graph.ops if op.scope in keep}
    gate = _gates(graph) if gates == "float" else set()
    outputs_of_gates = {tensor for op in graph.ops if op.index in gate for tensor in op.outputs}
    weighted = {op.index for op in anchors(graph, dialect)}
    integer: set[int] = set()  # tensors
    inputs = {index for index in graph.inputs if graph.dtype(index) == "FLOAT32"}
    for op in graph.ops:
        live = [t for t in op.inputs if t >= 0 and graph.dtype(t) == "FLOAT32"]
        live = [t for t in live if not graph.is_constant(t)]
        reason = None
        if op.scope in found:
            continue
        if op.index in gate:
            reason = "gate of a squeeze-and-excite block"
        elif op.kind not in supported or op.kind in FRAGILE:
            reason = f"{op.kind} loses too much in int8" if op.kind in FRAGILE else "no int8 kernel"
        elif op.index not in weighted:
            source = integer | outputs_of_gates
            if op.kind in dialect.same_scale:
                source |= inputs
            if not live or not all(tensor in source for tensor in live):
                reason = "reads float"
            elif op.kind in _MOVES and set(live) <= inputs:
                inputs.update(op.outputs)  # the input moved about is the input still
        if reason is None:
            integer.update(op.outputs)
        else:
            found[op.scope] = reason
    for op in reversed(graph.ops):
        readers = [user for tensor in op.outputs for user in graph.consumers.get(tensor, [])]
        if op.scope in found or op.index in weighted:
            continue
        if all(user.scope in found for user in readers):
            found[op.scope] = "read by float only"
    return found


def _gates(graph: Graph) -> set[int]:
    """Operators between a pooled tensor and the product that it scales, by index."""
    found: set[int] = set()
    for op in graph.ops:
        if op.kind != "MUL":
            continue
        live = [tensor for tensor in op.inputs if not graph.is_constant(tensor)]
        if len(live) != 2:
            continue
        for small, large in (live, live[::-1]):
            if len(graph.shape(large)) != 4 or _pooled(graph, large) or not _pooled(graph, small):
                continue
            chain = _chain(graph, small)
            if any(each.kind in ("CONV_2D", "FULLY_CONNECTED") for each in chain):
                found.update(each.index for each in chain)
    return found


def _chain(graph: Graph, tensor: int) -> list[Op]:
    """What computes `tensor` from pooled tensors; the pooling itself is left out."""
    found: list[Op] = []
    waiting = [tensor]
    while waiting:
        op = graph.producer.get(waiting.pop())
        if op is None or op in found:
            continue
        live = [t for t in op.inputs if t >= 0 and not graph.is_constant(t)]
        if all(_pooled(graph, each) for each in live):
            found.append(op)
            waiting += live
    return found


def _pooled(graph: Graph, tensor: int) -> bool:
    """Whether the tensor has one value a channel."""
    shape = graph.shape(tensor)
    return (len(shape) == 4 and shape[1:3] == (1, 1)) or len(shape) == 2
