"""A runtime that needs no hardware: zeros of the signature's shapes, after a known amount of work.

It checks the measuring itself: what the harness says of it can be compared with what it did. The
format `null` is an artefact folder whose one file says that there is no model in it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lepton_edge import __version__, errors
from lepton_edge.artifact import Artifact, Binding
from lepton_edge.model import Array, Signature, TensorSpec
from lepton_edge.runtimes import _common
from lepton_edge.session import Session

FILE = "model.null"


@dataclass(frozen=True)
class Options:
    """`busy_us` spins on the clock: each call takes that long, whatever the machine does.

    `work` multiplies a fixed 64 x 64 float32 matrix that many times: it takes as long as the
    machine needs, with all of its noise, so 110 is a copy of 100 that is slower by 10 %.
    """

    busy_us: float = 0.0
    work: int = 0


def write(folder: Path, signature: Signature) -> Artifact:
    """Writes a null artefact of this signature into an existing folder; returns it, saved."""
    (folder / FILE).write_text("A null model: it computes nothing.\n")
    return Artifact(folder, FILE, "null", signature=signature).save()


def open_session(
    artifact: Artifact, *, device: str = "cpu", threads: int | None = None, options: Options
) -> Session:
    """Opens any artefact with a signature; the exported file is not read."""
    _common.only_cpu(device, "null")
    if artifact.signature is None:
        raise errors.BadInput(f"{str(artifact.path)!r} has no signature to make outputs of.")
    facts = {
        "runtime": "null",
        "version": __version__,
        "device": device,
        "threads": _common.thread_count(threads),
        "busy_us": options.busy_us,
        "work": options.work,
        "precision": None,
        "placement": None,
    }
    return NullSession(artifact, artifact.signature, options, facts)


class NullSession(Session):
    def __init__(
        self, artifact: Artifact, signature: Signature, options: Options, facts: Mapping[str, Any]
    ) -> None:
        inputs = _in_file(signature.inputs, artifact.inputs)
        outputs = _in_file(signature.outputs, artifact.outputs)
        super().__init__(
            artifact,
            signature=Signature(inputs, outputs),
            file_inputs=[spec.name for spec in inputs],
            file_outputs=[spec.name for spec in outputs],
            facts=facts,
        )
        self._zeros = [(spec.shape, np.dtype(spec.dtype)) for spec in outputs]
        self._busy_ns = round(options.busy_us * 1000)
        self._work = options.work
        self._matrix = np.eye(64, dtype=np.float32)

    def _invoke(self, arrays: list[Array]) -> Sequence[Array]:
        if self._busy_ns:
            end = time.perf_counter_ns() + self._busy_ns
            while time.perf_counter_ns() < end:
                pass
        for _ in range(self._work):
            self._matrix @ self._matrix
        batch = arrays[0].shape[0] if arrays and arrays[0].ndim else 1
        return [
            np.zeros(tuple(batch if dim is None else dim for dim in shape), dtype)
            for shape, dtype in self._zeros
        ]

    def _release(self) -> None:
        """Nothing is held."""


def _in_file(specs: Sequence[TensorSpec], bindings: Sequence[Binding]) -> tuple[TensorSpec, ...]:
    """The tensors as the file would have them: its own names, order and layout."""
    known = {spec.name: spec for spec in specs}
    found = []
    for binding in bindings or [Binding(spec.name, spec.name) for spec in specs]:
        if binding.name not in known:
            raise errors.BadInput(f"artifact.json binds {binding.name!r}, which no tensor is.")
        spec = known[binding.name]
        order = binding.permute or range(len(spec.shape))
        shape = tuple(spec.shape[axis] for axis in order)
        found.append(TensorSpec(binding.tensor, shape, binding.dtype or spec.dtype))
    return tuple(found)
