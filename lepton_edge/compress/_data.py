"""Training data with random access: prepared samples in files that the page cache holds."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from lepton_edge import errors
from lepton_edge.model import Array, Signature
from lepton_edge.samples import Samples, batches

ROWS = 256  # samples prepared at once


class Source(Protocol):
    """Batches of (inputs in the signature's order, labels or None), as numpy arrays or tensors."""

    @property
    def key(self) -> str:
        """Names the content: a checkpoint belongs to it."""

    def steps(self, batch: int) -> int:
        """Batches in an epoch."""

    def epoch(self, number: int, seed: int, batch: int, skip: int) -> Iterator[tuple[Any, Any]]:
        """The batches of that epoch from the `skip`-th on; the same for the same arguments."""


@dataclass(frozen=True)
class Table:
    """Samples as memory-mapped files in a temporary folder: rows are read as they are asked for.

    `labels` is None where the data has none. `key` names the content and its preparation.
    """

    inputs: tuple[Array, ...]
    labels: Array | None
    key: str
    chosen: Array | None = None  # the rows that belong to it, where not all do

    def __len__(self) -> int:
        return len(self.inputs[0]) if self.chosen is None else len(self.chosen)

    def steps(self, batch: int) -> int:
        """A last batch that is smaller is left out: each epoch draws another order."""
        return max(1, len(self) // batch)

    def epoch(self, number: int, seed: int, batch: int, skip: int) -> Iterator[tuple[Any, Any]]:
        order = np.random.default_rng((seed, number)).permutation(len(self))
        for start in range(skip * batch, self.steps(batch) * batch, batch):
            yield self.rows(np.sort(order[start : start + batch]))

    def rows(self, wanted: Array) -> tuple[tuple[Array, ...], Array | None]:
        """The rows of that index, copied."""
        index = wanted if self.chosen is None else self.chosen[wanted]
        inputs = tuple(np.array(each[index]) for each in self.inputs)
        return inputs, None if self.labels is None else self.labels[index]

    def in_order(self, batch: int) -> Iterator[tuple[tuple[Array, ...], Array | None]]:
        """All rows, in batches; the last may be smaller."""
        for begin in range(0, len(self), batch):
            yield self.rows(np.arange(begin, min(begin + batch, len(self))))

    def split(self, share: float, seed: int) -> tuple[Table, Table]:
        """A seeded `share` of the rows as a table of their own, second; the others, first."""
        order = np.random.default_rng((seed, 1 << 20)).permutation(len(self))
        size = max(1, round(share * len(self)))
        if size >= len(self):
            raise errors.UsageError(
                f"Holding out {share:g} of {len(self)} samples leaves none to train on."
            )
        rows = np.arange(len(self)) if self.chosen is None else self.chosen
        key = f"{self.key}:{share}:{seed}"
        return (
            replace(self, key=f"{key}:train", chosen=rows[np.sort(order[size:])]),
            replace(self, key=f"{key}:held out", chosen=rows[np.sort(order[:size])]),
        )


def table(samples: Samples, signature: Signature) -> Table:
    """Reads all samples once, prepared, under the signature's inputs.

    Labels are int64 class indices where all are integers, else float32 arrays of one shape. Raises
    `BadInput` where only some samples have a label.
    """
    free = signature.with_batch(None)
    stores: list[Array] = []
    labels: list[Any] = []
    digest = hashlib.sha256()
    filled = 0
    for batch in batches(samples, free, ROWS):
        values = [batch.feeds[spec.name] for spec in signature.inputs]
        if not stores:
            stores = [_store(value, len(samples)) for value in values]
        for store, value in zip(stores, values, strict=True):
            if store.shape[1:] != value.shape[1:]:
                raise errors.UsageError(
                    f"Samples around {batch.samples[0].name} have another size than those before.",
                    next="Give training samples one size: set resize or crop in the preprocessing.",
                )
            store[filled : filled + len(value)] = value
            digest.update(np.ascontiguousarray(value).data)
        filled += batch.n
        labels += batch.labels
    return Table(tuple(stores), _labels(labels, digest), digest.hexdigest())


def _store(value: Array, rows: int) -> Array:
    """An array in a file without a name: it is gone with the process, however that ends."""
    with tempfile.TemporaryFile(prefix="lepton-edge-") as file:
        return np.memmap(file, value.dtype, "w+", shape=(rows, *value.shape[1:]))


def _labels(labels: list[Any], digest: Any) -> Array | None:
    missing = sum(label is None for label in labels)
    if missing == len(labels):
        return None
    if missing:
        raise errors.BadInput(
            f"{missing} of {len(labels)} training samples have no label.",
            next="Label all of them, or none and distil from a teacher.",
        )
    try:
        found = np.stack([np.asarray(label) for label in labels])
    except ValueError:
        raise errors.BadInput("The training samples' labels differ in shape.") from None
    found = found.astype(np.int64 if found.dtype.kind in "iub" else np.float32)
    digest.update(found.data)
    return found


@dataclass(frozen=True)
class Loader:
    """A torch DataLoader (or another re-iterable) of (inputs, labels) or of inputs alone.

    torch's seed is set at the start of each epoch, so that a shuffling loader repeats its order.
    """

    loader: Any
    key: str = "loader"

    def steps(self, batch: int) -> int:
        return len(self.loader)

    def epoch(self, number: int, seed: int, batch: int, skip: int) -> Iterator[tuple[Any, Any]]:
        import torch

        torch.manual_seed(seed * 1_000_003 + number)
        for index, item in enumerate(self.loader):
            if index < skip:
                continue
            pair = isinstance(item, (tuple, list)) and len(item) == 2
            inputs, labels = item if pair else (item, None)
            yield (tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)), labels


def source(training: Samples | Iterable[Any], signature: Signature) -> Source:
    """What a pass was given to train on, as batches."""
    if isinstance(training, Samples):
        return table(training, signature)
    return Loader(training)
