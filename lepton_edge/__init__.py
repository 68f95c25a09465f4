"""Make a trained model small and fast for one device, and prove that it is still accurate.

Importing this package loads neither torch nor TensorFlow; each name below is loaded when used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lepton_edge.accuracy import evaluate
    from lepton_edge.artifact import Artifact, open_artifact
    from lepton_edge.compression import distil, finetune, finetune_int8, prune
    from lepton_edge.conversion import convert
    from lepton_edge.errors import EdgeError
    from lepton_edge.inspection import inspect
    from lepton_edge.latency import benchmark, compare
    from lepton_edge.loading import load
    from lepton_edge.model import Model, ModelSource, Signature, TensorSpec
    from lepton_edge.parity import verify
    from lepton_edge.preprocess import Preprocess
    from lepton_edge.samples import Sample, Samples, open_samples
    from lepton_edge.session import Session
    from lepton_edge.target import Target

__version__ = "0.1.0"

_HOMES = {
    "accuracy": ("evaluate",),
    "artifact": ("Artifact", "open_artifact"),
    "compression": ("distil", "finetune", "finetune_int8", "prune"),
    "conversion": ("convert",),
    "errors": ("EdgeError",),
    "inspection": ("inspect",),
    "latency": ("benchmark", "compare"),
    "loading": ("load",),
    "model": ("Model", "ModelSource", "Signature", "TensorSpec"),
    "parity": ("verify",),
    "preprocess": ("Preprocess",),
    "samples": ("Sample", "Samples", "open_samples"),
    "session": ("Session",),
    "target": ("Target",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Artifact",
    "EdgeError",
    "Model",
    "ModelSource",
    "Preprocess",
    "Sample",
    "Samples",
    "Session",
    "Signature",
    "Target",
    "TensorSpec",
    "benchmark",
    "compare",
    "convert",
    "distil",
    "evaluate",
    "finetune",
    "finetune_int8",
    "inspect",
    "load",
    "open_artifact",
    "open_samples",
    "prune",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lepton_edge' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"lepton_edge.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
