"""ONNX's LSTM and GRU in PyTorch, with gradients: definitions as in onnx/docs/Operators.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

# Where PyTorch's gates stand in ONNX's order: i f g o in i o f c, r z n in z r h.
_GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2)}
_ACTIVATIONS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"]}
_OTHER = ("clip", "input_forget", "layout", "activation_alpha", "activation_beta")


def recurrent(kind: str, a: Mapping[str, Any], x: Sequence[Any]) -> tuple[Tensor, ...]:
    """The steps [T, directions, B, H] and the last states [directions, B, H]."""
    sequences, weights, hidden = x[0], x[1], x[2]
    bias, lengths, first, cell, peepholes = [*x[3:], *[None] * 5][:5]
    direction = a.get("direction", b"forward").decode()
    sides = len(weights)
    names = [each.decode() for each in a.get("activations") or []]
    usual = not names or names == _ACTIVATIONS[kind] * sides
    reset = kind == "LSTM" or bool(a.get("linear_before_reset", 0))
    if lengths is not None or peepholes is not None or not (usual and reset):
        raise NotImplementedError(f"{kind} with other activations, lengths or peepholes")
    if any(a.get(each) for each in _OTHER):
        raise NotImplementedError(
            f"{kind} with {', '.join(each for each in _OTHER if a.get(each))}"
        )
    size, gates = hidden.shape[2], len(_GATES[kind])

    def ordered(value: Tensor) -> Tensor:
        parts = torch.split(value, size)
        return torch.cat([parts[each] for each in _GATES[kind]])

    flat = []
    for side in range(sides):
        flat += [ordered(weights[side]), ordered(hidden[side])]
        if bias is not None:
            flat += [ordered(each) for each in torch.split(bias[side], gates * size)]
    zeros = sequences.new_zeros(sides, sequences.shape[1], size)
    states = [zeros if each is None else each for each in (first, cell)]
    backward = direction == "reverse"
    given = sequences.flip(0) if backward else sequences
    options = (bias is not None, 1, 0.0, False, direction == "bidirectional", False)
    if kind == "LSTM":
        steps, *last = torch.lstm(given, states, flat, *options)
    else:
        steps, *last = torch.gru(given, states[0], flat, *options)
    steps = steps.flip(0) if backward else steps
    apart = steps.reshape(*steps.shape[:2], sides, size)
    return (apart.permute(0, 2, 1, 3), *last)
