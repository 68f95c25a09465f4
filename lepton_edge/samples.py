"""`Samples`: a re-iterable stream of (inputs, label) that never holds more than a batch as floats.

Calibration data and evaluation data are different Samples; `overlap` finds what they share, by
content. `open_samples` reads .npz, .parquet, a folder of class folders, or `file.py:function`.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from lepton_edge import errors
from lepton_edge._samples_feeds import Batch, batch_size, batches, bind, feeds
from lepton_edge._user_code import load_function
from lepton_edge.model import Array
from lepton_edge.preprocess import Preprocess

__all__ = [
    "LABELS",
    "Batch",
    "Dataset",
    "Reader",
    "Sample",
    "Samples",
    "batch_size",
    "batches",
    "bind",
    "feeds",
    "fingerprint",
    "label_name",
    "limit",
    "load_function",
    "open_samples",
    "overlap",
    "refuse_shared",
]

LABELS = ("label", "labels", "y")


@dataclass(frozen=True)
class Sample:
    """`inputs` are model inputs without a batch dimension; `label` is None, an int or an array.

    `name` says where it came from (file, row), for messages; `digest` is the sha256 of the inputs
    before preprocessing.
    """

    inputs: dict[str, Array]
    label: Any
    name: str
    digest: bytes = b""


class Samples(ABC):
    """A data set. Iterating twice gives the same samples in the same order."""

    classes: tuple[str, ...] = ()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __iter__(self) -> Iterator[Sample]: ...

    @abstractmethod
    def content(self) -> Iterator[bytes]:
        """One 32-byte sha256 a sample, over the raw content before preprocessing."""

    @abstractmethod
    def as_dict(self) -> dict[str, Any]:
        """Text that `open_samples` in another process turns into the same data set."""


class Reader(ABC):
    """One form of storage: raw samples in a fixed order, as arrays before preprocessing."""

    names: tuple[str, ...]
    classes: tuple[str, ...]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, chosen: frozenset[int] | None) -> Iterator[Sample]:
        """The samples in order, or those whose index is in `chosen`; streamed."""


@final
class Dataset(Samples):
    """What `open_samples` returns: a reader, then preprocessing and checks on every sample."""

    def __init__(
        self,
        reader: Reader,
        path: str,
        preprocess: Preprocess | None = None,
        limits: Sequence[Sequence[int | None]] = (),
    ) -> None:
        self.path, self.preprocess, self.classes = path, preprocess, reader.classes
        self._reader, self._limits = reader, tuple(map(tuple, limits))
        self._chosen: frozenset[int] | None = None
        if preprocess is not None and len(reader.names) != 1:
            raise errors.UsageError(
                f"Preprocessing takes data with one input, {path!r} has {list(reader.names)}.",
                next="Store the prepared inputs, or yield them from file.py:function.",
            )
        for size, seed in self._limits:
            self._take(size or 0, seed)

    def _take(self, size: int, seed: int | None) -> None:
        """Narrows what is chosen to `size` of it."""
        if size < 1:
            raise errors.UsageError(f"Cannot take {size} samples; take at least one.")
        if size < len(self):
            order = np.array(sorted(self._chosen or range(len(self._reader))))
            if seed is not None:
                order = np.random.default_rng(seed).permutation(order)
            self._chosen = frozenset(order[:size].tolist())

    def __len__(self) -> int:
        return len(self._reader) if self._chosen is None else len(self._chosen)

    def __iter__(self) -> Iterator[Sample]:
        for sample in self._read():
            inputs = sample.inputs
            if self.preprocess is not None:
                inputs = {name: self.preprocess(value) for name, value in inputs.items()}
                _finite(inputs, sample.name, "after preprocessing")
            yield Sample(inputs, sample.label, sample.name, _digest(sample.inputs))

    def limited(self, n: int, seed: int | None) -> Dataset:
        """The same reader, restricted as `limit` says."""
        limits = (*self._limits, (n, seed))
        return Dataset(self._reader, self.path, self.preprocess, limits)

    def content(self) -> Iterator[bytes]:
        return (_digest(sample.inputs) for sample in self._read())

    def as_dict(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "preprocess": self.preprocess.as_dict() if self.preprocess else None,
            "limits": [list(each) for each in self._limits],
        }

    def _read(self) -> Iterator[Sample]:
        for sample in self._reader.read(self._chosen):
            _finite(sample.inputs, sample.name, "")
            if isinstance(sample.label, int):
                highest = len(self.classes) - 1 if self.classes else None
                if sample.label < 0 or (highest is not None and sample.label > highest):
                    raise errors.BadInput(
                        f"{sample.name} has the label {sample.label}, which is outside"
                        f" 0 to {'...' if highest is None else highest}.",
                        next="Labels are class indices that begin at 0.",
                    )
            elif sample.label is not None:
                _finite({"label": sample.label}, sample.name, "")
            yield sample


def open_samples(
    spec: str | Path | Samples | Mapping[str, Any], *, preprocess: Preprocess | None = None
) -> Samples:
    """The data set at `spec`: .npz, .parquet, a folder of class folders, or `file.py:function`.

    - .npz: arrays with one row a sample; the array named label, labels or y is the label, the
      others are the inputs; an array of text named `classes` gives class names. No pickle.
    - .parquet: a column of image bytes (or a struct {bytes, path}), or of numbers, and a label;
      class names from the schema metadata (`classes`, or the Hugging Face features).
    - folder: one sub-folder a class, sorted by name; image files inside.
    - `file.py:function`: a generator of (inputs, label); inputs is an array or a dict of arrays.
      It runs the user's own code, and is called anew for each pass over the data.

    `preprocess` replaces the one that `spec` carries. Raises `BadInput` for damaged, empty or
    missing data and `UsageError` for what is none of these.
    """
    if isinstance(spec, Samples):
        if preprocess is None:
            return spec
        spec = spec.as_dict()
    if isinstance(spec, Mapping):
        given = spec.get("preprocess")
        if preprocess is None and given is not None:
            preprocess = Preprocess.from_dict(given)
        path = str(spec["path"])
        return Dataset(_open(path), path, preprocess, spec.get("limits", ()))
    return Dataset(_open(str(spec)), str(spec), preprocess)


def _open(path: str) -> Reader:
    file, colon, function = path.rpartition(":")
    reader: Reader
    if colon and file.endswith(".py"):
        from lepton_edge._samples_function import FunctionReader

        reader = FunctionReader(Path(file), function)
    elif not Path(path).exists():
        raise errors.BadInput(f"There is no data at {path!r}.")
    elif Path(path).is_dir():
        from lepton_edge._samples_folder import FolderReader

        reader = FolderReader(Path(path))
    elif path.endswith(".npz"):
        from lepton_edge._samples_npz import NpzReader

        reader = NpzReader(Path(path))
    elif path.endswith(".parquet"):
        from lepton_edge._samples_parquet import ParquetReader

        reader = ParquetReader(Path(path))
    else:
        raise errors.UsageError(
            f"{path!r} is not a known form of data.",
            next="Give .npz, .parquet, a folder of class folders, or file.py:function.",
        )
    if len(reader) == 0:
        raise errors.BadInput(f"The data set {path!r} is empty.")
    return reader


def limit(samples: Samples, n: int, *, seed: int | None = 0) -> Samples:
    """`n` of the samples in their order, drawn with `seed`, or the first `n` for None.

    All of them where there are no more than `n`.
    """
    if n >= len(samples):
        return samples
    if isinstance(samples, Dataset):
        return samples.limited(n, seed)
    given = samples.as_dict()
    return open_samples({**given, "limits": [*given.get("limits", ()), [n, seed]]})


def fingerprint(samples: Samples | Iterable[bytes]) -> str:
    """sha256 (hex) over the content of all samples in order, before preprocessing.

    Takes the digests themselves where they are at hand.
    """
    digests = samples.content() if isinstance(samples, Samples) else samples
    return hashlib.sha256(b"".join(digests)).hexdigest()


def overlap(a: Samples, b: Samples) -> list[str]:
    """Names in `a` of the samples whose inputs also occur in `b`, by content."""
    theirs = set(b.content())
    shared = [digest in theirs for digest in a.content()]
    if not any(shared):
        return []
    return [sample.name for sample, hit in zip(a, shared, strict=True) if hit]


def refuse_shared(some: Samples, data: Samples, what: str, *, next: str) -> None:
    """Raises `UsageError` where evaluation `data` hold samples that others do; `what` names those.

    An accuracy on samples that a model has seen is none.
    """
    shared = overlap(some, data)
    if shared:
        raise errors.UsageError(
            f"{what} and evaluation data share {len(shared)} samples, such as {shared[0]}.",
            next=next,
        )


def label_name(names: Iterable[str], where: str) -> str | None:
    """Which of `names` holds the label; None where none does."""
    found = [name for name in names if name in LABELS]
    if len(found) > 1:
        raise errors.BadInput(
            f"{where!r} has several labels: {found}.", next=f"Keep one of {', '.join(LABELS)}."
        )
    return found[0] if found else None


def _digest(inputs: Mapping[str, Array]) -> bytes:
    """Over dtype, shape and bytes; axes of size 1 and the name of an only input do not count.

    So an image is the same one in a folder, in parquet and in an .npz with a channel axis.
    """
    digest = hashlib.sha256()
    for name in sorted(inputs):
        value = inputs[name]
        shape = tuple(size for size in value.shape if size != 1)
        digest.update(f"{name if len(inputs) > 1 else ''}|{value.dtype.name}|{shape}|".encode())
        digest.update(np.ascontiguousarray(value).data)
    return digest.digest()


def _finite(arrays: Mapping[str, Array], name: str, when: str) -> None:
    for key, value in arrays.items():
        if np.asarray(value).dtype.kind == "f" and not np.isfinite(value).all():
            raise errors.BadInput(
                f"{name} has NaN or infinite values in {key!r}{' ' if when else ''}{when}.",
                next="Clean the data; nothing is dropped silently.",
            )
