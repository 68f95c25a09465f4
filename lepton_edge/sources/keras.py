"""A Keras model: .keras, or .h5. Loaded in safe mode: a Lambda layer is code and is refused."""

from __future__ import annotations

import re
from typing import Any

from lepton_edge import errors
from lepton_edge.model import Array, Feeds, Model, ModelSource, TensorSpec
from lepton_edge.sources import _build, _check, _tensorflow
from lepton_edge.sources._count_keras import count

__all__ = ["count", "load"]


def load(source: ModelSource) -> Model:
    """`native` is the `keras.Model`; outputs have the names of the layers that make them."""
    tf = _tensorflow.library()
    keras = _build.backend("keras", "Keras", "tensorflow")
    try:
        model = keras.saving.load_model(source.file, compile=False, safe_mode=True)
    except (ValueError, TypeError, OSError, KeyError, AttributeError, RuntimeError) as error:
        raise _refused(source, error) from None
    if not getattr(model, "inputs", None):
        raise errors.BadInput(
            f"{source.path!r} was saved before it was built: it has no inputs.",
            next="Call the model once on data, then save it again.",
        )
    inputs = [_spec(tensor.name, tensor) for tensor in model.inputs]
    if isinstance(model, keras.Sequential):  # one output, and neither `output_names` nor `output`
        names = [model.layers[-1].name]
    elif isinstance(model.output, dict):
        names = list(model.output)
    else:
        names = list(model.output_names)
    outputs = [_spec(name, tensor) for name, tensor in zip(names, model.outputs, strict=True)]
    ordered = [spec.name for spec in inputs]
    struct = getattr(model, "_inputs_struct", None)
    keys = {key: tensor.name for key, tensor in struct.items()} if isinstance(struct, dict) else {}

    def call(*tensors: Any) -> Any:
        given: Any = tensors[0] if len(tensors) == 1 else list(tensors)
        if keys:
            given = {key: tensors[ordered.index(name)] for key, name in keys.items()}
        return model(given, training=False)

    # A graph, as Keras' own predict() makes: layer by layer, a MobileNet takes 3.5 times as long.
    # Traced once here, so that no call has to look for its trace.
    shapes = [tf.TensorSpec(spec.shape, tf.dtypes.as_dtype(spec.dtype)) for spec in inputs]
    graph = tf.function(call, input_signature=shapes).get_concrete_function()

    def run(feeds: Feeds) -> dict[str, Array]:
        return _tensorflow.named(graph(*[tf.constant(feeds[name]) for name in ordered]), names)

    return _build.from_file("keras", source, model, inputs, outputs, run)


def _refused(source: ModelSource, error: Exception) -> errors.BadInput:
    """Keras' reason, by what its message is about; it tells no kinds of failure apart."""
    text = str(error)
    code = re.search(r"`?(Lambda|TFSMLayer|TorchModuleWrapper|JaxLayer|FlaxLayer)`?", text)
    if code or "lambda" in text:
        return errors.BadInput(
            f"{source.path!r} has a {code[1] if code else 'Lambda'} layer, which is code from a"
            " file and is not run.",
            next="Replace it by layers of Keras and save again.",
        )
    custom = re.search(r"Could not locate (?:class|function) '(\w+)'", text)
    if custom:
        return errors.BadInput(
            f"{source.path!r} has the layer or function {custom[1]!r}, whose code is not in Keras.",
            next="Save the model as a SavedModel, by model.export(folder), and give the folder.",
        )
    return _check.damaged(source.file, _check.first_line(error), "Keras")


def _spec(name: str, tensor: Any) -> TensorSpec:
    return TensorSpec(name, tuple(tensor.shape), str(tensor.dtype))
