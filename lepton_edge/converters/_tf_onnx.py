"""Keras, SavedModel and TFLite to ONNX with tf2onnx."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from lepton_edge import errors
from lepton_edge.converters import _tf_recurrent
from lepton_edge.converters._float_onnx import backend, first_line
from lepton_edge.model import Model, Signature

if TYPE_CHECKING:
    import onnx


# tf2onnx copies the graph with its weights at each step of its own, some thirty times in all.
_LARGE_BYTES, _LARGE_ITEMS = 64 * 2**20, 2**18
_LARGE_LAYERS = ("Conv1D", "Conv2D", "Conv3D", "Dense", "Embedding", "EinsumDense")


def export(
    model: Model, signature: Signature, *, opset: int, lean: bool = False
) -> tuple[onnx.ModelProto, dict[str, Any], tuple[str, ...]]:
    """The graph, the step's record, and the libraries that took part.

    `lean` keeps the large weights of a Keras model out of tf2onnx, which leaves operators on them
    in the graph (a transposition, a folded normalisation) for onnxslim to work out.
    """
    backend("tensorflow", "TensorFlow", "tf2onnx")
    tf2onnx = backend("tf2onnx", "tf2onnx", "tf2onnx")
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    proto: onnx.ModelProto
    try:
        with warnings.catch_warnings():
            # tf2onnx and TensorFlow use parts of numpy and Python that are going away.
            warnings.simplefilter("ignore")
            if model.framework == "tflite":
                proto, _ = tf2onnx.convert.from_tflite(str(model.native), opset=opset)
            else:
                held = _large_weights(model.native) if lean and model.framework == "keras" else []
                function = call(model, signature, held)
                with _inlined(), _tf_recurrent.marked() as write:
                    proto, _ = tf2onnx.convert.from_function(
                        function,
                        input_signature=function.input_signature,
                        opset=opset,
                        custom_op_handlers={_tf_recurrent.MARK: (write, [])},
                    )
                _store(proto, function, held)
                _write_erfc(proto)
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise errors.CannotConvert(
            f"tf2onnx cannot export this model to opset {opset}: {first_line(error)}.",
            next="Pass another opset, or convert to tflite.",
        ) from None
    return proto, {"step": "export", "tool": "tf2onnx", "opset": opset}, ("tf2onnx", "tensorflow")


@contextlib.contextmanager
def _inlined() -> Iterator[None]:
    """Functions called while one is traced become part of it: Keras' grouped convolution is one
    that tf2onnx cannot open."""
    import tensorflow as tf

    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def _write_erfc(proto: onnx.ModelProto) -> None:
    """ONNX has no Erfc, as Keras' GELU has it: 1 - Erf instead."""
    import numpy as np
    from onnx import helper, numpy_helper

    nodes = list(proto.graph.node)
    found = [node for node in nodes if node.op_type == "Erfc"]
    for node in found:
        one, erf = f"{node.output[0]}/one", f"{node.output[0]}/erf"
        proto.graph.initializer.append(numpy_helper.from_array(np.ones((), np.float32), one))
        at = nodes.index(node)
        nodes[at : at + 1] = [
            helper.make_node("Erf", node.input, [erf], erf),
            helper.make_node("Sub", [one, erf], node.output, node.name),
        ]
    if found:
        del proto.graph.node[:]
        proto.graph.node.extend(nodes)


def _large_weights(native: Any) -> list[Any]:
    """The variables that make a model large, of layers that need not know their values."""
    variables = {
        id(variable): variable
        for layer in native._flatten_layers(include_self=False)
        if type(layer).__name__ in _LARGE_LAYERS
        for variable in layer.weights
        if prod(variable.shape) >= _LARGE_ITEMS
    }
    size = sum(4 * prod(variable.shape) for variable in native.weights)
    return list(variables.values()) if size >= _LARGE_BYTES else []


def _store(proto: onnx.ModelProto, function: Any, held: Sequence[Any]) -> None:
    """Puts the weights in place, and the tensors that the function holds from outside.

    Keras' Normalization, for one, has its mean in no variable; tf2onnx leaves it as an input.
    """
    import numpy as np
    from onnx import numpy_helper

    graph = function.get_concrete_function().graph
    values: dict[str, Any] = {
        inner.name: outer for outer, inner in graph.captures if outer.dtype.is_numpy_compatible
    }
    values |= {_weight(index): variable for index, variable in enumerate(held)}
    for given in [each for each in proto.graph.input if each.name in values]:
        proto.graph.input.remove(given)
        array = np.asarray(values[given.name])
        proto.graph.initializer.append(numpy_helper.from_array(array, given.name))


def _weight(index: int) -> str:
    return f"weight_{index}"


def call(model: Model, signature: Signature, held: Sequence[Any] = ()) -> Any:
    """A tf.function of tensors in the signature's order to a list of its outputs in order.

    `held` are variables whose values come as further tensors, after those.
    """
    import tensorflow as tf

    names = [spec.name for spec in signature.outputs]
    keras = model.framework == "keras"
    invoke = _keras(model, signature, held) if keras else _saved(model, signature)

    def run(*arguments: Any) -> list[Any]:
        outputs = invoke(*arguments)
        if isinstance(outputs, Mapping):
            by_name = set(outputs) == set(names)
            return [outputs[name] for name in names] if by_name else list(outputs.values())
        return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]

    return tf.function(
        run,
        input_signature=[
            *(
                tf.TensorSpec(spec.shape, tf.dtypes.as_dtype(spec.dtype), name=f"input_{index}")
                for index, spec in enumerate(signature.inputs)
            ),
            *(
                tf.TensorSpec(variable.shape, variable.dtype, name=_weight(index))
                for index, variable in enumerate(held)
            ),
        ],
    )


def _keras(model: Model, signature: Signature, held: Sequence[Any]) -> Callable[..., Any]:
    import keras

    native, names = model.native, [spec.name for spec in signature.inputs]
    own = [tensor.name for tensor in native.inputs]

    def invoke(*arguments: Any) -> Any:
        inputs, weights = arguments[: len(names)], arguments[len(names) :]
        with keras.StatelessScope(state_mapping=list(zip(held, weights, strict=True))):
            if isinstance(native, keras.Sequential):
                return native(inputs[0], training=False)
            given = dict(zip(names if set(own) == set(names) else own, inputs, strict=True))
            return native(
                keras.tree.map_structure(lambda tensor: given[tensor.name], native.input),
                training=False,
            )

    return invoke


def _saved(model: Model, signature: Signature) -> Callable[..., Any]:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(model.native))
    serving = loaded.signatures["serving_default"]
    names = [spec.name for spec in signature.inputs]

    def invoke(*arguments: Any, keep: Any = loaded) -> Any:  # the function dies with its model
        return serving(**dict(zip(names, arguments, strict=True)))

    return invoke
