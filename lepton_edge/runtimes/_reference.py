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
    """`read_only` says that the framework's arrays are, so that they are copied for the caller."""

    def __init__(
        self, artifact: Artifact, model: Model, facts: Mapping[str, Any], *, read_only: bool = False
    ) -> None:
        self._names = tuple(spec.name for spec in model.signature.inputs)
        self._wanted = tuple(spec.name for spec in model.signature.outputs)
        super().__init__(
            artifact,
            signature=model.signature,
            file_inputs=self._names,
            file_outputs=self._wanted,
            facts=facts,
        )
        self._run = model.run
        self._read_only = read_only

    def _invoke(self, arrays: list[Array]) -> Sequence[Array]:
        results = self._run(dict(zip(self._names, arrays, strict=True)))
        if self._read_only:
            return [results[name].copy() for name in self._wanted]
        return [results[name] for name in self._wanted]

    def _release(self) -> None:
        del self._run
