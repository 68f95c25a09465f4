"""Samples to batches under the model's input names, with every sample checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_edge import errors
from lepton_edge.model import Array, Signature, TensorSpec

if TYPE_CHECKING:
    from lepton_edge.samples import Sample, Samples


@dataclass(frozen=True)
class Batch:
    """`feeds` under the model's names; the first `n` rows are samples, the rest is padding."""

    feeds: dict[str, Array]
    samples: tuple[Sample, ...]

    @property
    def n(self) -> int:
        return len(self.samples)

    @property
    def labels(self) -> list[Any]:
        return [sample.label for sample in self.samples]


def bind(names: Sequence[str], signature: Signature) -> dict[str, str]:
    """Name in the model -> name in the data.

    Where both have exactly one input, the names need not match; else they must be the same set,
    or `UsageError` names what was expected.
    """
    wanted = [spec.name for spec in signature.inputs]
    if len(names) == len(wanted) == 1:
        return {wanted[0]: names[0]}
    if set(names) != set(wanted):
        raise errors.UsageError(
            f"The data has inputs {sorted(names)}; the model takes {sorted(wanted)}.",
            next="Name the data's arrays as the model's inputs.",
        )
    return {name: name for name in wanted}


def batch_size(signature: Signature, most: int = 32) -> int:
    """The batch that the signature fixes, else `most`."""
    fixed = [spec.shape[0] for spec in signature.inputs if spec.shape]
    return next((size for size in fixed if size is not None), most)


def batches(samples: Samples, signature: Signature, batch: int) -> Iterator[Batch]:
    """Batches of `batch` samples; the last is smaller.

    Where the signature fixes the batch size it must be `batch`, and the last batch is padded with
    its own last sample. Floats and integers are cast within their kind (float64 to float32, int64
    to int32 where the values fit); another kind or shape is a `UsageError` naming the sample.
    """
    fixed = {spec.shape[0] for spec in signature.inputs if spec.shape} - {None}
    if fixed and fixed != {batch}:
        raise errors.UsageError(
            f"The model takes batches of {sorted(map(str, fixed))}, not of {batch}.",
            next=f"Use a batch of {min(size for size in fixed if size)}.",
        )
    names: dict[str, str] | None = None
    pending: list[Sample] = []
    rows: dict[str, list[Array]] = {spec.name: [] for spec in signature.inputs}
    for sample in samples:
        if names is None or set(names.values()) != set(sample.inputs):
            names = bind(list(sample.inputs), signature)
        for spec in signature.inputs:
            value = _fit(sample.inputs[names[spec.name]], spec, sample.name)
            if rows[spec.name] and rows[spec.name][0].shape != value.shape:
                raise errors.UsageError(
                    f"{sample.name} has the shape {list(value.shape)}, the one before it"
                    f" {list(rows[spec.name][0].shape)}.",
                    next="Give samples one size: set resize or crop in the preprocessing.",
                )
            rows[spec.name].append(value)
        pending.append(sample)
        if len(pending) == batch:
            yield _batch(rows, pending, batch if fixed else None)
            pending, rows = [], {name: [] for name in rows}
    if pending:
        yield _batch(rows, pending, batch if fixed else None)


def feeds(samples: Samples, signature: Signature, batch: int) -> Iterator[dict[str, Array]]:
    """The inputs alone, for calibration: batches as `batches` gives them, padding included."""
    for item in batches(samples, signature, batch):
        yield item.feeds


def _batch(rows: dict[str, list[Array]], samples: list[Sample], size: int | None) -> Batch:
    missing = 0 if size is None else size - len(samples)
    stacked = {name: np.stack([*values, *values[-1:] * missing]) for name, values in rows.items()}
    return Batch(stacked, tuple(samples))


def _fit(value: Array, spec: TensorSpec, name: str) -> Array:
    wanted, dims = np.dtype(spec.dtype), spec.shape[1:]
    fits = len(dims) == value.ndim and all(
        dim is None or dim == size for dim, size in zip(dims, value.shape, strict=True)
    )
    kinds = {"b": "b", "i": "i", "u": "i", "f": "f"}
    same_kind = kinds.get(value.dtype.kind) == kinds.get(wanted.kind, wanted.kind) or (
        value.dtype.kind == "b" and wanted.kind in "iu"
    )
    if not fits or not same_kind:
        raise errors.UsageError(
            f"{name} is {value.dtype}{list(value.shape)}, the model takes {spec} (batch first).",
            next="Set layout, resize, scale or dtype in the preprocessing.",
        )
    if value.dtype == wanted:
        return value
    cast: Array = value.astype(wanted)
    if wanted.kind in "iu" and not np.array_equal(cast, value):
        raise errors.UsageError(f"{name} has values that do not fit into {wanted}.")
    return cast
