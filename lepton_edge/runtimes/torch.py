"""The reference for models from PyTorch: the source itself, run by PyTorch on the CPU."""

from __future__ import annotations

from lepton_edge import errors, sources
from lepton_edge.artifact import Artifact
from lepton_edge.runtimes import _common
from lepton_edge.runtimes._reference import Options, ReferenceSession
from lepton_edge.session import Session

__all__ = ["Options", "open_session"]


def open_session(
    artifact: Artifact, *, device: str = "cpu", threads: int | None = None, options: Options
) -> Session:
    """Loads `artifact.model` and runs it. The number of threads is PyTorch's, for the process."""
    _common.only_cpu(device, "torch")
    if artifact.model is None:
        raise errors.UsageError("The torch runtime runs a model's source, not an exported file.")
    torch = _common.backend("torch", library="PyTorch", extra="torch")
    count = _common.thread_count(threads)
    torch.set_num_threads(count)
    model = sources.load(artifact.model)
    facts = {
        "runtime": "torch",
        "version": torch.__version__,
        "device": device,
        "framework": model.framework,
        "threads": torch.get_num_threads(),
        "precision": None,  # each tensor's own
        "placement": None,
    }
    return ReferenceSession(artifact, model, facts)
