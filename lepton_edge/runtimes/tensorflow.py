"""The reference for Keras models and SavedModels: the source itself, run by TensorFlow."""

from __future__ import annotations

from typing import Any

from lepton_edge import errors, sources
from lepton_edge.artifact import Artifact
from lepton_edge.runtimes import _common
from lepton_edge.runtimes._reference import Options, ReferenceSession
from lepton_edge.session import Session

__all__ = ["Options", "open_session"]


def open_session(
    artifact: Artifact, *, device: str = "cpu", threads: int | None = None, options: Options
) -> Session:
    """Loads `artifact.model` and runs it. TensorFlow takes one number of threads a process."""
    _common.only_cpu(device, "tensorflow")
    if artifact.model is None:
        raise errors.UsageError(
            "The tensorflow runtime runs a model's source, not an exported file."
        )
    tf = _common.backend("tensorflow", library="TensorFlow", extra="tensorflow")
    _set_threads(tf, _common.thread_count(threads), asked=threads is not None)
    model = sources.load(artifact.model)
    facts = {
        "runtime": "tensorflow",
        "version": tf.__version__,
        "device": device,
        "framework": model.framework,
        # None: TensorFlow was running already, with as many as it chose itself.
        "threads": tf.config.threading.get_intra_op_parallelism_threads() or None,
        "inter_op_threads": tf.config.threading.get_inter_op_parallelism_threads(),
        "precision": None,  # each tensor's own
        "placement": None,
    }
    # TensorFlow's arrays are views of its tensors.
    return ReferenceSession(artifact, model, facts, read_only=True)


def _set_threads(tf: Any, count: int, *, asked: bool) -> None:
    threading = tf.config.threading
    try:
        threading.set_intra_op_parallelism_threads(count)
        threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:
        # It has started already: fine where it did with the same number, or none was asked for.
        now = threading.get_intra_op_parallelism_threads()
        if asked and now != count:
            raise errors.UsageError(
                f"TensorFlow already runs in this process with {now or 'its own choice of'}"
                f" threads, so it cannot use {count}.",
                next="Open the model in a fresh process, or without asking for threads.",
            ) from None
