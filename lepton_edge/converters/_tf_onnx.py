"""Keras, SavedModel and TFLite to ONNX with tf2onnx."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from lepton_edge import errors
from lepton_edge.converters._float_onnx import backend, first_line
from lepton_edge.model import Model, Signature

if TYPE_CHECKING:
    import onnx


def export(
    model: Model, signature: Signature, *, opset: int
) -> tuple[onnx.ModelProto, dict[str, Any], tuple[str, ...]]:
    """The graph, the step's record, and the libraries that took part."""
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
                function = call(model, signature)
                proto, _ = tf2onnx.convert.from_function(
                    function, input_signature=function.input_signature, opset=opset
                )
                _captured_are_constants(proto, function)
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise errors.CannotConvert(
            f"tf2onnx cannot export this model to opset {opset}: {first_line(error)}.",
            next="Pass another opset, or convert to tflite.",
        ) from None
    return proto, {"step": "export", "tool": "tf2onnx", "opset": opset}, ("tf2onnx", "tensorflow")


def _captured_are_constants(proto: onnx.ModelProto, function: Any) -> None:
    """Stores the tensors that the function holds from outside, which tf2onnx leaves as inputs.

    Keras' Normalization, for one, has its mean in no variable.
    """
    from onnx import numpy_helper

    graph = function.get_concrete_function().graph
    held = {
        inner.name: outer.numpy()
        for outer, inner in graph.captures
        if outer.dtype.is_numpy_compatible
    }
    for given in [each for each in proto.graph.input if each.name in held]:
        proto.graph.input.remove(given)
        proto.graph.initializer.append(numpy_helper.from_array(held[given.name], given.name))


def call(model: Model, signature: Signature) -> Any:
    """A tf.function of tensors in the signature's order to a list of its outputs in order."""
    import tensorflow as tf

    names = [spec.name for spec in signature.outputs]
    invoke = _keras(model, signature) if model.framework == "keras" else _saved(model, signature)

    def run(*arguments: Any) -> list[Any]:
        outputs = invoke(*arguments)
        if isinstance(outputs, Mapping):
            by_name = set(outputs) == set(names)
            return [outputs[name] for name in names] if by_name else list(outputs.values())
        return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]

    return tf.function(
        run,
        input_signature=[
            tf.TensorSpec(spec.shape, tf.dtypes.as_dtype(spec.dtype), name=f"input_{index}")
            for index, spec in enumerate(signature.inputs)
        ],
    )


def _keras(model: Model, signature: Signature) -> Callable[..., Any]:
    import keras

    native, names = model.native, [spec.name for spec in signature.inputs]
    own = [tensor.name for tensor in native.inputs]

    def invoke(*arguments: Any) -> Any:
        if isinstance(native, keras.Sequential):
            return native(arguments[0], training=False)
        given = dict(zip(names if set(own) == set(names) else own, arguments, strict=True))
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
