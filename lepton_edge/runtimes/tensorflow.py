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
    count = _common.thread_count(threads)
    _set_threads(tf, count)
    model = sources.load(artifact.model)
    facts = {
        "runtime": "tensorflow",
        "version": tf.__version__,
        "device": device,
        "framework": model.framework,
        "threads": tf.config.threading.get_intra_op_parallelism_threads(),
        "inter_op_threads": tf.config.threading.get_inter_op_parallelism_threads(),
        "precision": None,  # each tensor's own
        "placement": None,
    }
    return ReferenceSession(artifact, model, facts)


def _set_threads(tf: Any, count: int) -> None:
    threading = tf.config.threading
    try:
        threading.set_intra_op_parallelism_threads(count)
        threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:
        # It has started already: fine where it started with the same numbers.
        now = threading.get_intra_op_parallelism_threads()
        if now != count:
            raise errors.UsageError(
                f"TensorFlow already runs in this process with {now} threads"
                f" (0 is its own choice), so it cannot use {count}.",
                next="Open the model in a fresh process, or ask for the same number of threads.",
            ) from None
