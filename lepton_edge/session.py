"""`Session`: an open artefact. A runtime implements two methods, `_invoke` and `_release`.

`_invoke` works on positional arrays in the file's own order and layout; names, dtypes, shapes and
layout are checked and mapped here, once for all runtimes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, final

import numpy as np

from lepton_edge import errors
from lepton_edge.artifact import Artifact, Binding
from lepton_edge.model import Array, Feeds, Signature, TensorSpec


class Session(ABC):
    """Runs one artefact. `facts` says what is really used: provider, precision, threads, ...

    `signature` is the artefact's where it has one, else the file's own. `file_inputs` and
    `file_outputs` are the runtime's own tensor names, in the order that `_invoke` uses.
    """

    def __init__(
        self,
        artifact: Artifact,
        *,
        signature: Signature,
        file_inputs: Sequence[str],
        file_outputs: Sequence[str],
        facts: Mapping[str, Any],
    ) -> None:
        self.artifact = artifact
        self.signature = artifact.signature or signature
        self.facts: dict[str, Any] = dict(facts)
        inputs = artifact.inputs or tuple(
            Binding(spec.name, spec.name) for spec in signature.inputs
        )
        outputs = artifact.outputs or tuple(
            Binding(spec.name, spec.name) for spec in signature.outputs
        )
        self._closed = False
        specs = {spec.name: spec for spec in self.signature.inputs}
        results = {spec.name for spec in self.signature.outputs}
        by_tensor = {binding.tensor: binding for binding in inputs}
        missing = [name for name in file_inputs if name not in by_tensor]
        missing += [b.tensor for b in outputs if b.tensor not in file_outputs]
        missing += [b.name for b in inputs if b.name not in specs]
        missing += [b.name for b in outputs if b.name not in results]
        if missing or len(by_tensor) != len(file_inputs):
            raise errors.BadInput(
                f"{str(artifact.path)!r} has inputs {list(file_inputs)} and outputs"
                f" {list(file_outputs)}; its artifact.json names others."
            )
        ordered = [by_tensor[name] for name in file_inputs]
        for binding, own in zip(ordered, signature.inputs):
            wanted = specs[binding.name]
            # Some files do not tell how many dimensions there are: () then.
            stored = binding.dtype or wanted.dtype
            if stored != own.dtype or (own.shape and len(own.shape) != len(wanted.shape)):
                raise errors.BadInput(
                    f"{str(artifact.path)!r} takes {own}; its artifact.json says {wanted}."
                )
        self._checks = tuple(
            (
                b.name,
                np.dtype(specs[b.name].dtype),
                specs[b.name].shape,
                None if b.plain else b.to_file,
            )
            for b in ordered
        )
        self._single = self._checks[0][0] if len(self._checks) == 1 else None
        self.__outputs = tuple(
            (b.name, list(file_outputs).index(b.tensor), None if b.plain else b.from_file)
            for b in outputs
        )
        self._plain_names = (
            tuple(name for name, _, _ in self.__outputs)
            if [position for _, position, _ in self.__outputs] == list(range(len(file_outputs)))
            and all(binding.plain for binding in outputs)
            else None
        )

    @abstractmethod
    def _invoke(self, arrays: list[Array]) -> Sequence[Array]:
        """The runtime's own call. Outputs must stay valid after the next call."""

    @abstractmethod
    def _release(self) -> None:
        """Lets go of the runtime's objects; called once."""

    @final
    def close(self) -> None:
        """Releases the runtime's objects; a second call does nothing, `run` then is an error."""
        if not self._closed:
            self._closed = True
            self._release()

    @final
    def run(self, feeds: Feeds | Array) -> dict[str, Array]:
        """Named arrays in (or the array itself, where there is one input), named arrays out.

        Raises `UsageError` for a wrong name, dtype or shape, naming what was expected.
        """
        if self._closed:
            raise errors.UsageError("The session is closed.", next="Load the model again.")
        # The first test spares the common case the slow one, which asks an abstract class.
        if type(feeds) is not dict and not isinstance(feeds, Mapping):
            if self._single is None or not isinstance(feeds, np.ndarray):
                raise self._expected(f"got {type(feeds).__name__}")
            feeds = {self._single: feeds}
        if len(feeds) != len(self._checks):
            raise self._expected(f"got {sorted(feeds)}")
        arrays = []
        for name, dtype, shape, convert in self._checks:
            value = feeds.get(name)
            if value is None:
                raise self._expected(f"got {sorted(feeds)}")
            if not isinstance(value, np.ndarray) or value.dtype != dtype:
                raise self._expected(f"{name!r} is {getattr(value, 'dtype', type(value).__name__)}")
            if value.shape != shape and not _fits(value.shape, shape):
                raise self._expected(f"{name!r} has shape {list(value.shape)}")
            arrays.append(value if convert is None else convert(value))
        results = self._invoke(arrays)
        if self._plain_names is not None:
            if len(results) == 1:
                return {self._plain_names[0]: results[0]}
            if len(results) != len(self._plain_names):
                raise ValueError(f"{len(results)} outputs for {list(self._plain_names)}")
            return dict(zip(self._plain_names, results))
        return {
            name: results[position] if convert is None else convert(results[position])
            for name, position, convert in self.__outputs
        }

    @final
    def predict(self, image: Array) -> dict[str, Array]:
        """One raw sample through the artefact's own preprocessing, as a batch of one."""
        if self._single is None or self.artifact.preprocess is None:
            raise errors.UsageError(
                f"{str(self.artifact.path)!r} carries no preprocessing for a single input.",
                next="Use run() with prepared arrays.",
            )
        return self.run({self._single: self.artifact.preprocess(image)[None]})

    def _expected(self, got: str) -> errors.UsageError:
        wanted = ", ".join(map(str, self.signature.inputs))
        return errors.UsageError(f"The inputs do not fit: {got}.", next=f"Expected {wanted}.")

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        want is None or size == want for size, want in zip(shape, wanted)
    )


def batch_of(spec: TensorSpec) -> int | None:
    """The fixed batch size of a tensor; None where any size goes."""
    return spec.shape[0] if spec.shape else None
