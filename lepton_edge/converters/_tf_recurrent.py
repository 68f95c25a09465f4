"""Keras' LSTM, GRU and SimpleRNN as ONNX's LSTM, GRU and RNN.

Keras computes them in a loop over TensorFlow's tensor lists, which tf2onnx writes as a Loop: slow
in ONNX Runtime, and not read by OpenVINO's quantiser or TensorRT. While a model is traced, each
such layer leaves a mark with its input and its first states; tf2onnx then asks for what stands for
the mark. Operators as in onnx/docs/Operators.md.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from lepton_edge.model import Array

MARK = "EagerPyFunc"  # what tf.py_function leaves in a graph
_NAME = "lepton_edge_recurrent"
_ACTIVATIONS = {"tanh": "Tanh", "sigmoid": "Sigmoid", "relu": "Relu"}

Handler = Callable[[Any, Any, str, Any], None]
_Weights = tuple[Array, Array, Array | None]


def has_layers(native: Any) -> bool:
    """Whether a Keras model has a recurrent layer that ONNX's operators can stand for."""
    return any(_kind(each) for each in native._flatten_layers() if hasattr(each, "cell"))


@contextlib.contextmanager
def marked() -> Iterator[Handler]:
    """Has layers that are called leave marks; yields what tf2onnx is to write for them."""
    import keras
    import tensorflow as tf

    layers: list[tuple[Any, _Weights]] = []
    kinds = (keras.layers.LSTM, keras.layers.GRU, keras.layers.SimpleRNN)
    before = [vars(kind).get("inner_loop") for kind in kinds]

    def around(original: Any) -> Any:
        def inner_loop(
            self: Any, sequences: Any, initial_state: Any, mask: Any, training: bool = False
        ) -> Any:
            # A mask ends each sequence at a step of its own.
            if mask is not None or training or not _kind(self):
                return original(self, sequences, initial_state, mask=mask, training=training)
            with tf.init_scope():  # where variables have values
                layers.append((self, _weights(self)))
            return _mark(self, sequences, initial_state, len(layers) - 1)

        return inner_loop

    for kind in kinds:
        kind.inner_loop = around(kind.inner_loop)
    try:
        yield lambda graph, node, name, _: _write(graph, node, layers, name)
    finally:
        for kind, own in zip(kinds, before, strict=True):
            if own is None:  # inherited
                del kind.inner_loop
            else:
                kind.inner_loop = own


def _kind(layer: Any) -> str | None:
    """LSTM, GRU or RNN, where the operator computes what the layer does."""
    import keras

    layers = keras.layers
    kinds = {layers.LSTM: "LSTM", layers.GRU: "GRU", layers.SimpleRNN: "RNN"}
    kind = kinds.get(type(layer))
    known = kind is not None and all(each in _ACTIVATIONS for each in _activations(layer, kind))
    return kind if known and layer.compute_dtype == "float32" else None


def _activations(layer: Any, kind: str) -> list[str]:
    """Of the gates, where there are any, and inside, by their names in Keras."""
    gates = [] if kind == "RNN" else [layer.cell.recurrent_activation]
    found = gates + [layer.cell.activation] * (2 if kind == "LSTM" else 1)
    return [getattr(each, "__name__", "") for each in found]


def _mark(layer: Any, sequences: Any, states: Sequence[Any], index: int) -> tuple[Any, Any, Any]:
    import tensorflow as tf

    given = [] if all(map(_zero, states)) else list(states)
    found = tf.py_function(
        lambda *_: None,
        [sequences, *given],
        [tf.float32] * (1 + len(states)),
        name=f"{_NAME}_{index}_",
    )
    batch, steps = sequences.shape[0], sequences.shape[1]
    outputs = tf.ensure_shape(found[0], (batch, steps, layer.units))
    last = [tf.ensure_shape(each, (batch, layer.units)) for each in found[1:]]
    return last[0], outputs, last


