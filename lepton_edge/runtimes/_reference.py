"""A session over a model's source: what every artefact is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lepton_edge.artifact import Artifact
from lepton_edge.model import Array, Model
from lepton_edge.session import Session


@dataclass(frozen=True)
class Options:
    """The references have no options: they run the model as it is."""


class ReferenceSession(Session):
    def __init__(self, artifact: Artifact, model: Model, facts: Mapping[str, Any]) -> None:
        self._names = tuple(spec.name for spec in model.signature.inputs)
        self._wanted = tuple(spec.name for spec in model.signature.outputs)
        super().__init__(
            artifact,
            signature=model.signature,
            file_inputs=self._names,
            file_outputs=self._wanted,
            facts=facts,
        )
        self._model: Model | None = model

    def _invoke(self, arrays: list[Array]) -> Sequence[Array]:
        assert self._model is not None
        results = self._model.run(dict(zip(self._names, arrays, strict=True)))
        values = [results[name] for name in self._wanted]
        # TensorFlow's arrays are read-only views of its tensors; outputs are the caller's.
        return [value if value.flags.writeable else value.copy() for value in values]

    def _release(self) -> None:
        self._model = None
