"""How many bytes of parameters a compiled model keeps on the chip, from the raw file.

The layout was read from compiled files by finding each layer's biases and weights in them:
every output channel has its 32-bit bias and its weights, the input channels padded to 4 (a cell
multiplies four at once), the output channels to 16, and to 64 where there are more than 64; each
layer starts at a multiple of 64. A depthwise layer takes four bytes a tap and channel. The chip
keeps whole layers; what does not fit is sent with every inference.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import prod

from lepton_edge.devices._tflite import Graph, Operator, Tensor

# 7.7 to 7.9 MiB are published for small activations, 7.0 MiB is typical of convolutional models,
# and it shrinks with activations: without compiling it cannot be known better.
USABLE_BYTES = 7 * 2**20
# What one LSTM holds beside its weights (tables of its functions): seen in one compiled model.
_LSTM_BYTES = 27_712
_LSTM_GATES = 4


@dataclass(frozen=True)
class Parameters:
    """Predicted bytes; `layers` counts those with parameters."""

    cached_bytes: int
    streamed_bytes: int
    layers: int

    def as_dict(self) -> dict[str, int]:
        return {"cached_bytes": self.cached_bytes, "streamed_bytes": self.streamed_bytes}


def predict(graph: Graph, mapped: Collection[int]) -> Parameters:
    """The parameters of the operators in `mapped` (indices), in the order of the file."""
    cached = streamed = layers = 0
    for operator in graph.operators:
        size = _bytes(graph, operator) if operator.index in mapped else 0
        layers += size > 0
        if cached + size <= USABLE_BYTES:
            cached += size
        else:
            streamed += size
    return Parameters(cached, streamed, layers)


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _outputs(channels: int) -> int:
    return _up(channels, 16 if channels <= 64 else 64)


def _bytes(graph: Graph, operator: Operator) -> int:
    name = operator.name
    if name == "SOFTMAX":
        return _softmax(graph.input(operator, 0))
    if name in ("CONCATENATION", "SPLIT"):
        return _selector(graph, operator)
    if name == "UNIDIRECTIONAL_SEQUENCE_LSTM":
        return _lstm(graph, operator)
    if name not in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"):
        return 0
    weights = graph.input(operator, 1)
    if weights is None or len(weights.shape) < 2:
        return 0
    bias = graph.input(operator, 3 if name == "TRANSPOSE_CONV" else 2)
    each = 4 if bias is not None else 0
    if len(weights.scales) > 1:
        # A scale a channel is stored as well. Inferred: with it, MobileNet EdgeTPU 0.75, its
        # layers written down from memory, comes to 3.72 MB; its compiled file holds 3.74.
        each += 4
    if name == "DEPTHWISE_CONV_2D":
        data, taps = graph.input(operator, 0), 4 * prod(weights.shape[1:-1])
        channels = weights.shape[-1]
        if data is not None and data.shape[-1:] == (1,):  # of one channel: a plain convolution
            channels = _outputs(channels)
        return _up(channels * (each + taps), 64)
    each += prod(weights.shape[1:-1]) * _up(weights.shape[-1], 4)
    return _up(_outputs(weights.shape[0]) * each, 64)


def _softmax(data: Tensor | None) -> int:
    """Three vectors of 16 bytes an element of a row that is no whole number of blocks of four.

    Rows of 10 and 1,001 have them, those of 16, 256, 4,096 and 16,384 have none.
    """
    row = data.shape[-1] if data is not None and data.shape else 0
    return 3 * 64 * -(-row // 4) if row % 4 else 0


def _selector(graph: Graph, operator: Operator) -> int:
    """Channels that do not move by whole groups of four are moved by a multiplication."""
    moved = graph.results(operator) if operator.name == "SPLIT" else graph.activations(operator)
    whole = graph.activations(operator) if operator.name == "SPLIT" else graph.results(operator)
    if not whole or not whole[0].shape or all(t.shape[-1:] == whole[0].shape[-1:] for t in moved):
        return 0
    if all(tensor.shape[-1] % 4 == 0 for tensor in moved):
        return 0
    return _up(4 * _outputs(whole[0].shape[-1]), 64)


def _lstm(graph: Graph, operator: Operator) -> int:
    size = _LSTM_BYTES
    for gate in range(_LSTM_GATES):
        inner, recurrent = graph.input(operator, 1 + gate), graph.input(operator, 5 + gate)
        if inner is None or recurrent is None:  # coupled gates leave one out
            continue
        channels = _up(inner.shape[0], 16)
        size += channels * (4 + _up(inner.shape[1], 4) + _up(recurrent.shape[1], 4))
    return _up(size, 64)
