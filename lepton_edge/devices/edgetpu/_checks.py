"""The constraints of single operators, as functions of one operator in its graph.

Each returns None, or a `Breach`: the rule, what breaks it here, and what to change. The rules are
those of Coral's table of supported operations (coral.ai/docs/edgetpu/models-intro, the same table
as developer.axis.com ARTPEC-7 supported-ops), unless a function says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np

from lepton_edge.devices._tflite import Graph, Operator, Tensor

# Coral's table says 16,000; compiler 16 maps rows of 16,384 (ricardodeazambuja/LibrEdgeTPU,
# tracker/templates), and no longer ones were seen.
MAX_SOFTMAX_ITEMS = 16_384
# 16 tiles of 196,608 bytes: libedgetpu driver/config/beagle.
TILE_MEMORY_BYTES = 196_608
ACTIVATION_MEMORY_BYTES = 16 * TILE_MEMORY_BYTES
EIGHT_BIT = ("int8", "uint8")


@dataclass(frozen=True)
class Breach:
    """`rule` is the short name of the rule, `reason` a clause, `change` an imperative or None."""

    rule: str
    reason: str
    change: str | None = None

    def __str__(self) -> str:
        return f"{self.reason}; {self.change}" if self.change else self.reason


Check = Callable[[Graph, Operator, int], Breach | None]


def shape_text(tensor: Tensor) -> str:
    dims = ("?" if i in tensor.free else str(dim) for i, dim in enumerate(tensor.shape))
    return "x".join(dims) or "scalar"


def no_fused_activation(graph: Graph, operator: Operator, runtime: int) -> Breach | None:
    if not operator.options["fused_activation"]:
        return None
    return Breach(
        "no-fused-activation",
        "it has a fused activation",
        "apply the activation as an operator of its own",
    )


def equal_dilation(graph: Graph, operator: Operator, runtime: int) -> Breach | None:
    """Along an axis with a single tap any dilation is none (fredriktegnell/edgetpu-tcn: 3x1)."""
    height, width = operator.options["dilation_h"], operator.options["dilation_w"]
    weights = graph.input(operator, 1)
    taps = weights.shape[1:3] if weights is not None else ()
    if height != width and 1 not in taps:
        return Breach(
            "equal-dilation",
            f"its dilation differs in y and x ({height} and {width})",
            "use the same dilation in both",
        )
    if operator.name == "DEPTHWISE_CONV_2D" and height > 1 and runtime < 13:  # from memory
        return Breach(
            "no-dilation-before-13",
            f"its dilation is {height}, which needs runtime 13 or later",
            "raise the runtime version",
        )
    return None


def constant_parameters(graph: Graph, operator: Operator, runtime: int) -> Breach | None:
    # TRANSPOSE_CONV has its output's shape first, then the weights, then the activation.
    for position in (1, 3) if operator.name == "TRANSPOSE_CONV" else (1, 2):
        tensor = graph.input(operator, position)
        if tensor is not None and not tensor.is_constant:
            return Breach(
                "constant-parameters",
                f"its parameter {tensor.name!r} is computed at run time",
                "fold it into a constant before the export",
            )
    return None


def default_weights_format(graph: Graph, operator: Operator, runtime: int) -> Breach | None:
    if not operator.options["weights_format"]:
        return None
    return Breach(
        "default-weights-format",
        "its weights are shuffled",
        "export with the default format of weights",
    )


def vector_by_constants(graph: Graph, operator: Operator, runtime: int) -> Breach | None:
    """Coral asks for constant weights and one row of output.

    Compiler 16 maps attention that multiplies 49 rows and two computed tensors
    (prbodmann/Coral-TPU, transformer/models/efficient_l3).
    """
    if runtime >= 14:
        return None
    if found := constant_parameters(graph, operator, runtime):
        return found
    for tensor in graph.results(operator):
        if prod(tensor.shape[:-1]) != 1:
            return Breach(
                "output-1d",
                f"its output {shape_text(tensor)} is not one-dimensional",
                "use a 1x1 convolution on the 4-D tensor instead",
            )
    return None


def constant_input_is_zero_padding(graph: Graph, operator: Operator, runtime: int) -> Breach | None:
    tensors = [graph.tensors[index] for index in operator.inputs if index >= 0]
    for tensor in tensors:
        if not tensor.is_constant:
            continue
        zero = tensor.zero_points[0] if len(tensor.zero_points) else 0
        values = tensor.array()
        if len(tensors) != 2 or values is None or not np.all(values == zero):
            return Breach(
                "constant-input-zero-pad",
                "it concatenates a constant that is no padding with zeros",
                "only one constant of zeros beside one computed input can be mapped",
            )
    return None


def _axes(graph: Graph, operator: Operator, position: int) -> tuple[int, ...] | None:
    """The axes of a reduction or split, counted from 0; None where they are no constant."""
    tensor = graph.input(operator, position)
    values = tensor.array() if tensor is not None else None
    data = graph.activations(operator)
    if values is None or not data:
        return None
    rank = len(data[0].shape)
    return tuple(int(axis) % rank if rank else 0 for axis in values.reshape(-1))


def _not_on_batch(operator: Operator, axes: tuple[int, ...] | None, rank: int) -> Breach | None:
    if axes is None:
        return Breach("constant-parameters", "its axes are computed at run time", "make them fixed")
    if rank < 4 or 0 not in axes:
        return None
    return Breach("not-on-batch", "it works along the batch dimension", "keep the batch out of it")


def reduction_not_on_batch(graph: Graph, operator: Operator, runtime: int) -> Breach | None:
    data = graph.activations(operator)
    rank = len(data[0].shape) if data else 0
    return _not_on_batch(operator, _axes(graph, operator, 1), rank)


def mean_along(graph: Graph, operator: Operator, runtime: int) -> Breach | None:
    if breach := reduction_not_on_batch(graph, operator, runtime):
        return breach
    axes, data = _axes(graph, operator, 1), graph.activations(operator)[0]
    rank = len(data.shape)
    if axes is not None and rank - 1 in axes and data.shape[-1] % 4:
        return Breach(
            "mean-depth-multiple-of-4",
            f"it reduces {data.shape[-1]} channels, which is no multiple of 4",
            "pad the channels to a multiple of 4",
        )
    # The table of 2019 (as copied by dgist-datalab), for the runtimes of that time.
    if axes is not None and runtime < 13 and not set(axes) <= {1, 2}:
        return Breach(
            "mean-xy-before-13",
            "it reduces other axes than x and y, which needs runtime 13 or later",
            "raise the runtime version",
        )
    return None


def split_not_on_batch(graph: Graph, operator: Operator, runtime: int) -> Breach | None:
    """The first dimension is the batch for any rank: a compiled YOLO11 splits no 2x64x32 there.

    A split into one part (the compiled YAMNet has one, along the batch) is no split.
    """
    if len(operator.outputs) == 1:
        return None
    axes = _axes(graph, operator, 0)
    return _not_on_batch(operator, axes, 4)


def pack_not_on_batch(graph: Graph, operator: Operator, runtime: int) -> Breach | None:
    result = graph.results(operator)[0]
    rank = len(result.shape)
    return _not_on_batch(operator, (operator.options["axis"] % rank if rank else 0,), rank)


def padding_not_on_batch(graph: Graph, operator: Operator, runtime: int) -> Breach | None:
    tensor = graph.input(operator, 1)
    values = tensor.array() if tensor is not None else None
    if values is None:
        return Breach("constant-parameters", "its padding is computed at run time", "make it fixed")
    rows = values.reshape(-1, 2)
    if len(rows) >= 4 and rows[0].any():
        return Breach("not-on-batch", "it pads the batch dimension", "pad height and width only")
    return None


def alpha_is_1d(graph: Graph, operator: Operator, runtime: int) -> Breach | None:
    alpha = graph.input(operator, 1)
    if alpha is None or prod(alpha.shape[:-1]) == 1:
        return None
    return Breach(
        "alpha-1d",
        f"its alpha {shape_text(alpha)} is not one value a channel",
        "share alpha over height and width (Keras: shared_axes=[1, 2])",
    )


def resize_size(graph: Graph, operator: Operator, runtime: int) -> Breach | None:
    """Coral: 'depending on input/output size' a resize stays on the CPU, sizes not published.

    Two bounds, both our inference. A side of 1 stretched to more: the first unmapped operator of
    DeepLab v3 (1x1 to 33x33). Input and output together over the activation memory: 256x256x32 to
    512x512x32 is refused, 64x64x32 to 128x128x32 is mapped (google-coral/edgetpu#31), and
    512x512x3 to 1024x1024x3 is refused (#597).
    """
    data, result = graph.input(operator, 0), graph.results(operator)[0]
    if data is None or len(data.shape) != 4 or len(result.shape) != 4:
        return None
    if data.shape[0] != 1:
        return Breach("batch-1", f"its batch is {data.shape[0]}", "export with a batch of 1")
    stretched = [b for a, b in zip(data.shape[1:3], result.shape[1:3], strict=True) if a == 1 < b]
    if stretched:
        return Breach(
            "resize-size",
            f"it stretches a single pixel to {shape_text(result)}, which loses precision",
            "broadcast by an addition or multiplication instead",
        )
    if data.size + result.size > ACTIVATION_MEMORY_BYTES:
        return Breach(
            "resize-size",
            f"its input and output ({shape_text(data)} to {shape_text(result)}) do not fit the"
            f" activation memory of {ACTIVATION_MEMORY_BYTES:,} bytes",
            "resize fewer channels, to a smaller size, or after the model",
        )
    return None


def softmax_size(graph: Graph, operator: Operator, runtime: int) -> Breach | None:
    """Coral asks for one dimension; compiler 16 takes rows as well (YOLO v8 has 4x1344x16)."""
    data = graph.input(operator, 0)
    if data is None or not data.shape:
        return None
    if prod(data.shape[:-1]) != 1 and runtime < 14:
        return Breach(
            "softmax-1d",
            f"its input {shape_text(data)} is not one-dimensional, which needs runtime 14",
            "leave it to the end of the model or take the argmax of the logits",
        )
    if data.shape[-1] > MAX_SOFTMAX_ITEMS:
        return Breach(
            "softmax-size",
            f"it has rows of {data.shape[-1]:,} elements and {MAX_SOFTMAX_ITEMS:,} are the limit",
            "leave it out of the model",
        )
    return None


def transpose_size(graph: Graph, operator: Operator, runtime: int) -> Breach | None:
    """Inferred: one tile moves the data, so input and output must fit its memory.

    In compiled YOLO files 32x32x68 and 4x16x1344 (86,016) are mapped, 40x40x64 and 20x20x256
    (102,400) are not.
    """
    data, result = graph.input(operator, 0), graph.results(operator)[0]
    if data is None or data.size + result.size <= TILE_MEMORY_BYTES:
        return None
    return Breach(
        "transpose-size",
        f"its input and output ({shape_text(data)} to {shape_text(result)}) do not fit the"
        f" {TILE_MEMORY_BYTES:,} bytes of a tile",
        "leave the transposition to the host: end the model before it",
    )


def reshape_size(graph: Graph, operator: Operator, runtime: int) -> Breach | None:
    """Coral: 'certain reshapes may not be mapped for large tensor sizes'; the sizes are inferred.

    Rows lie on different tiles, a single row on one. In compiled YOLO v5 files 1200x85 is mapped,
    19200x15 and 4800x85 are not; 40x40x255 to 1600x3x85 is mapped, 80x80x255 is not.
    """
    data, result = graph.input(operator, 0), graph.results(operator)[0]
    if data is None:
        return None
    if data.size + result.size > ACTIVATION_MEMORY_BYTES:
        room, of = ACTIVATION_MEMORY_BYTES, "activation memory"
    elif prod(result.shape[:-2]) == 1 and result.size > TILE_MEMORY_BYTES:
        room, of = TILE_MEMORY_BYTES, "a tile"
    else:
        return None
    return Breach(
        "reshape-size",
        f"{shape_text(data)} to {shape_text(result)} does not fit the {room:,} bytes of {of}",
        "leave the reshape to the host: end the model before it",
    )


def tile_not_on_batch(graph: Graph, operator: Operator, runtime: int) -> Breach | None:
    times = graph.input(operator, 1)
    values = times.array() if times is not None else None
    if values is None:
        return Breach("constant-parameters", "its multiples are computed at run time", "fix them")
    if values.size >= 4 and values.reshape(-1)[0] != 1:
        return Breach("not-on-batch", "it repeats the batch dimension", "keep the batch out of it")
    return None


def plain_strides(graph: Graph, operator: Operator, runtime: int) -> Breach | None:
    tensor = graph.input(operator, 3)
    strides = tensor.array() if tensor is not None else None
    if strides is None or np.any(strides != 1):
        return Breach("strides-1", "its strides are not all 1", "slice without steps")
    if operator.options["ellipsis_mask"] or operator.options["new_axis_mask"]:
        return Breach(
            "no-ellipsis-or-new-axis",
            "it has an ellipsis or a new axis",
            "write the slice of every axis out, and reshape apart",
        )
    return None


def requantises(graph: Graph, operator: Operator, runtime: int) -> Breach | None:
    """QUANTIZE maps between 8-bit types only; compilers' logs show the float ones unmapped."""
    data = graph.input(operator, 0)
    if data is None or data.dtype in EIGHT_BIT:
        return None
    return Breach(
        "eight-bit",
        f"its input is {data.dtype}",
        "export the model with int8 or uint8 inputs and outputs",
    )
