"""Counts of Keras models, layer by layer, from the shapes of their outputs."""

from __future__ import annotations

import re
from collections import Counter
from math import prod
from typing import Any

from lepton_edge.model import Model
from lepton_edge.sources._counts import Counts

# These multiply their inputs with each other, and have no weights that would show it.
_PRODUCT = re.compile(r"^Dot$|Matmul|Einsum|Tensordot|Attention|Vdot|^Inner$")
_RECURRENT = {"LSTM", "GRU", "SimpleRNN"}
# Two-dimensional weights that are looked up or normalise, not multiplied.
_NO_PRODUCT = {"Embedding", "BatchNormalization", "LayerNormalization", "Normalization"}


def count(model: Model) -> Counts:
    """MACs are None where a layer with matrices is of a kind that is not known here."""
    layers = [layer for layer in model.native._flatten_layers() if not _is_container(layer)]
    operators = Counter(type(layer).__name__ for layer in layers)
    parameters = model.native.count_params()
    macs = 0
    for layer in layers:
        found = _macs(layer)
        if found is None:
            why = f"the products of the layer {layer.name!r} ({type(layer).__name__})"
            return Counts(operators, parameters, None, f"{why} are not known here")
        macs += found
    return Counts(operators, parameters, macs)


def _is_container(layer: Any) -> bool:
    return hasattr(layer, "layers") or type(layer).__name__ == "InputLayer"


def _macs(layer: Any) -> int | None:
    kind = type(layer).__name__
    if _PRODUCT.search(kind):
        return None
    matrices = [weight for weight in layer.weights if len(weight.shape) >= 2]
    if not matrices or kind in _NO_PRODUCT:
        return 0
    try:
        given, made = tuple(layer.input.shape), tuple(layer.output.shape)
    except (AttributeError, ValueError):  # called more than once, or never on its own
        return None
    first = layer.data_format == "channels_first" if hasattr(layer, "data_format") else False
    elements = sum(prod(weight.shape) for weight in matrices)
    if kind == "Dense":
        return _times(elements, made[1:-1])
    if kind in _RECURRENT:
        return _times(elements, given[1:2])
    if kind in ("Conv1D", "Conv2D", "Conv3D", "DepthwiseConv1D", "DepthwiseConv2D"):
        return _times(elements, made[2:] if first else made[1:-1])
    if kind in ("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"):
        return _times(elements, given[2:] if first else given[1:-1])
    return None


def _times(elements: int, positions: tuple[int | None, ...]) -> int | None:
    if any(size is None for size in positions):
        return None
    return elements * prod(size for size in positions if size is not None)
