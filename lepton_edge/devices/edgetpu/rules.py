"""The Edge TPU's table of operators: which can be mapped, and under which constraints.

An allow-list: what is not in `MAPPED` is not mapped. Sources by letter:
A  developer.axis.com/computer-vision/on-device/system-on-chip/artpec-7/supported-ops, the same
   table as coral.ai/docs/edgetpu/models-intro
C  google-coral/edgetpu CHANGES.md
L  ricardodeazambuja/LibrEdgeTPU docs: operators tried with compiler 16
O  observed in a compiled file only: google-coral/test_data, DeepLab on MobileNet EdgeTPU
Where a check goes beyond the table, its docstring names the compiled file.
M  the runtime version is from memory of Coral's table and was not read again
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from lepton_edge.devices._profile import Fact
from lepton_edge.devices._tflite import Graph, Operator
from lepton_edge.devices.edgetpu import _checks as check
from lepton_edge.devices.edgetpu._checks import EIGHT_BIT, Breach

LATEST_RUNTIME = 14


@dataclass(frozen=True)
class Mapped:
    """An operator that can be mapped where every check returns None.

    `note` is what the documents leave open: it is shown, and decides nothing.
    """

    checks: tuple[check.Check, ...] = ()
    min_runtime: int | None = None
    source: str = "A"
    note: str | None = None


_PARAMETERS = (check.constant_parameters,)
_REDUCTION = (check.reduction_not_on_batch,)

MAPPED: dict[str, Mapped] = {
    "ADD": Mapped(),
    "AVERAGE_POOL_2D": Mapped((check.no_fused_activation,)),
    "CONCATENATION": Mapped((check.no_fused_activation, check.constant_input_is_zero_padding)),
    "CONV_2D": Mapped((*_PARAMETERS, check.equal_dilation)),
    "DEPTHWISE_CONV_2D": Mapped((*_PARAMETERS, check.equal_dilation)),
    "EXPAND_DIMS": Mapped(min_runtime=13, source="A C"),
    "FULLY_CONNECTED": Mapped(
        (check.default_weights_format, check.vector_by_constants),
        note="very large layers may fail to compile (libcoral offers split_fc)",
    ),
    "L2_NORMALIZATION": Mapped(),
    "LOGISTIC": Mapped(),
    "LSTM": Mapped(min_runtime=14, source="A M"),
    "MAXIMUM": Mapped(),
    "MAX_POOL_2D": Mapped((check.no_fused_activation,)),
    "MEAN": Mapped((check.mean_along,)),
    "MINIMUM": Mapped(),
    "MUL": Mapped(),
    "PACK": Mapped((check.pack_not_on_batch,), min_runtime=13, source="A C"),
    "PAD": Mapped((check.padding_not_on_batch,)),
    "PRELU": Mapped((*_PARAMETERS, check.alpha_is_1d), min_runtime=13, source="A M"),
    "QUANTIZE": Mapped((check.requantises,), min_runtime=13, source="A C"),
    "REDUCE_MAX": Mapped(_REDUCTION, min_runtime=14, source="A M"),
    "REDUCE_MIN": Mapped(_REDUCTION, min_runtime=14, source="A M"),
    "RELU": Mapped(),
    "RELU6": Mapped(),
    "RELU_N1_TO_1": Mapped(),
    "RESHAPE": Mapped((check.reshape_size,), source="A, sizes inferred"),
    "RESIZE_BILINEAR": Mapped((check.resize_size,), source="A, sizes inferred"),
    "RESIZE_NEAREST_NEIGHBOR": Mapped((check.resize_size,), source="A, sizes inferred"),
    "RSQRT": Mapped(min_runtime=14, source="L M"),
    "SLICE": Mapped(),
    "SOFTMAX": Mapped((check.softmax_size,)),
    "SPACE_TO_DEPTH": Mapped(),
    "SPLIT": Mapped((check.split_not_on_batch,), source="A M"),
    "SQUARED_DIFFERENCE": Mapped(min_runtime=14, source="L M"),
    "SQUEEZE": Mapped(note="the table of 2019 asks for leading dimensions of 1"),
    "STRIDED_SLICE": Mapped((check.plain_strides,)),
    "SUB": Mapped(),
    "SUM": Mapped(_REDUCTION, min_runtime=13, source="C"),
    "TANH": Mapped(),
    "TILE": Mapped((check.tile_not_on_batch,), source="O"),
    "TRANSPOSE": Mapped((check.transpose_size,), min_runtime=14, source="L M, sizes inferred"),
    "TRANSPOSE_CONV": Mapped((check.constant_parameters,), min_runtime=13, source="C"),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": Mapped(min_runtime=14, source="A M"),
}

# What to do instead, for operators that are often met and not in the table.
INSTEAD: dict[str, str] = {
    "ARG_MAX": "take the argmax on the host",
    "ARG_MIN": "take the argmin on the host",
    "BATCH_MATMUL": "attention does not run there: use convolutions",
    "CAST": "keep one 8-bit type through the model",
    "DEQUANTIZE": "export with int8 outputs; as the last operator it costs little",
    "DIV": "multiply by the constant's inverse",
    "ELU": "use RELU or RELU6",
    "GATHER": "slice instead, or select on the host",
    "GELU": "use RELU or RELU6",
    "HARD_SWISH": "use RELU6",
    "LEAKY_RELU": "use RELU, RELU6 or PRELU",
    "MIRROR_PAD": "pad with zeros",
    "POW": "multiply the tensor by itself",
    "TFLite_Detection_PostProcess": "box selection stays on the CPU; that is usual",
    "TOPK_V2": "select the top k on the host",
}

# The first version of an operator that compiler 16.0 (the last one) cannot read: it then refuses
# the whole file. From users' reports: google-coral/edgetpu#631, #845, #879, tflite-micro#2633.
# Other operators have such a version too; these are the ones that were reported.
UNREADABLE_FROM: dict[str, int] = {"CONV_2D": 6, "EXP": 2, "QUANTIZE": 3, "TRANSPOSE_CONV": 4}


def runtime_of(version: Fact | None) -> int:
    """The runtime version that a profile states, the latest where it states none or several."""
    if version is None or isinstance(version.value, tuple):
        return LATEST_RUNTIME
    return int(version.value)


def breach(graph: Graph, operator: Operator, runtime: int = LATEST_RUNTIME) -> Breach | None:
    """Why the operator by itself cannot be mapped, None where it can."""
    entry = MAPPED.get(operator.name)
    if operator.is_custom or entry is None:
        what = "a custom operator" if operator.is_custom else "an operator"
        return Breach(
            "supported-operators",
            f"{operator.name} is {what} that the Edge TPU does not have",
            INSTEAD.get(operator.name),
        )
    if entry.min_runtime and runtime < entry.min_runtime:
        return Breach(
            "runtime-version",
            f"{operator.name} needs runtime {entry.min_runtime}, and this is {runtime}",
            "compile for a later runtime",
        )
    for find in entry.checks:
        if found := find(graph, operator, runtime):
            return found
    return _tensors(graph, operator)


def _tensors(graph: Graph, operator: Operator) -> Breach | None:
    """The rules for every tensor: 8-bit, quantised, and at most the three innermost dims over 1."""
    for tensor in (*graph.activations(operator), *graph.results(operator)):
        if tensor.dtype not in EIGHT_BIT:
            return Breach(
                "eight-bit",
                f"its tensor {tensor.name!r} is {tensor.dtype}",
                "quantise the whole model to int8, inputs and outputs too",
            )
        if not len(tensor.scales):
            return Breach(
                "quantised", f"its tensor {tensor.name!r} has no scale", "quantise the model"
            )
        if prod(tensor.shape[:-3]) != 1:
            return Breach(
                "three-dimensions",
                f"its tensor {tensor.name!r} is {check.shape_text(tensor)}: only the three"
                " innermost dimensions may be over 1",
                "export with a batch of 1, and reshape to three dimensions",
            )
    return None


def refused(graph: Graph) -> Breach | None:
    """Why the compiler would not take the file at all, None where it would."""
    # A free batch alone is no obstacle: the interpreter, and so the compiler, take it as 1.
    dynamic = next((t for t in graph.tensors if any(dim > 0 for dim in t.free)), None)
    if dynamic is not None:
        return Breach(
            "static-shapes",
            f"the tensor {dynamic.name!r} ({check.shape_text(dynamic)}) has no fixed size",
            "export with fixed shapes and a batch of 1",
        )
    for operator in graph.operators:
        limit = UNREADABLE_FROM.get(operator.name)
        if limit and operator.version >= limit:
            return Breach(
                "operator-version",
                f"operator {operator.index} is {operator.name} version {operator.version}, and"
                f" edgetpu_compiler 16.0 reads it up to version {limit - 1}",
                "export with an older TensorFlow (2.8 is known to work)",
            )
    if graph.subgraphs > 1:
        return Breach(
            "one-graph",
            f"the file has {graph.subgraphs} graphs (loops, branches or signatures)",
            "unroll loops and export one signature",
        )
    return None
