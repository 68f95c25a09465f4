"""A TensorFlow SavedModel folder, by its signature `serving_default`."""

from __future__ import annotations

from lepton_edge import errors
from lepton_edge.model import Array, Feeds, Model, ModelSource, TensorSpec
from lepton_edge.sources import _build, _check, _tensorflow
from lepton_edge.sources._count_savedmodel import count

__all__ = ["count", "load"]

SIGNATURE = "serving_default"


def load(source: ModelSource) -> Model:
    """`native` is the folder's path. Raises `BadInput` where there is no such signature."""
    tf = _tensorflow.library()
    try:
        loaded = tf.saved_model.load(str(source.file))
    except (OSError, ValueError, KeyError, RuntimeError, tf.errors.OpError) as error:
        first = str(error).strip().splitlines()[0]
        raise _check.damaged(source.file, first.rstrip("."), "SavedModel") from None
    if SIGNATURE not in loaded.signatures:
        raise errors.BadInput(
            f"{source.path!r} has no signature {SIGNATURE!r}; it has {list(loaded.signatures)}.",
            next="Save it with a serving signature, as model.export does.",
        )
    function = loaded.signatures[SIGNATURE]
    inputs = [_spec(name, spec) for name, spec in function.structured_input_signature[1].items()]
    outputs = [_spec(name, spec) for name, spec in function.structured_outputs.items()]
    names = [spec.name for spec in outputs]

    def run(feeds: Feeds) -> dict[str, Array]:
        # The function holds its variables weakly: `loaded` must live as long as it does.
        assert loaded is not None
        tensors = {spec.name: tf.constant(feeds[spec.name]) for spec in inputs}
        return _tensorflow.named(function(**tensors), names)

    return _build.from_file("savedmodel", source, str(source.file), inputs, outputs, run)


def _spec(name: str, spec: object) -> TensorSpec:
    shape, dtype = spec.shape, spec.dtype  # type: ignore[attr-defined]
    return TensorSpec(name, tuple(shape), dtype.name)
