"""`Model`: a trained model with its signature, and how to load it again elsewhere."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Mapping

import numpy as np
from numpy.typing import NDArray

from lepton_edge import errors
from lepton_edge._parts import parts

Array = NDArray[Any]
Feeds = Mapping[str, Array]


@dataclass(frozen=True)
class TensorSpec:
    """One input or output: `shape` counts the batch first; None is a dimension of any size."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str

    def __str__(self) -> str:
        dims = "x".join("?" if dim is None else str(dim) for dim in self.shape)
        return f"{self.name}: {self.dtype}[{dims}]"

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> TensorSpec:
        return cls(given["name"], tuple(given["shape"]), given["dtype"])

    @classmethod
    def parse(cls, text: str) -> TensorSpec:
        """`name=1x3x224x224:float32`; `?` is a free dimension, the dtype defaults to float32."""
        name, equals, rest = text.partition("=")
        dims, _, dtype = rest.partition(":")
        try:
            shape = tuple(None if dim == "?" else int(dim) for dim in dims.split("x"))
            known = np.dtype(dtype or "float32")
        except (ValueError, TypeError):
            equals = ""
        if not equals or not name or any(dim is not None and dim < 1 for dim in shape):
            raise errors.UsageError(
                f"Cannot read the input {text!r}.",
                next="Write it as name=1x3x224x224:float32.",
            )
        return cls(name, shape, known.name)


@dataclass(frozen=True)
class Signature:
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Signature:
        return cls(
            tuple(TensorSpec.from_dict(spec) for spec in given["inputs"]),
            tuple(TensorSpec.from_dict(spec) for spec in given["outputs"]),
        )

    def with_batch(self, batch: int | None) -> Signature:
        """The same signature for batches of `batch`: of every input, and of every output whose
        first dimension is the inputs'. Others (a loss, a state of layers x batch) have no rows.
        """

        def change(spec: TensorSpec) -> TensorSpec:
            return TensorSpec(spec.name, (batch, *spec.shape[1:]), spec.dtype)

        now = {spec.shape[0] for spec in self.inputs if spec.shape}
        return Signature(
            tuple(change(spec) if spec.shape else spec for spec in self.inputs),
            tuple(
                change(spec) if spec.shape and spec.shape[0] in now else spec
                for spec in self.outputs
            ),
        )


@dataclass(frozen=True)
class ModelSource:
    """How to load a model: it crosses process borders, so it holds text only.

    `path` is a file, a SavedModel folder, or `file.py:factory`; `weights` belongs to a factory.
    `inputs` is needed where the file does not carry its own signature.
    """

    path: str
    weights: str | None = None
    inputs: tuple[TensorSpec, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> ModelSource:
        inputs = tuple(TensorSpec.from_dict(spec) for spec in given.get("inputs", ()))
        return cls(given["path"], given.get("weights"), inputs)

    @property
    def file(self) -> Path:
        """The file or folder itself, without the name of a factory."""
        path, colon, _ = self.path.rpartition(":")
        return Path(path if colon and path.endswith(".py") else self.path)

    @property
    def stem(self) -> str:
        _, colon, factory = self.path.rpartition(":")
        if colon and self.file.suffix == ".py":
            return Path(self.weights).stem if self.weights else factory
        return self.file.stem

    def sha256(self) -> str:
        """Over the model's files, their external data and the weights of a factory.

        Raises `BadInput` where one is missing.
        """
        digest = hashlib.sha256()
        weights = [Path(self.weights)] if self.weights else []
        for path in (self.file, *parts(self.file), *weights):
            for part in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if part.is_file():
                    digest.update(bytes.fromhex(file_sha256(part)))
                elif not part.exists():
                    raise errors.BadInput(f"There is no file {str(part)!r}.")
        return digest.hexdigest()


@dataclass(frozen=True)
class Model:
    """A loaded model, with the framework in this process.

    `native` is the framework's own object (an `nn.Module`, an `ExportedProgram`, a Keras model,
    a path ...), for the converter that knows it. `run` is the reference: named arrays in, named
    arrays out. `example(batch)` gives inputs that the model accepts, seeded.
    """

    framework: str
    source: ModelSource
    signature: Signature
    native: Any = field(repr=False)
    run: Callable[[Feeds], dict[str, Array]] = field(repr=False)
    example: Callable[[int], dict[str, Array]] = field(repr=False)


def file_sha256(path: Path) -> str:
    """The file's sha256 in hex; raises `BadInput` where it cannot be read."""
    try:
        with path.open("rb") as file:
            return (
                hashlib.file_digest(file, "sha256").hexdigest()
                if hasattr(hashlib, "file_digest")
                else _digest_chunks(file)
            )
    except OSError as error:
        raise errors.BadInput(f"Cannot read {str(path)!r}: {error.strerror}.") from None


def _digest_chunks(file: Any) -> str:  # Python 3.10 has no hashlib.file_digest
    digest = hashlib.sha256()
    for chunk in iter(lambda: file.read(1 << 20), b""):
        digest.update(chunk)
    return digest.hexdigest()


def random_feeds(inputs: tuple[TensorSpec, ...], batch: int, seed: int = 0) -> dict[str, Array]:
    """Seeded inputs of the signature's shapes: normal floats, zeros and ones for integers.

    For shapes and smoke checks only: it says nothing about accuracy on real data.
    """
    rng = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    for spec in inputs:
        shape = (batch, *(dim or 1 for dim in spec.shape[1:]))
        dtype = np.dtype(spec.dtype)
        if dtype.kind == "f":
            feeds[spec.name] = rng.standard_normal(shape).astype(dtype)
        else:
            feeds[spec.name] = rng.integers(0, 2, shape).astype(dtype)
    return feeds
