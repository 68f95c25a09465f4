"""Passes that make a model smaller before it is converted: Model -> Model.

`Prune`, `Sparsify`, `Distil` and `Finetune` are frozen dataclasses, one a file, with
`__call__(model, training, out=...)`; a `Sequence` of passes is a pass. What a pass writes is a
folder whose `model.py:factory`, with the weights beside it, is a source like any other. A module
here with a constant `PASS` is a verb's pass, found by its name; its `frameworks` are those of the
models that it takes, and a Keras model is written as a .keras file. Importing this loads no torch
and no TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lepton_edge.compress._form import Form
    from lepton_edge.compress._sequence import Sequence
    from lepton_edge.compress._training import Training
    from lepton_edge.compress.distil import Distil
    from lepton_edge.compress.finetune import Finetune
    from lepton_edge.compress.prune import Prune
    from lepton_edge.compress.sparsify import Sparsify

__all__ = ["Distil", "Finetune", "Form", "Prune", "Sequence", "Sparsify", "Training"]

_HOME = {
    "Distil": "distil",
    "Finetune": "finetune",
    "Form": "_form",
    "Prune": "prune",
    "Sequence": "_sequence",
    "Sparsify": "sparsify",
    "Training": "_training",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
