"""Puts a `Model` together from a `keras.Model`: its signature, and a graph that runs it."""

from __future__ import annotations

from typing import Any

from lepton_edge.model import Array, Feeds, Model, ModelSource, TensorSpec
from lepton_edge.sources import _build, _tensorflow


def model_of(source: ModelSource, native: Any) -> Model:
    """Outputs have the names of the layers that make them, or the keys of the model's dict."""
    tf = _tensorflow.library()
    specs = [_spec(tensor.name, tensor) for tensor in native.inputs]
    names = output_names(native)
    outputs = [_spec(name, tensor) for name, tensor in zip(names, native.outputs, strict=True)]

    def call(*tensors: Any) -> Any:
        return native(given(native, tensors), training=False)

    # A graph, as Keras' own predict() makes: layer by layer, a MobileNet takes 3.5 times as long.
    # Traced once here, so that no call has to look for its trace.
    shapes = [tf.TensorSpec(spec.shape, tf.dtypes.as_dtype(spec.dtype)) for spec in specs]
    graph = tf.function(call, input_signature=shapes).get_concrete_function()

    def run(feeds: Feeds) -> dict[str, Array]:
        tensors = [tf.constant(feeds[spec.name]) for spec in specs]
        return _tensorflow.named(graph(*tensors), names)

    return _build.from_file("keras", source, native, specs, outputs, run)


def output_names(native: Any) -> list[str]:
    """In the order of `native.outputs`, where a dict's are sorted by their keys."""
    keras = _build.backend("keras", "Keras", "tensorflow")
    if isinstance(native, keras.Sequential):  # one output, and neither `output_names` nor `output`
        return [native.layers[-1].name]
    return sorted(native.output) if isinstance(native.output, dict) else list(native.output_names)


def given(native: Any, tensors: Any) -> Any:
    """Tensors in the order of the model's inputs, in the structure that it is called with."""
    struct = getattr(native, "_inputs_struct", None)
    if isinstance(struct, dict):
        ordered = [tensor.name for tensor in native.inputs]
        return {key: tensors[ordered.index(each.name)] for key, each in struct.items()}
    return tensors[0] if len(tensors) == 1 else list(tensors)


def named(native: Any, outputs: Any) -> dict[str, Any]:
    """What a call of the model returned, by the names of its outputs."""
    names = output_names(native)
    if isinstance(outputs, dict):
        return {name: outputs[name] for name in names}
    values = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    return dict(zip(names, values, strict=True))


def _spec(name: str, tensor: Any) -> TensorSpec:
    return TensorSpec(name, tuple(tensor.shape), str(tensor.dtype))
