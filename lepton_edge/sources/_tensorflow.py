"""What Keras models and SavedModels share."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from lepton_edge.model import Array
from lepton_edge.sources import _build


def library() -> Any:
    """TensorFlow, without the lines it prints about the machine (a log level, nothing else)."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    return _build.backend("tensorflow", "TensorFlow", "tensorflow")


def named(outputs: Any, names: Sequence[str]) -> dict[str, Array]:
    """Outputs as arrays, by their own keys or in order."""
    if isinstance(outputs, Mapping):
        return {name: outputs[name].numpy() for name in names}
    values = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    return {name: value.numpy() for name, value in zip(names, values, strict=True)}