def _zero(state: Any) -> bool:
    """Whether the first state is known to be nothing."""
    import tensorflow as tf

    value = tf.get_static_value(state)
    if value is None and state.op.type == "Fill":
        value = tf.get_static_value(state.op.inputs[1])
    return value is not None and not np.any(value)


def _write(graph: Any, node: Any, layers: Sequence[tuple[Any, _Weights]], name: str) -> None:
    """Puts the operator in the place of a mark."""
    from tf2onnx.graph_builder import GraphBuilder

    found = re.search(rf"{_NAME}_(\d+)_", name)
    if found is None:
        raise ValueError(f"the graph calls Python ({name})")
    layer, (weight, recurrent, bias) = layers[int(found[1])]
    kind = _kind(layer)
    assert kind is not None
    (sequences, *states), outputs = list(node.input), list(node.output)
    shapes = [graph.get_shape(each) for each in outputs]
    dtypes = [graph.get_dtype(each) for each in outputs]
    graph.remove_node(node.name)
    build = GraphBuilder(graph)

    def constant(value: Any, what: str) -> str:
        array = np.ascontiguousarray(value, np.float32)
        return str(graph.make_const(f"{name}/{what}", array).output[0])

    inputs = [
        graph.make_node("Transpose", [sequences], attr={"perm": [1, 0, 2]}).output[0],
        constant(weight[None], "W"),
        constant(recurrent[None], "R"),
        "" if bias is None else constant(bias[None], "B"),
        "",  # all sequences have one length
        *(build.make_unsqueeze({"data": state, "axes": [0]}) for state in states),
    ]
    attributes: dict[str, Any] = {
        "hidden_size": layer.units,
        "direction": "reverse" if layer.go_backwards else "forward",
        "activations": [_ACTIVATIONS[each] for each in _activations(layer, kind)],
    }
    if kind == "GRU":
        attributes["linear_before_reset"] = int(layer.cell.reset_after)
    while not inputs[-1]:
        del inputs[-1]
    made = graph.make_node(kind, inputs, attr=attributes, output_count=len(outputs)).output
    steps = build.make_squeeze({"data": made[0], "axes": [1]})
    if layer.go_backwards:  # Keras gives the steps in the order in which it took them
        steps = build.make_slice(
            {"data": steps, "starts": [-1], "ends": [-(2**31)], "axes": [0], "steps": [-1]}
        )
    graph.make_node(
        "Transpose", [steps], attr={"perm": [1, 0, 2]}, outputs=[outputs[0]],
        shapes=[shapes[0]], dtypes=[dtypes[0]],
    )  # fmt: skip
    for value, output, shape, dtype in zip(
        made[1:], outputs[1:], shapes[1:], dtypes[1:], strict=True
    ):
        build.make_squeeze(
            {"data": value, "axes": [0], "outputs": [output]}, shapes=[shape], dtypes=[dtype]
        )


def _weights(layer: Any) -> _Weights:
    """W and R [gates * units, size] and B [2 * gates * units] or None, in the order of ONNX."""
    # Keras' order is input, forget, cell, output; ONNX's input, output, forget, cell. A GRU's
    # gates are in one order: update, reset, hidden.
    order = {"LSTM": [0, 3, 1, 2], "GRU": [0, 1, 2], "RNN": [0]}[_kind(layer) or ""]

    def ordered(value: Any) -> Array:
        parts = np.split(np.asarray(value), len(order), axis=-1)
        return np.concatenate([parts[each] for each in order], axis=-1)

    cell = layer.cell
    weight, recurrent = (ordered(each).T for each in (cell.kernel, cell.recurrent_kernel))
    if cell.bias is None:
        return weight, recurrent, None
    bias = ordered(cell.bias)
    both = bias if bias.ndim == 2 else np.stack([bias, np.zeros_like(bias)])
    return weight, recurrent, both.reshape(-1)
