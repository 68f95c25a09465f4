"""A float32 ONNX graph to a half-precision one that computes in float16, float32 at its borders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from lepton_edge import errors
from lepton_edge.converters._float_onnx import backend, first_line, run
from lepton_edge.converters._onnx_graph import graphs, sort_nodes
from lepton_edge.model import Array, Feeds

# Operators that hand a mask on, element by element.
PASSES = ("Add", "Mul", "Div", "Where", "Max", "Cast", "Reshape", "Unsqueeze", "Expand")
LARGEST = float(np.finfo(np.float16).max)  # 65504


def to_half(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The graph with float16 weights and operators, and the step's record.

    Inputs and outputs stay float32 through casts, so the signature is unchanged. Raises
    `CannotConvert` naming a weight beyond float16's 65504; only the one value with which an
    attention mask is filled may lie below it, and is clamped.
    """
    float16 = backend("onnxruntime.transformers.float16", "ONNX Runtime", "onnx")
    clamped = _check_range(proto)
    half = onnx.ModelProto()
    half.CopyFrom(proto)
    try:
        half = float16.convert_float_to_float16(half, keep_io_types=True, max_finite_val=LARGEST)
        sort_nodes(half.graph)  # the converter appends its casts
        onnx.checker.check_model(half)
    except (
        RuntimeError,
        ValueError,
        KeyError,
        AssertionError,
        onnx.checker.ValidationError,
    ) as error:
        raise errors.CannotConvert(
            f"The graph cannot be turned into float16: {first_line(error)}.",
            next="Ask for the precision fp32.",
        ) from None
    kept = sorted(
        {
            node.op_type
            for graph in graphs(half.graph)
            for node in graph.node
            if node.op_type in float16.DEFAULT_OP_BLOCK_LIST
        }
    )
    step: dict[str, Any] = {
        "step": "fp16",
        "tool": "onnxruntime.transformers.float16",
        "inputs_and_outputs": "float32",
        "operators_kept_in_float32": kept,
        "note": "a runtime without float16 kernels, such as ONNX Runtime's CPU provider for most"
        " operators, casts to float32 and back: the file is half as large, not faster",
        "slow_because": "ONNX Runtime's CPU provider casts to float32 and back where it has no"
        " float16 kernel",
    }
    if clamped:
        step["clamped_to_65504"] = clamped
    return half, step


def check_activations(proto: onnx.ModelProto, feeds: Feeds) -> None:
    """Raises `CannotConvert` naming the first activation that float16 cannot hold.

    Large negative values on their way to a softmax are those of a mask, and do no harm. ONNX
    Runtime's CPU provider would not show the fault: it computes float16 operators in float32.
    """
    inside = onnx.shape_inference.infer_shapes(proto)
    known = {item.name: item for item in inside.graph.value_info}
    known |= {item.name: item for item in inside.graph.output}
    made = [name for node in inside.graph.node for name in node.output if name in known]
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in inside.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    del inside.graph.output[:]
    inside.graph.output.extend(known[name] for name in made)
    for name, value in run(inside, feeds).items():
        if value.dtype != np.float32:
            continue
        finite = value[np.isfinite(value)]
        high, low = float(finite.max(initial=0.0)), float(finite.min(initial=0.0))
        masked = low < -LARGEST and high <= LARGEST and _masks(name, readers)
        if max(high, -low) > LARGEST and not masked:
            raise errors.CannotConvert(
                f"The activation {name!r} reaches {max(high, low, key=abs):.6g} on the example"
                f" inputs, beyond float16's {LARGEST:g}.",
                next="Ask for the precision fp32, or normalise that tensor in the model.",
            )


def _masks(name: str, readers: Mapping[str, Sequence[onnx.NodeProto]]) -> bool:
    """Whether all that reads the tensor is a softmax, or passes its elements on to one."""
    found = readers.get(name, [])
    return bool(found) and all(
        node.op_type == "Softmax" or (node.op_type in PASSES and _masks(node.output[0], readers))
        for node in found
    )


def _check_range(proto: onnx.ModelProto) -> list[str]:
    clamped = []
    for graph in graphs(proto.graph):
        named = [(tensor.name, tensor) for tensor in graph.initializer]
        named += [
            (node.output[0], attribute.t)
            for node in graph.node
            if node.op_type in ("Constant", "ConstantOfShape")
            for attribute in node.attribute
            if attribute.name == "value"
        ]
        for name, tensor in named:
            if tensor.data_type != onnx.TensorProto.FLOAT:
                continue
            value: Array = numpy_helper.to_array(tensor)
            beyond = value[np.abs(value) > LARGEST]
            if not beyond.size:
                continue
            if beyond.max() >= 0 or beyond.min() != beyond.max():
                worst = float(beyond[np.abs(beyond).argmax()])
                raise errors.CannotConvert(
                    f"The weight {name!r} holds {worst:.6g}, beyond float16's {LARGEST:g}.",
                    next="Ask for the precision fp32, or scale that weight in the model.",
                )
            clamped.append(name)
    return clamped
