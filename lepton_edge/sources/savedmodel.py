"""A TensorFlow SavedModel folder, by its signature `serving_default`."""

from __future__ import annotations

import re

from lepton_edge import errors
from lepton_edge.model import Array, Feeds, Model, ModelSource, TensorSpec
from lepton_edge.sources import _build, _check, _tensorflow
from lepton_edge.sources._count_savedmodel import count

__all__ = ["count", "load"]

SIGNATURE = "serving_default"
_FILES = re.compile(
    r"(Read|Write|Delete|Rename)File|MatchingFiles|WholeFileReader(V2)?|(Eager)?PyFunc(Stateless)?"
    r"|(TFRecord|TextLine|FixedLengthRecord)(Reader|Dataset)(V2)?|(Save|Load|Snapshot)Dataset(V2)?"
    r"|DatasetToTFRecord|CacheDataset(V2)?|CreateSummary\w+|LoadAndRemapMatrix|Rpc\w*|XlaLaunch\w*"
)


def load(source: ModelSource) -> Model:
    """`native` is the folder's path. Raises `BadInput` where there is no such signature."""
    tf = _tensorflow.library()
    _refuse_file_access(source)
    try:
        loaded = tf.saved_model.load(str(source.file))
    except (OSError, ValueError, KeyError, RuntimeError, tf.errors.OpError) as error:
        raise _check.damaged(source.file, _check.first_line(error), "SavedModel") from None
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


def _refuse_file_access(source: ModelSource) -> None:
    """A SavedModel is a program, which TensorFlow runs in part while it loads it.

    Only the operators of its own saving and restoring may open files.
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorflow.core.protobuf import saved_model_pb2

    try:
        saved = saved_model_pb2.SavedModel.FromString((source.file / "saved_model.pb").read_bytes())
    except (DecodeError, OSError) as error:
        raise _check.damaged(source.file, _check.first_line(error), "SavedModel") from None
    for graph in (meta.graph_def for meta in saved.meta_graphs):
        for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
            found = next((node.op for node in nodes if _FILES.fullmatch(node.op)), None)
            if found is not None:
                raise errors.BadInput(
                    f"{source.path!r} is not opened: its operator {found} reaches files or code"
                    " outside of the model.",
                    next="Export the model without it.",
                )


def _spec(name: str, spec: object) -> TensorSpec:
    shape, dtype = spec.shape, spec.dtype  # type: ignore[attr-defined]
    return TensorSpec(name, tuple(shape), dtype.name)
